//! Linear layers: `output[n, o] = Σ_k input[n, k]·weight[o, k]` on (N,1,1,K) and (O,1,1,K), and their gradients.
//! The three are closed under differentiation. A bias is [`super::add::Add`].

use crate::Result;
use crate::device::cpu::{Ctx, GemmShape, Matrix, Place, Tile, TileSink, View, gemm, gemm_scratch_len};
use crate::device::cuda::{
    Args, CudaCall, Factor, KernelLaunch, Layout, LibraryCall, LibraryOp, Product as CudaProduct,
};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, LibraryKernel, OnnxNode, Op, Rounding, Tape,
    Tensor64, TiledCall, Value,
};
use crate::types::{Precision, Shape};

/// A product of matrices with the extents of its operands' roles.
trait Product: Op {
    /// Rows, columns and inner extent.
    fn sizes(&self, inputs: &[Shape]) -> GemmShape;
    /// The factors.
    fn factors<'a>(&self, inputs: &[View<'a>]) -> (Matrix<'a>, Matrix<'a>);
    /// The same on a CUDA device.
    fn cuda_factors(&self) -> [CudaFactor; 2];
}

/// Where a CUDA kernel finds a factor.
struct CudaFactor {
    operand: usize,
    /// Whether the inner index runs along the operand's channels, or along its images.
    inner_is_channel: bool,
}

impl CudaFactor {
    fn new(operand: usize, inner_is_channel: bool) -> CudaFactor {
        CudaFactor { operand, inner_is_channel }
    }
}

/// How a CUDA device cuts a product.
struct Tiling {
    /// Rows of a block's tile.
    rows: usize,
    /// Tiles along columns and rows, chunks of the inner extent.
    grid: [usize; 3],
    /// Inner extent of a chunk.
    chunk: usize,
}

impl Tiling {
    /// Columns of a block's tile, as kernels/linear.cu has it.
    const COLUMNS: usize = 64;
    /// Blocks that fill a large GPU.
    const BLOCKS: usize = 1024;
    /// What one chunk is worth, in inner elements; a multiple of the kernel's tile.
    const LEAST_CHUNK: usize = 128;

    fn new(sizes: &GemmShape) -> Tiling {
        let rows = if sizes.m <= 16 { 16 } else { 64 };
        let tiles = [sizes.n.div_ceil(Tiling::COLUMNS), sizes.m.div_ceil(rows)];
        let chunks = Tiling::BLOCKS / (tiles[0] * tiles[1]).clamp(1, Tiling::BLOCKS);
        let chunk = sizes.k.div_ceil(chunks).next_multiple_of(Tiling::LEAST_CHUNK);
        Tiling { rows, grid: [tiles[0], tiles[1], sizes.k.div_ceil(chunk).max(1)], chunk }
    }
}

/// Rows of a product are images of the output.
struct RowsAreImages<'a>(&'a dyn TileSink);

impl TileSink for RowsAreImages<'_> {
    unsafe fn store(&self, mut tile: Tile) {
        let rows = tile.place();
        for i in 0..rows.pixels {
            let place = Place { n: rows.x0 + i, y: 0, x0: 0, pixels: 1, ..rows };
            // SAFETY: the row's own place; rows are disjoint as the tiles of the product are.
            unsafe { self.0.store(tile.pixel_at(i, place)) };
        }
    }
}

fn is_matrix(s: Shape) -> bool {
    s.h() == 1 && s.w() == 1
}

impl<P: Product> CpuKernel for P {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        gemm_scratch_len(&self.sizes(inputs), threads)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (call, sink) = call.into_tiles();
        self.run_into(ctx, call, &sink);
    }
    fn run_into(&self, ctx: &Ctx, call: TiledCall, sink: &dyn TileSink) {
        let shapes: Vec<Shape> = call.inputs.iter().map(View::shape).collect();
        let (a, b) = self.factors(call.inputs);
        gemm(ctx, &self.sizes(&shapes), a, b, &RowsAreImages(sink), call.scratch);
    }
}

