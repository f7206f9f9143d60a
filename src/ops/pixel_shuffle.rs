//! Channels to pixels and back (Shi et al., "Real-time single image and video super-resolution", CVPR 2016):
//! `output[n, y·r + dy, x·r + dx, c] = input[n, y, x, c·r² + dy·r + dx]`, the order of PyTorch. Each of the two
//! ops is the other's derivative.

use crate::device::cpu::{Ctx, Place, Tile, TileSink};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, InPlace, Kernel, KernelCall, OnnxNode, Op, Reach, Rounding, Tape,
    Tensor64, TiledCall, Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// (N,H,W,C·r²) to (N,H·r,W·r,C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelShuffle {
    /// r.
    pub factor: usize,
}

/// Pixels of a small image in a large one: dy·r + dx-th pixel of a square is at `ptr + dy·row + dx·pixel` floats.
#[derive(Clone, Copy)]
struct Squares {
    ptr: *mut f32,
    row: usize,
    pixel: usize,
    factor: usize,
}

impl Squares {
    /// The start of pixel `k` of the square.
    #[inline(always)]
    fn at(&self, k: usize) -> *mut f32 {
        self.ptr.wrapping_add(k / self.factor * self.row + k % self.factor * self.pixel)
    }
}

impl Op for PixelShuffle {
    fn name(&self) -> &'static str {
        "pixel_shuffle"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([n, h, w, c], r) = (inputs[0].0, self.factor);
        if r == 0 || c % (r * r) != 0 {
            return Err(format!("{c} channels cannot become {r}x{r} pixels"));
        }
        Ok(Shape([n, h * r, w * r, c / (r * r)]))
    }
    fn vjp(&self, tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(PixelUnshuffle { factor: self.factor }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let r = self.factor;
        Tensor64::from_fn(output, |[n, y, x, c]| inputs[0].at([n, y / r, x / r, c * r * r + y % r * r + x % r]))
    }
    fn exec(&self) -> Exec<'_> {
        let shuffle_factor = (self.factor > 1).then_some(self.factor);
        Exec::Kernel(Kernel { shuffle_factor, ..Kernel::of(self).with_epilogue() })
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn reach(&self, _operand: usize, _inputs: &[Shape], _output: Shape) -> Reach {
        Reach::Pixels { before: 0, after: 0, stride: 1, upscale: self.factor }
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("DepthToSpace", 1).int("blocksize", self.factor).text("mode", "CRD")])
    }
}

/// Floats of a row that is moved as a whole, which allows it to stay where it is: a row of the small image and its rows
/// of the large one are the same range of memory. Longer ones go in parts, to stay in cache.
const WHOLE_ROW: usize = 1 << 15;
/// Floats of a part.
const PART: usize = 1 << 12;

/// Squares are addressed by these extents: (N,H,W,C·r²) of the small image and (N,H·r,W·r,C) of the large one.
fn check(r: usize, small: Shape, large: Shape) {
    let [n, h, w, c] = large.0;
    assert_eq!(small.0, [n, h / r, w / r, c * r * r], "{large} by squares of {r}x{r}");
    assert!(h.is_multiple_of(r) && w.is_multiple_of(r), "{large} by squares of {r}x{r}");
}

/// Whether rows of the small image, (N,H,W,C·r²), are moved as wholes.
fn is_whole(small: Shape) -> bool {
    small.w() * small.c() <= WHOLE_ROW
}

impl PixelShuffle {
    /// Input pixels of a tile.
    fn tile_pixels(&self, input: Shape) -> usize {
        if is_whole(input) { input.w() } else { (PART / input.c()).clamp(1, input.w()) }
    }
}

