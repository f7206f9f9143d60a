//! Sums of channels in f32 in every precision, `output_k = Σ_c matrix[k, c]·input_c`, or of the transposed matrix: the
//! choice of bands for a network that takes others than an image has. A convolution of 1×1 would round the image.

use super::flat::no_derivative;
use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::types::Shape;

/// (N,H,W,C) and a matrix (K,1,1,C) to (N,H,W,K); `transposed`, (N,H,W,K) and the same matrix to (N,H,W,C). The matrix is
/// never trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixChannels {
    /// Whether the matrix's rows are the operand's channels.
    pub transposed: bool,
}

impl MixChannels {
    /// Where in the matrix, of `columns` columns, the factor of channel `from` in channel `to` is.
    fn place(&self, from: usize, to: usize, columns: usize) -> usize {
        if self.transposed { from * columns + to } else { to * columns + from }
    }
}

impl Op for MixChannels {
    fn name(&self) -> &'static str {
        "mix_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([n, h, w, c], [rows, .., columns]) = (inputs[0].0, inputs[1].0);
        let (from, to) = if self.transposed { (rows, columns) } else { (columns, rows) };
        if inputs[1].h() * inputs[1].w() != 1 || from != c {
            return Err(format!("the matrix {} takes {from} channels, found {c}", inputs[1]));
        }
        Ok(Shape([n, h, w, to]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        if at.needs[1] {
            return Err(no_derivative(tape, at, "mix_channels by its matrix"));
        }
        let back = MixChannels { transposed: !self.transposed };
        Ok(vec![Some(tape.push(back, &[d_output, at.inputs[1]])?), None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (x, matrix) = (inputs[0], inputs[1]);
        Tensor64::from_fn(output, |[n, i, j, to]| {
            let term = |from| matrix.data[self.place(from, to, matrix.shape.c())] * x.at([n, i, j, from]);
            (0..x.shape.c()).map(term).sum()
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for MixChannels {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, matrix, output) = (call.inputs[0], call.inputs[1], call.output);
        let factor = |from, to| match self.transposed {
            true => matrix.pixel(from)[to],
            false => matrix.pixel(to)[from],
        };
        ctx.pool.run(output.n() * output.h(), &|row, _| {
            for p in row * output.w()..(row + 1) * output.w() {
                // SAFETY: rows of the output are disjoint between items.
                let (from, to) = (x.pixel(p), unsafe { output.pixel(p) });
                for (k, value) in to.iter_mut().enumerate() {
                    *value = from.iter().enumerate().map(|(c, v)| factor(c, k) * v).sum();
                }
            }
        });
    }
}

impl CudaKernel for MixChannels {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new()
            .input("x", call.inputs[0])
            .input("matrix", call.inputs[1])
            .output("to", call.output)
            .fixed("TRANSPOSED", usize::from(self.transposed));
        vec![KernelLaunch::over("mix_channels", "mix_channels", call.output.shape.len(), args)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    // The rule by the matrix is an error, so that by the image is checked in a test of its own.
    let case = |transposed, x, matrix| Case::new(MixChannels { transposed }, &[x, matrix]).without_gradient();
    vec![
        case(false, [2, 5, 7, 4], [3, 1, 1, 4]),
        case(false, [1, 3, 1, 1], [3, 1, 1, 1]),
        case(true, [2, 4, 6, 3], [3, 1, 1, 13]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::random;
    use crate::types::DType;

    /// ⟨M x, d⟩ = ⟨x, Mᵀ d⟩.
    #[test]
    fn the_gradient_is_the_transposed_matrix_times_that_of_the_output() {
        for transposed in [false, true] {
            let (from, to) = if transposed { (3, 5) } else { (5, 3) };
            let mut tape = Tape::new();
            let x = tape.input("x", Shape([1, 2, 2, from]), DType::F32);
            let matrix = tape.input("matrix", Shape([3, 1, 1, 5]), DType::F32);
            let d = tape.input("d", Shape([1, 2, 2, to]), DType::F32);
            let y = tape.push(MixChannels { transposed }, &[x, matrix]).unwrap();
            let grad = tape.gradients(&[(y, d)], &[x]).unwrap()[0].unwrap();
            let given = [("x", x, 1), ("matrix", matrix, 2), ("d", d, 3)];
            let given = given.map(|(name, v, seed)| (name.to_owned(), random(tape.shape(v), seed)));
            let values = tape.evaluate_f64(&given.into()).unwrap();
            let product = |a: Value, b: Value| -> f64 {
                let (a, b) = (tape.value_of(&values, a), tape.value_of(&values, b));
                a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum()
            };
            let (want, got) = (product(y, d), product(x, grad));
            assert!(want.abs() > 0.01 && (got - want).abs() < 1e-12, "{got}, not {want}");
            tape.gradients(&[(y, d)], &[matrix]).unwrap_err();
        }
    }
}
