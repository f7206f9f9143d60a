//! Spectral normalisation (Miyato et al., "Spectral normalization for generative adversarial networks", 2018)
//! as `torch.nn.utils.spectral_norm` does it: the weight, seen as a matrix W of output channels × the rest, is
//! divided by σ = uᵀWv; u and v follow W by one power iteration per training forward and count as constants.

use super::linear::{Linear, LinearInputGrad};
use super::mul::Mul;
use super::slice::SliceFlat;
use crate::device::cpu::{Ctx, Isa, Tile};
use crate::device::cuda::{Args, CudaCall, KernelLaunch, PointwiseCode};
use crate::graph::{
    Application, CpuKernel, CpuPointwise, CudaKernel, CudaPointwise, Exec, Kernel, KernelCall, Op, Operands, Pointwise,
    Tape, Tensor64, Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// Vectors are divided by at least this length.
const EPS: f64 = 1e-12;

/// The normalised weight, and the new (u, v) in training mode.
pub type Normalised = (Value, Option<(Value, Value)>);

/// Writes W/σ for `weight` (O,kh,kw,I) with `u` (1,1,1,O) and `v` (1,1,1,kh·kw·I). In training mode the vectors
/// take one power iteration first and are given back; in evaluation mode they are used as they are.
///
/// # Errors
/// Fails if the vectors do not fit the weight.
pub fn spectral_norm(tape: &mut Tape, weight: Value, u: Value, v: Value, train: bool) -> Result<Normalised> {
    let shape = tape.shape(weight);
    let matrix = Shape([shape.n(), 1, 1, shape.h() * shape.w() * shape.c()]);
    let flat = tape.push(SliceFlat::reshape(matrix), &[weight])?;
    let (u, v) = if train {
        let v = tape.push(LinearInputGrad, &[u, flat])?;
        let v = tape.push(Normalize, &[v])?;
        let u = tape.push(Linear, &[v, flat])?;
        (tape.push(Normalize, &[u])?, v)
    } else {
        (u, v)
    };
    let sigma = tape.push(Sigma, &[flat, u, v])?;
    let inverse = tape.push(Reciprocal, &[sigma])?;
    let normalised = tape.push(Mul, &[weight, inverse])?;
    Ok((normalised, train.then_some((u, v))))
}

/// `output = a / max(‖a‖, 1e-12)` for a vector. Used on constants only, so it has no derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Normalize;

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        // Power iterations count as constants: the gradient ends here.
        Ok(vec![None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let norm = inputs[0].data.iter().map(|v| v * v).sum::<f64>().sqrt().max(EPS);
        Tensor64::new(output, inputs[0].data.iter().map(|v| v / norm).collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for Normalize {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let (a, out) = (call.inputs[0].dense(), call.output.dense_mut());
        let norm = a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(EPS);
        out.iter_mut().zip(a).for_each(|(o, v)| *o = (f64::from(*v) / norm) as f32);
    }
}

impl CudaKernel for Normalize {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new().input("x", call.inputs[0]).output("output", call.output).double("eps", EPS);
        vec![KernelLaunch::new("spectral_norm", "normalize", 1, args)]
    }
}

/// `σ = Σ_ij u_i W_ij v_j`; operands W (O,1,1,K), u, v. Differentiable in W alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sigma;

fn bilinear(w: impl Fn(usize, usize) -> f64, u: &[f64], v: &[f64]) -> f64 {
    u.iter().enumerate().map(|(i, u)| u * v.iter().enumerate().map(|(j, v)| w(i, j) * v).sum::<f64>()).sum()
}

impl Op for Sigma {
    fn name(&self) -> &'static str {
        "sigma"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [w, u, v] = [inputs[0], inputs[1], inputs[2]];
        if u != Shape::vector(w.n()) || v != Shape::vector(w.c()) || w.len() != w.n() * w.c() {
            return Err(format!("vectors {u} and {v} do not fit the matrix {w}"));
        }
        Ok(Shape::SCALAR)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        if at.needs[0] {
            return Ok(vec![Some(tape.push(Outer, &[at.inputs[1], at.inputs[2], d_output])?), None, None]);
        }
        Ok(vec![None; 3])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let w = |i, j| inputs[0].at([i, 0, 0, j]);
        Tensor64::new(output, vec![bilinear(w, &inputs[1].data, &inputs[2].data)])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for Sigma {
    /// One number per row.
    fn scratch(&self, inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        inputs[0].n()
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let [w, u, v] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let (u, v, products) = (u.dense(), v.dense(), &mut call.scratch[..w.n()]);
        ctx.pool.run_parts(products, 1, &|i, product| product[0] = dot(ctx.isa, w.pixel(i), v));
        let sum = products.iter().zip(u).map(|(wv, u)| f64::from(*wv) * f64::from(*u)).sum::<f64>();
        call.output.pixel_mut(0)[0] = sum as f32;
    }
}

impl CudaKernel for Sigma {
    /// One double per row.
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        2 * inputs[0].n()
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let [w, u, v] = [0, 1, 2].map(|k| call.inputs[k]);
        let rows = w.shape.n();
        let partials = |args: Args| args.pointer("partials", "double", call.scratch);
        let products = partials(Args::new().input("w", w).input("u", u).input("v", v));
        let sum = partials(Args::new().output("output", call.output).size("rows", rows));
        vec![
            KernelLaunch::new("spectral_norm", "sigma_rows", rows, products),
            KernelLaunch::new("spectral_norm", "sigma_sum", 1, sum),
        ]
    }
}

simd_fn! {
    /// ⟨a, b⟩ in blocks of f32 lanes summed in f64.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut total = 0f64;
        for (a, b) in a.chunks(4096).zip(b.chunks(4096)) {
            let mut lanes = [0f32; 32];
            for (a, b) in a.chunks(32).zip(b.chunks(32)) {
                for (l, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                    *l += x * y;
                }
            }
            total += lanes.iter().map(|l| f64::from(*l)).sum::<f64>();
        }
        total as f32
    }
}

/// `output[i, j] = s·u_i·v_j`, (O,1,1,K) from u, v and the scalar s. Differentiable in s alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outer;

impl Op for Outer {
    fn name(&self) -> &'static str {
        "outer"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape([inputs[0].c(), 1, 1, inputs[1].c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let d_scalar = tape.push(Sigma, &[d_output, at.inputs[0], at.inputs[1]])?;
        Ok(vec![None, None, Some(d_scalar)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let s = inputs[2].data[0];
        Tensor64::from_fn(output, |[i, _, _, j]| s * inputs[0].data[i] * inputs[1].data[j])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for Outer {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let output = call.output;
        let [u, v, s] = [0, 1, 2].map(|k| call.inputs[k].dense());
        ctx.pool.run(output.n(), &|i, _| {
            let factor = s[0] * u[i];
            // SAFETY: each item owns one row of the output.
            unsafe { output.pixel(i) }.iter_mut().zip(v).for_each(|(o, v)| *o = factor * v);
        });
    }
}

impl CudaKernel for Outer {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let [u, v, s] = [0, 1, 2].map(|k| call.inputs[k]);
        let args = Args::new().input("u", u).input("v", v).input("s", s).output("output", call.output);
        vec![KernelLaunch::over("spectral_norm", "outer", call.output.shape.len(), args)]
    }
}

/// `output = 1/a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reciprocal;

impl Op for Reciprocal {
    fn name(&self) -> &'static str {
        "reciprocal"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let square = tape.push(Mul, &[at.output, at.output])?;
        let product = tape.push(Mul, &[d_output, square])?;
        Ok(vec![Some(tape.push(super::mul::Scale::by(-1.0), &[product])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, inputs[0].data.iter().map(|v| 1.0 / v).collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
}

impl CpuPointwise for Reciprocal {
    fn apply(&self, isa: Isa, tile: &mut Tile, _operands: &Operands) {
        reciprocal(isa, tile);
    }
}

impl CudaPointwise for Reciprocal {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("reciprocal", 1)
    }
}

simd_fn! {
    fn reciprocal(tile: &mut Tile) {
        super::pointwise::map(tile, |v| 1.0 / v);
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(Normalize, &[[1, 1, 1, 9]]).without_gradient(),
        Case::new(Normalize, &[[1, 1, 1, 1000]]).without_gradient(),
        Case::new(Sigma, &[[5, 1, 1, 70], [1, 1, 1, 5], [1, 1, 1, 70]]).contiguous(&[1, 2]).without_gradient(),
        Case::new(Sigma, &[[300, 1, 1, 260], [1, 1, 1, 300], [1, 1, 1, 260]]).contiguous(&[1, 2]).without_gradient(),
        Case::new(Outer, &[[1, 1, 1, 5], [1, 1, 1, 7], [1, 1, 1, 1]]).contiguous(&[0, 1, 2]).without_gradient(),
        Case::new(Reciprocal, &[[1, 2, 3, 4]]),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::Error;
    use crate::ops::sum_to::sum_product_to;
    use crate::rng::{Rng, Stream};
    use crate::types::DType;

    /// The whole of it in evaluation mode, where u and v are constants, against central differences.
    #[test]
    fn the_weight_gradient_goes_through_sigma() -> Result<()> {
        let mut tape = Tape::new();
        let mut rng = Rng::new(4, Stream::Noise, 0, 0);
        let mut given = HashMap::new();
        for (name, shape) in [("w", [3, 2, 2, 2]), ("u", [1, 1, 1, 3]), ("v", [1, 1, 1, 8]), ("c", [3, 2, 2, 2])] {
            given.insert(name.to_owned(), Tensor64::from_fn(Shape(shape), |_| f64::from(rng.normal())));
        }
        let mut input = |name: &str| tape.input(name, given[name].shape, DType::F32);
        let (w, u, v, c) = (input("w"), input("u"), input("v"), input("c"));
        let (y, none) = spectral_norm(&mut tape, w, u, v, false)?;
        assert!(none.is_none());
        let objective = sum_product_to(&mut tape, y, c, Shape::SCALAR)?;
        let grad = tape.gradients(&[(y, c)], &[w])?[0].ok_or_else(|| Error::Internal("no gradient".into()))?;
        let got = tape.evaluate_f64(&given)?[grad.index()].data.clone();
        for (i, got) in got.into_iter().enumerate() {
            let at = |h: f64| -> Result<f64> {
                let mut moved = given.clone();
                moved.entry("w".into()).and_modify(|t| t.data[i] += h);
                Ok(tape.evaluate_f64(&moved)?[objective.index()].data[0])
            };
            let want = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{i}: {got} {want}");
        }
        Ok(())
    }
}