impl CpuKernel for PixelShuffle {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        threads * self.tile_pixels(inputs[0]) * inputs[0].c()
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, r) = (call.inputs[0], self.factor);
        if x.at(0, 0, 0) == call.output.at(0, 0, 0).cast_const() {
            let (call, sink) = call.into_tiles();
            return self.run_into(ctx, call, &sink);
        }
        let out = call.output;
        check(r, x.shape(), out.shape());
        ctx.pool.run(x.n() * x.h(), &|line, _| {
            for p in 0..x.w() {
                let ptr = out.at(line / x.h(), line % x.h() * r, p * r);
                let to = Squares { ptr, row: out.w() * out.stride(), pixel: out.stride(), factor: r };
                // SAFETY: the pixel's square lies inside the output and belongs to this item.
                unsafe { scatter(ctx.isa, x.pixel(line * x.w() + p), to) };
            }
        });
    }
    fn works_in_place(&self, inputs: &[Shape], _output: Shape) -> Option<InPlace> {
        // SAFETY: an item moves a row of the input to its scratch memory, and from there to the same place.
        is_whole(inputs[0]).then(|| unsafe { InPlace::declared() })
    }
    fn run_into(&self, ctx: &Ctx, call: TiledCall, sink: &dyn TileSink) {
        let (x, r) = (call.inputs[0], self.factor);
        check(r, x.shape(), call.output);
        let pixels = self.tile_pixels(x.shape());
        let (in_row, channels) = (x.w().div_ceil(pixels), x.c() / (r * r));
        ctx.pool.run_with_scratch(x.n() * x.h() * in_row, call.scratch, pixels * x.c(), &|item, own| {
            let (line, x0) = (item / in_row, item % in_row * pixels);
            let count = pixels.min(x.w() - x0);
            let row = count * r * channels;
            let own = &mut own[..r * row];
            for p in 0..count {
                let ptr = own[p * r * channels..].as_mut_ptr();
                // SAFETY: the squares lie inside this worker's scratch memory.
                unsafe {
                    let to = Squares { ptr, row, pixel: channels, factor: r };
                    scatter(ctx.isa, x.pixel(line * x.w() + x0 + p), to);
                }
            }
            for dy in 0..r {
                let (n, y) = (line / x.h(), line % x.h() * r + dy);
                let place = Place { n, y, x0: x0 * r, pixels: count * r, c0: 0, channels };
                // SAFETY: items have different parts of the input's rows, which become different pixels.
                unsafe { sink.store(Tile::new(&mut own[dy * row..][..row], place)) };
            }
        });
    }
}

impl CudaKernel for PixelShuffle {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let x = call.inputs[0];
        let args = square_args(self.factor, x).input("x", x).finish(&call.finish);
        vec![KernelLaunch::over("pixel_shuffle", "pixel_shuffle", x.shape.len() / self.factor.pow(2), args)]
    }
}

/// r, and how many pixels of a square are moved at once in `deep`, the tensor of C·r² channels.
fn square_args(factor: usize, deep: DeviceView) -> Args {
    let vectors = factor.is_multiple_of(2) && deep.has_vectors();
    Args::new().size("factor", factor).fixed("V", if vectors { 4 } else { 1 })
}

/// (N,H·r,W·r,C) to (N,H,W,C·r²).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelUnshuffle {
    /// r.
    pub factor: usize,
}