impl<P: Product> CudaKernel for P {
    /// The products of the chunks.
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        let sizes = self.sizes(inputs);
        let chunks = Tiling::new(&sizes).grid[2];
        if chunks == 1 { 0 } else { chunks * sizes.m * sizes.n }
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let shapes: Vec<Shape> = call.inputs.iter().map(|v| v.shape).collect();
        let sizes = self.sizes(&shapes);
        let tiling = Tiling::new(&sizes);
        let [lhs, rhs] = self.cuda_factors();
        let extents = |args: Args| args.size("rows", sizes.m).size("columns", sizes.n);
        let product = extents(Args::new())
            .input("lhs", call.inputs[lhs.operand])
            .input("rhs", call.inputs[rhs.operand])
            .size("inner", sizes.k)
            .size("chunk", tiling.chunk)
            .fixed("TILE_ROWS", tiling.rows)
            .fixed("LHS_INNER_IS_CHANNEL", usize::from(lhs.inner_is_channel))
            .fixed("RHS_INNER_IS_CHANNEL", usize::from(rhs.inner_is_channel));
        let vector = call.finish.vector();
        let finish = |args: Args| args.finish(&call.finish).fixed("V", vector);
        let chunks = tiling.grid[2];
        if chunks == 1 {
            return vec![KernelLaunch::new("linear", "matrix_product", 1, finish(product)).with_grid(tiling.grid)];
        }
        let products = |args: Args| args.pointer("products", "float", call.scratch);
        let sum = finish(products(extents(Args::new()).size("chunks", chunks)));
        vec![
            KernelLaunch::new("linear", "matrix_product_chunk", 1, products(product)).with_grid(tiling.grid),
            KernelLaunch::over("linear", "matrix_product_sum", sizes.m * sizes.n / vector, sum),
        ]
    }
}

impl<P: Product> LibraryKernel for P {
    fn call(&self, call: &CudaCall) -> Option<LibraryCall> {
        let shapes: Vec<Shape> = call.inputs.iter().map(|v| v.shape).collect();
        let (sizes, [lhs, rhs]) = (self.sizes(&shapes), self.cuda_factors());
        let view = |factor: &CudaFactor| &call.inputs[factor.operand];
        if view(&lhs).element != view(&rhs).element {
            return None;
        }
        let factor = |f: &CudaFactor| Factor { layout: Layout::of(view(f)), inner_in_row: f.inner_is_channel };
        let product = CudaProduct {
            rows: sizes.m,
            columns: sizes.n,
            inner: sizes.k,
            lhs: factor(&lhs),
            rhs: factor(&rhs),
            output: Layout::of(&call.output),
            precision: Precision::F32,
        };
        let operands = [view(&lhs).ptr, view(&rhs).ptr, call.output.ptr];
        Some(LibraryCall { op: LibraryOp::Product(product), operands })
    }
}

/// Operands input (N,1,1,K) and weight (O,1,1,K); output (N,1,1,O).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !inputs.iter().all(|s| is_matrix(*s)) || inputs[0].c() != inputs[1].c() {
            return Err(format!("weight {} does not fit input {}", inputs[1], inputs[0]));
        }
        Ok(Shape([inputs[0].n(), 1, 1, inputs[1].n()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, weight] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(LinearInputGrad, &[d_output, weight])?) } else { None },
            if at.needs[1] { Some(tape.push(LinearWeightGrad, &[input, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let k = inputs[0].shape.c();
        Tensor64::from_fn(output, |[n, _, _, o]| {
            (0..k).map(|i| inputs[0].at([n, 0, 0, i]) * inputs[1].at([o, 0, 0, i])).sum()
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_epilogue().with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        (inputs[0].n() * inputs[1].len()) as u64
    }
    /// A convolution 1×1: a matrix (O,1,1,K) of the tape is a kernel [O, K, 1, 1] there.
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("Conv", 2).ints("kernel_shape", &[1, 1])])
    }
}

impl Product for Linear {
    fn sizes(&self, inputs: &[Shape]) -> GemmShape {
        GemmShape { m: inputs[0].n(), n: inputs[1].n(), k: inputs[0].c() }
    }
    fn factors<'a>(&self, inputs: &[View<'a>]) -> (Matrix<'a>, Matrix<'a>) {
        (Matrix::pixels(inputs[0]), Matrix::pixels(inputs[1]).transposed())
    }
    fn cuda_factors(&self) -> [CudaFactor; 2] {
        [CudaFactor::new(0, true), CudaFactor::new(1, true)]
    }
}

