//! Linear layers: `output[n,o] = Σ_k input[n,k]·weight[o,k]` for input (N,1,1,K) and weight (O,1,1,K), and the
//! two gradients. The three are closed under differentiation. A bias is an [`Add`](super::add::Add).

use super::{Application, Exec, Kernel, KernelCall, Op};
use crate::Result;
use crate::device::cpu::{Ctx, GemmShape, Matrix, StoreTo, Tile, TileSink, View, gemm, gemm_scratch_len};
use crate::tape::{Shape, Tape, Tensor64, Value};

/// The layer: operands input and weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear;

/// The gradient with respect to the input: operands d_output and weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearInputGrad;

/// The gradient with respect to the weight: operands input and d_output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearWeightGrad;

/// A matrix product C(m,n) = A(m,k) B(k,n) whose rows are the output's images.
struct Product {
    shape: GemmShape,
    a: Matrix,
    b: Matrix,
}

impl Product {
    fn run(&self, ctx: &Ctx, scratch: &mut [f32], sink: &dyn TileSink) {
        // SAFETY: the matrices are the operands of this step, which the plan keeps in memory.
        unsafe { gemm(ctx, &self.shape, self.a, self.b, &RowsAreImages(sink), scratch) };
    }
}

/// Rows of a matrix are images of one pixel to what comes after.
struct RowsAreImages<'a>(&'a dyn TileSink);

impl TileSink for RowsAreImages<'_> {
    fn store(&self, tile: &Tile) {
        for i in 0..tile.pixels {
            let data = tile.data.wrapping_add(i * tile.row_stride);
            self.0.store(&Tile { data, n: tile.x0 + i, y: 0, x0: 0, pixels: 1, ..*tile });
        }
    }
}

/// The rows of a view as a matrix.
fn matrix(view: &View) -> Matrix {
    Matrix { ptr: view.ptr, row_stride: view.stride, col_stride: 1 }
}

/// (rows, columns) of a tensor without height and width.
fn extent(shape: Shape) -> Result<(usize, usize), String> {
    match shape.0 {
        [rows, 1, 1, columns] => Ok((rows, columns)),
        _ => Err(format!("{shape} is not a matrix (N,1,1,C)")),
    }
}

fn differ(a: Shape, b: Shape) -> String {
    format!("{a} and {b} do not fit each other")
}

/// Σ over `k` of `f(row, column, k)` for each element of a matrix.
fn reference(output: Shape, inner: usize, f: impl Fn(usize, usize, usize) -> f64) -> Tensor64 {
    Tensor64::from_fn(output, |[row, _, _, column]| (0..inner).map(|k| f(row, column, k)).sum())
}

/// What the three kernels have in common: the product decides all.
macro_rules! product_kernel {
    ($op:ty) => {
        impl Kernel for $op {
            fn scratch(&self, inputs: &[Shape], output: Shape, threads: usize) -> usize {
                gemm_scratch_len(&self.sizes(inputs[0], inputs[1], output), threads)
            }
            fn run(&self, ctx: &Ctx, call: KernelCall) {
                let sink = StoreTo(call.output);
                self.run_into(ctx, call, &sink);
            }
            fn hosts_epilogue(&self) -> bool {
                true
            }
            fn run_into(&self, ctx: &Ctx, call: KernelCall, sink: &dyn TileSink) {
                let [x, y] = [call.inputs[0], call.inputs[1]];
                let shape = self.sizes(x.shape(), y.shape(), call.output.shape());
                let (a, b) = self.factors(matrix(&x), matrix(&y));
                Product { shape, a, b }.run(ctx, call.scratch, sink);
            }
        }
    };
}

product_kernel!(Linear);
product_kernel!(LinearInputGrad);
product_kernel!(LinearWeightGrad);