impl Op for PixelUnshuffle {
    fn name(&self) -> &'static str {
        "pixel_unshuffle"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([n, h, w, c], r) = (inputs[0].0, self.factor);
        if r == 0 || h % r != 0 || w % r != 0 {
            return Err(format!("{h}x{w} pixels cannot be cut into squares of {r}x{r}"));
        }
        Ok(Shape([n, h / r, w / r, c * r * r]))
    }
    fn vjp(&self, tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(PixelShuffle { factor: self.factor }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let r = self.factor;
        Tensor64::from_fn(output, |[n, y, x, c]| {
            let k = c % (r * r);
            inputs[0].at([n, y * r + k / r, x * r + k % r, c / (r * r)])
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for PixelUnshuffle {
    fn scratch(&self, _inputs: &[Shape], output: Shape, threads: usize) -> usize {
        if is_whole(output) { threads * output.w() * output.c() } else { 0 }
    }
    fn works_in_place(&self, _inputs: &[Shape], output: Shape) -> Option<InPlace> {
        // SAFETY: an item copies the rows of the input that lie where its row of the output does.
        is_whole(output).then(|| unsafe { InPlace::declared() })
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, out, r) = (call.inputs[0], call.output, self.factor);
        check(r, out.shape(), x.shape());
        let in_place = x.at(0, 0, 0) == out.at(0, 0, 0).cast_const();
        let copied = if in_place { out.w() * out.c() } else { 0 };
        ctx.pool.run_with_scratch(out.n() * out.h(), call.scratch, copied, &|line, copy| {
            let mut first = x.at(line / out.h(), line % out.h() * r, 0).cast_mut();
            if in_place {
                copy.copy_from_slice(x.run(line * r * x.w(), r * x.w()));
                first = copy.as_mut_ptr();
            }
            for p in 0..out.w() {
                let ptr = first.wrapping_add(p * r * x.stride());
                let from = Squares { ptr, row: x.w() * x.stride(), pixel: x.stride(), factor: r };
                // SAFETY: the pixel's square lies inside the input or its copy; the pixel belongs to this item.
                unsafe { gather(ctx.isa, from, out.pixel(line * out.w() + p)) };
            }
        });
    }
}

impl CudaKernel for PixelUnshuffle {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (x, output) = (call.inputs[0], call.output);
        let args = square_args(self.factor, output).input("x", x).output("output", output);
        vec![KernelLaunch::over("pixel_shuffle", "pixel_unshuffle", output.shape.len() / self.factor.pow(2), args)]
    }
}

/// Channels that are transposed at a time.
const LANES: usize = 16;

simd_fn! {
    /// Channel c·r² + k of a pixel to channel c of pixel k of its square.
    unsafe fn scatter(from: &[f32], to: Squares) {
        match to.factor {
            // SAFETY: the caller's promise.
            2 => unsafe { scatter_blocks::<4>(from, to) },
            // SAFETY: the same.
            3 => unsafe { scatter_blocks::<9>(from, to) },
            // SAFETY: the same.
            r => unsafe { scatter_rest(from, to, r * r, 0) },
        }
    }
}

#[inline(always)]
unsafe fn scatter_blocks<const SQUARE: usize>(from: &[f32], to: Squares) {
    let blocks = from.chunks_exact(SQUARE * LANES);
    let whole = blocks.len() * LANES;
    for (b, block) in blocks.enumerate() {
        let mut lanes = [[0f32; LANES]; SQUARE];
        for c in 0..LANES {
            for k in 0..SQUARE {
                lanes[k][c] = block[c * SQUARE + k];
            }
        }
        for (k, lane) in lanes.iter().enumerate() {
            // SAFETY: pixel `k` of the square has these channels.
            unsafe { std::ptr::copy_nonoverlapping(lane.as_ptr(), to.at(k).add(b * LANES), LANES) };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { scatter_rest(from, to, SQUARE, whole) };
}

#[inline(always)]
unsafe fn scatter_rest(from: &[f32], to: Squares, square: usize, first: usize) {
    for (c, group) in from.chunks_exact(square).enumerate().skip(first) {
        for (k, v) in group.iter().enumerate() {
            // SAFETY: pixel `k` of the square has channel `c`.
            unsafe { *to.at(k).add(c) = *v };
        }
    }
}

simd_fn! {
    /// The inverse of [`scatter`].
    unsafe fn gather(from: Squares, to: &mut [f32]) {
        match from.factor {
            // SAFETY: the caller's promise.
            2 => unsafe { gather_blocks::<4>(from, to) },
            // SAFETY: the same.
            3 => unsafe { gather_blocks::<9>(from, to) },
            // SAFETY: the same.
            r => unsafe { gather_rest(from, to, r * r, 0) },
        }
    }
}

#[inline(always)]
unsafe fn gather_blocks<const SQUARE: usize>(from: Squares, to: &mut [f32]) {
    let blocks = to.chunks_exact_mut(SQUARE * LANES);
    let whole = blocks.len() * LANES;
    for (b, block) in blocks.enumerate() {
        let mut lanes = [[0f32; LANES]; SQUARE];
        for (k, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: pixel `k` of the square has these channels.
            unsafe { std::ptr::copy_nonoverlapping(from.at(k).add(b * LANES), lane.as_mut_ptr(), LANES) };
        }
        for c in 0..LANES {
            for k in 0..SQUARE {
                block[c * SQUARE + k] = lanes[k][c];
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { gather_rest(from, to, SQUARE, whole) };
}

#[inline(always)]
unsafe fn gather_rest(from: Squares, to: &mut [f32], square: usize, first: usize) {
    for (c, group) in to.chunks_exact_mut(square).enumerate().skip(first) {
        for (k, v) in group.iter_mut().enumerate() {
            // SAFETY: pixel `k` of the square has channel `c`.
            *v = unsafe { *from.at(k).add(c) };
        }
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let mut cases = Vec::new();
    for (factor, [n, h, w, c]) in [(2, [2, 3, 4, 5]), (2, [1, 2, 3, 20]), (3, [1, 3, 2, 17]), (4, [1, 2, 2, 2])] {
        cases.push(Case::new(PixelShuffle { factor }, &[[n, h, w, c * factor * factor]]));
        cases.push(Case::new(PixelUnshuffle { factor }, &[[n, h * factor, w * factor, c]]));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::mul::Scale;
    use crate::plan::{Plan, PlanOptions, Program};
    use crate::runtime::{Cpu, CpuTarget, Device};
    use crate::types::DType;

    #[test]
    fn extents_that_do_not_divide_are_refused() {
        let message = |op: &dyn Op, shape| op.shape(&[Shape(shape)]).unwrap_err();
        assert!(message(&PixelShuffle { factor: 2 }, [1, 2, 2, 6]).contains("6 channels"));
        assert!(message(&PixelUnshuffle { factor: 2 }, [1, 2, 3, 6]).contains("2x3 pixels"));
    }

    #[test]
    fn the_order_is_that_of_pytorch_also_with_an_epilogue() {
        for fuse in [false, true] {
            let mut tape = Tape::new();
            let (shape, input) = (Shape([2, 2, 17, 2000]), "x"); // rows that are too long to be moved as wholes
            let x = tape.input(input, shape, DType::F32);
            let y = tape.push(PixelShuffle { factor: 2 }, &[x]).unwrap();
            let y = tape.push(Scale::by(2.0), &[y]).unwrap();
            let outputs = vec![("y".into(), y)];
            let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
            let plan =
                Plan::compile(&program, PlanOptions { fuse, ..PlanOptions::new(&CpuTarget { threads: 2 }) }).unwrap();
            assert_eq!(plan.steps.len(), if fuse { 1 } else { 2 });
            let mut cpu = Cpu::new(2).unwrap();
            let id = cpu.load(plan).unwrap();
            let data: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
            cpu.upload(id, input, bytemuck::cast_slice(&data)).unwrap();
            let got = cpu.run(id).unwrap().outputs.remove(0);
            for (n, y, x, c) in [(0, 0, 0, 0), (0, 1, 0, 3), (0, 2, 9, 7), (1, 3, 5, 499)] {
                let from = ((n * 2 + y / 2) * 17 + x / 2) * 2000 + c * 4 + y % 2 * 2 + x % 2;
                assert_eq!(got[((n * 4 + y) * 34 + x) * 500 + c], 2.0 * from as f32);
            }
        }
    }

    #[test]
    fn pixels_are_moved_within_their_memory_where_it_is_free() {
        let (mut tape, shape) = (Tape::new(), Shape([2, 3, 5, 36]));
        let x = tape.input("x", shape, DType::F32);
        let first = tape.push(Scale::by(0.5), &[x]).unwrap();
        let large = tape.push(PixelShuffle { factor: 3 }, &[first]).unwrap();
        let scaled = tape.push(Scale::by(2.0), &[large]).unwrap();
        let small = tape.push(PixelUnshuffle { factor: 3 }, &[scaled]).unwrap();
        let back = tape.push(PixelShuffle { factor: 3 }, &[small]).unwrap();
        let (outputs, want) = (vec![("y".into(), back)], PixelShuffle { factor: 3 });
        let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
        let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 2 })).unwrap();
        assert!(plan.arena_len - plan.scratch_len < shape.len() + 16, "one buffer");
        let mut cpu = Cpu::new(2).unwrap();
        let id = cpu.load(plan).unwrap();
        let data: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
        cpu.upload(id, "x", bytemuck::cast_slice(&data)).unwrap();
        let got: Vec<f64> = cpu.run(id).unwrap().outputs.remove(0).into_iter().map(f64::from).collect();
        let input = Tensor64::new(shape, data.into_iter().map(f64::from).collect());
        let output = want.shape(&[shape]).unwrap();
        assert_eq!(got, want.reference(&[&input], output).data);
    }
}