/// Operands d_output (N,1,1,O) and weight (O,1,1,K); output (N,1,1,K).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearInputGrad;

impl Op for LinearInputGrad {
    fn name(&self) -> &'static str {
        "linear_input_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !inputs.iter().all(|s| is_matrix(*s)) || inputs[0].c() != inputs[1].n() {
            return Err(format!("weight {} does not fit d_output {}", inputs[1], inputs[0]));
        }
        Ok(Shape([inputs[0].n(), 1, 1, inputs[1].c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d_out, weight] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(Linear, &[d_output, weight])?) } else { None },
            if at.needs[1] { Some(tape.push(LinearWeightGrad, &[d_output, d_out])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let outs = inputs[1].shape.n();
        Tensor64::from_fn(output, |[n, _, _, k]| {
            (0..outs).map(|o| inputs[0].at([n, 0, 0, o]) * inputs[1].at([o, 0, 0, k])).sum()
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_epilogue().with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        (inputs[0].n() * inputs[1].len()) as u64
    }
}

impl Product for LinearInputGrad {
    fn sizes(&self, inputs: &[Shape]) -> GemmShape {
        GemmShape { m: inputs[0].n(), n: inputs[1].c(), k: inputs[1].n() }
    }
    fn factors<'a>(&self, inputs: &[View<'a>]) -> (Matrix<'a>, Matrix<'a>) {
        (Matrix::pixels(inputs[0]), Matrix::pixels(inputs[1]))
    }
    fn cuda_factors(&self) -> [CudaFactor; 2] {
        [CudaFactor::new(0, true), CudaFactor::new(1, false)]
    }
}

/// Operands input (N,1,1,K) and d_output (N,1,1,O); output (O,1,1,K).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearWeightGrad;

impl Op for LinearWeightGrad {
    fn name(&self) -> &'static str {
        "linear_weight_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !inputs.iter().all(|s| is_matrix(*s)) || inputs[0].n() != inputs[1].n() {
            return Err(format!("d_output {} does not fit input {}", inputs[1], inputs[0]));
        }
        Ok(Shape([inputs[1].c(), 1, 1, inputs[0].c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, d_out] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(LinearInputGrad, &[d_out, d_output])?) } else { None },
            if at.needs[1] { Some(tape.push(Linear, &[input, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let images = inputs[0].shape.n();
        Tensor64::from_fn(output, |[o, _, _, k]| {
            (0..images).map(|n| inputs[1].at([n, 0, 0, o]) * inputs[0].at([n, 0, 0, k])).sum()
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_epilogue().with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        (inputs[0].n() * output.len()) as u64
    }
}

impl Product for LinearWeightGrad {
    fn sizes(&self, inputs: &[Shape]) -> GemmShape {
        GemmShape { m: inputs[1].c(), n: inputs[0].c(), k: inputs[0].n() }
    }
    fn factors<'a>(&self, inputs: &[View<'a>]) -> (Matrix<'a>, Matrix<'a>) {
        (Matrix::pixels(inputs[1]).transposed(), Matrix::pixels(inputs[0]))
    }
    fn cuda_factors(&self) -> [CudaFactor; 2] {
        [CudaFactor::new(1, false), CudaFactor::new(0, false)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let mut cases = Vec::new();
    for (n, k, o) in [(2, 7, 5), (3, 40, 1), (9, 33, 70)] {
        let (x, w, y) = ([n, 1, 1, k], [o, 1, 1, k], [n, 1, 1, o]);
        cases.push(Case::new(Linear, &[x, w]));
        cases.push(Case::new(LinearInputGrad, &[y, w]));
        cases.push(Case::new(LinearWeightGrad, &[x, y]));
    }
    // Several tiles and chunks of a CUDA device; no small number of elements has them.
    for (n, k, o) in [(3, 900, 68), (20, 70, 300), (300, 66, 36)] {
        let (x, w, y) = ([n, 1, 1, k], [o, 1, 1, k], [n, 1, 1, o]);
        cases.push(Case::new(Linear, &[x, w]).without_gradient());
        cases.push(Case::new(LinearInputGrad, &[y, w]).without_gradient());
        cases.push(Case::new(LinearWeightGrad, &[x, y]).without_gradient());
    }
    cases
}
