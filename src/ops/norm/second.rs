//! The gradient of the input gradient for x.

use super::{CHUNK, check_parts, chunks, group_pixels, row, under};
use crate::device::cpu::{Isa, Tile};
use crate::device::cuda::{Part, PointwiseCode};
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, Op, Operands, Pointwise, Rounding, Tape, Tensor64, Value,
    same_shape,
};
use crate::types::Shape;
use crate::{Error, Result, simd_fn};

/// The gradient of ⟨u, d_x(x, d)⟩ for x, where d_x is [`InputGrad`](super::InputGrad) and m a mean over the group:
/// `gamma·invstd²·[−x̂·(m(u·d) − m(u)·m(d) − 3·m(u·x̂)·m(d·x̂)) − (u − m(u))·m(d·x̂) − (d − m(d))·m(u·x̂)]`.
///
/// Operands u, d, x, its statistics, the sums of u, the sums of d, Σ u·d and, with affine parameters, gamma.
/// Training never differentiates it again, so it has no derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SecondGrad;

impl Op for SecondGrad {
    fn name(&self) -> &'static str {
        "norm_second_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let x = same_shape(inputs[0], inputs[1])?;
        same_shape(x, inputs[2])?;
        for (k, parts) in [(3, 3), (4, 2), (5, 2), (6, 1)] {
            check_parts(x, inputs[k], parts)?;
        }
        inputs[7..].iter().try_for_each(|s| check_parts(x, *s, 1))?;
        Ok(x)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        let message = "third derivatives of a normalisation are not available".into();
        Err(Error::Shape { node: tape.node(at.output).path.to_string(), op: self.name(), message })
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let c = output.c();
        let count = group_pixels(output, inputs[3].shape.n()) as f64;
        Tensor64::from_fn(output, |at| {
            let of = |k: usize, i: usize| inputs[k].at([at[0], 0, 0, i * c + at[3]]);
            let mean = |k: usize, i: usize| of(k, i) / count;
            let (u, d, inv) = (inputs[0].at(at), inputs[1].at(at), of(3, 1));
            let normal = (inputs[2].at(at) - of(3, 0)) * inv;
            let bend = mean(6, 0) - mean(4, 0) * mean(5, 0) - 3.0 * mean(4, 1) * mean(5, 1);
            let sum = -normal * bend - (u - mean(4, 0)) * mean(5, 1) - (d - mean(5, 0)) * mean(4, 1);
            inputs.get(7).map_or(1.0, |_| of(7, 0)) * inv * inv * sum
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for SecondGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        second_grad(isa, tile, operands);
    }
}

impl CudaPointwise for SecondGrad {
    fn code(&self, operands: &[Shape]) -> PointwiseCode {
        let c = operands[0].c();
        let affine = operands.len() > 7;
        let at = |operand, channel| Part { operand, channel };
        let gamma = if affine { at(7, 0) } else { at(3, 0) };
        let tensors = [at(0, 0), at(1, 0), at(2, 0), at(3, 0), at(3, c)];
        let sums = [at(4, 0), at(4, c), at(5, 0), at(5, c), at(6, 0), gamma];
        let per_pixel = 1.0 / group_pixels(operands[0], operands[3].n()) as f32;
        PointwiseCode {
            function: "norm_second_grad",
            parts: tensors.into_iter().chain(sums).collect(),
            factors: vec![per_pixel, f32::from(u8::from(affine))],
        }
    }
}

simd_fn! {
    fn second_grad(tile: &mut Tile, operands: &Operands) {
        let (d, x) = (&operands[1], &operands[2]);
        let (place, c) = (tile.place(), x.c());
        let per_pixel = 1.0 / group_pixels(x.shape(), operands[3].n()) as f32;
        let vector = |k: usize| row(&operands[k], place.n);
        let (stats, u_sums, d_sums, product) = (vector(3), vector(4), vector(5), vector(6));
        let gamma = operands.get(7).map(|gamma| row(gamma, place.n));
        chunks(place, |first, len| {
            let c0 = place.c0 + first;
            let (mut by_x, mut by_u, mut by_d) = ([0f32; CHUNK], [0f32; CHUNK], [0f32; CHUNK]);
            let (mut mean, mut shift) = ([0f32; CHUNK], [0f32; CHUNK]);
            for l in 0..len {
                let k = c0 + l;
                let inv = stats[c + k];
                let factor = inv * inv * gamma.map_or(1.0, |g| g[k]);
                let (u1, u2) = (u_sums[k] * per_pixel, u_sums[c + k] * per_pixel);
                let (d1, d2) = (d_sums[k] * per_pixel, d_sums[c + k] * per_pixel);
                mean[l] = stats[k];
                by_x[l] = factor * inv * (product[k] * per_pixel - u1 * d1 - 3.0 * u2 * d2);
                (by_u[l], by_d[l]) = (factor * d2, factor * u2);
                shift[l] = factor * (u1 * d2 + d1 * u2);
            }
            for p in 0..place.pixels {
                let u = &mut tile.pixel_mut(p)[first..first + len];
                let [d, x] = [d, x].map(|v| under(v, &place, p, c0..c0 + len));
                for l in 0..len {
                    u[l] = shift[l] - by_x[l] * (x[l] - mean[l]) - by_u[l] * u[l] - by_d[l] * d[l];
                }
            }
        });
    }
}