impl Linear {
    fn sizes(&self, input: Shape, _weight: Shape, output: Shape) -> GemmShape {
        GemmShape { m: input.n(), n: output.c(), k: input.c() }
    }
    fn factors(&self, input: Matrix, weight: Matrix) -> (Matrix, Matrix) {
        (input, weight.transposed())
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ((batch, k), (out, inner)) = (extent(inputs[0])?, extent(inputs[1])?);
        if k == inner { Ok(Shape([batch, 1, 1, out])) } else { Err(differ(inputs[0], inputs[1])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, weight] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(LinearInputGrad, &[d_output, weight])?) } else { None },
            if at.needs[1] { Some(tape.push(LinearWeightGrad, &[input, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (x, w, inner) = (inputs[0], inputs[1], inputs[0].shape.c());
        reference(output, inner, |n, o, k| x.data[n * inner + k] * w.data[o * inner + k])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        (inputs[0].n() * inputs[1].len()) as u64
    }
}

impl LinearInputGrad {
    fn sizes(&self, d_output: Shape, weight: Shape, _output: Shape) -> GemmShape {
        GemmShape { m: d_output.n(), n: weight.c(), k: d_output.c() }
    }
    fn factors(&self, d_output: Matrix, weight: Matrix) -> (Matrix, Matrix) {
        (d_output, weight)
    }
}

impl Op for LinearInputGrad {
    fn name(&self) -> &'static str {
        "linear_input_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ((batch, o), (out, k)) = (extent(inputs[0])?, extent(inputs[1])?);
        if o == out { Ok(Shape([batch, 1, 1, k])) } else { Err(differ(inputs[0], inputs[1])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d_out, weight] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(Linear, &[d_output, weight])?) } else { None },
            if at.needs[1] { Some(tape.push(LinearWeightGrad, &[d_output, d_out])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (d, w, out) = (inputs[0], inputs[1], inputs[0].shape.c());
        reference(output, out, |n, k, o| d.data[n * out + o] * w.data[o * output.c() + k])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        (inputs[0].n() * inputs[1].len()) as u64
    }
}

impl LinearWeightGrad {
    fn sizes(&self, input: Shape, d_output: Shape, _output: Shape) -> GemmShape {
        GemmShape { m: d_output.c(), n: input.c(), k: input.n() }
    }
    fn factors(&self, input: Matrix, d_output: Matrix) -> (Matrix, Matrix) {
        (d_output.transposed(), input)
    }
}

impl Op for LinearWeightGrad {
    fn name(&self) -> &'static str {
        "linear_weight_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ((batch, k), (n, out)) = (extent(inputs[0])?, extent(inputs[1])?);
        if batch == n { Ok(Shape([out, 1, 1, k])) } else { Err(differ(inputs[0], inputs[1])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, d_out] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(LinearInputGrad, &[d_out, d_output])?) } else { None },
            if at.needs[1] { Some(tape.push(Linear, &[input, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (x, d) = (inputs[0], inputs[1]);
        let (batch, inner, out) = (x.shape.n(), x.shape.c(), output.n());
        reference(output, batch, |o, k, n| d.data[n * out + o] * x.data[n * inner + k])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        (inputs[0].n() * output.len()) as u64
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(Linear, &[[3, 1, 1, 7], [5, 1, 1, 7]]),
        Case::new(Linear, &[[2, 1, 1, 70], [1, 1, 1, 70]]),
        Case::new(LinearInputGrad, &[[3, 1, 1, 5], [5, 1, 1, 7]]),
        Case::new(LinearWeightGrad, &[[3, 1, 1, 7], [3, 1, 1, 5]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Cpu;
    use crate::device::{Device, bytes_of};
    use crate::ops::{add::Add, mul::Mul};
    use crate::plan::{Plan, PlanOptions, Program};
    use crate::tape::DType;

    #[test]
    fn extents_that_do_not_fit_are_refused() {
        let vector = |n, c| Shape([n, 1, 1, c]);
        assert!(Linear.shape(&[vector(2, 3), vector(4, 5)]).unwrap_err().contains("4x1x1x5"));
        assert!(Linear.shape(&[Shape([2, 2, 1, 3]), vector(4, 3)]).unwrap_err().contains("not a matrix"));
        assert!(LinearInputGrad.shape(&[vector(2, 3), vector(4, 3)]).is_err());
        assert!(LinearWeightGrad.shape(&[vector(2, 3), vector(4, 3)]).is_err());
    }

    /// An operand with a value per image has to meet the rows of the product.
    #[test]
    fn an_epilogue_sees_rows_as_images() {
        let mut tape = Tape::new();
        let input = |tape: &mut Tape, name: &str, n, c| tape.input(name, Shape([n, 1, 1, c]), DType::F32);
        let (x, w) = (input(&mut tape, "x", 3, 2), input(&mut tape, "w", 2, 2));
        let (bias, factor) = (input(&mut tape, "bias", 1, 2), input(&mut tape, "factor", 3, 1));
        let y = tape.push(Linear, &[x, w]).unwrap();
        let y = tape.push(Add::SUM, &[y, bias]).unwrap();
        let y = tape.push(Mul, &[y, factor]).unwrap();
        let outputs = vec![("y".into(), y)];
        let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
        let plan = Plan::compile(&program, PlanOptions { fuse: true, share: true, threads: 2 }).unwrap();
        assert_eq!(plan.steps.iter().map(|s| s.label()).collect::<Vec<_>>(), ["linear+add+mul"]);
        let mut cpu = Cpu::new(2).unwrap();
        let id = cpu.load(plan).unwrap();
        let given: [(&str, &[f32]); 4] = [
            ("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("w", &[1.0, 0.0, 1.0, 1.0]),
            ("bias", &[0.5, -0.5]),
            ("factor", &[1.0, 10.0, 100.0]),
        ];
        for (name, data) in given {
            cpu.upload(id, name, bytes_of(data)).unwrap();
        }
        assert_eq!(cpu.run(id).unwrap().outputs[0], [1.5, 2.5, 35.0, 65.0, 550.0, 1050.0]);
    }
}
