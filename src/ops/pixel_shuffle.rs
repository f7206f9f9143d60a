//! Sub-pixel rearrangement (Shi et al., "Real-time single image and video super-resolution using an efficient
//! sub-pixel convolutional neural network", 2016): `output[n, y·r + i, x·r + j, c] = input[n, y, x, c·r² + i·r + j]`,
//! the channel order of PyTorch, and its inverse.

use super::{Application, Exec, Kernel, KernelCall, Op};
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::tape::{Shape, Tape, Tensor64, Value};
use crate::{Result, simd_fn};

/// (N, H, W, C·r²) to (N, H·r, W·r, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelShuffle {
    /// r.
    pub factor: usize,
}

impl Op for PixelShuffle {
    fn name(&self) -> &'static str {
        "pixel_shuffle"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([n, h, w, c], r) = (inputs[0].0, self.factor);
        if r == 0 || c % (r * r) != 0 {
            return Err(format!("{c} channels cannot be shuffled by {r}"));
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
        Exec::Kernel(self)
    }
}

impl Kernel for PixelShuffle {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output, r) = (call.inputs[0], call.output, self.factor);
        ctx.pool.run(output.n * output.h, &|row, _| shuffle_row(ctx.isa, &input, &output, row, r));
    }
}

/// (N, H·r, W·r, C) to (N, H, W, C·r²): the inverse, which is also the adjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            return Err(format!("{h}x{w} is not a multiple of {r}"));
        }
        Ok(Shape([n, h / r, w / r, c * r * r]))
    }
    fn vjp(&self, tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(PixelShuffle { factor: self.factor }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let r = self.factor;
        Tensor64::from_fn(output, |[n, y, x, k]| {
            let (c, i, j) = (k / (r * r), k / r % r, k % r);
            inputs[0].at([n, y * r + i, x * r + j, c])
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Kernel for PixelUnshuffle {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output, r) = (call.inputs[0], call.output, self.factor);
        ctx.pool.run(output.n * output.h, &|row, _| unshuffle_row(ctx.isa, &input, &output, row, r));
    }
}

simd_fn! {
    /// Row `row` of the large image, counted over images.
    fn shuffle_row(input: &View, output: &ViewMut, row: usize, r: usize) {
        let from = row / output.h * input.h + row % output.h / r;
        let i = row % output.h % r;
        for x in 0..output.w {
            // SAFETY: both pixels exist; rows of the output are disjoint between items.
            let (source, target) = unsafe { (input.pixel(from * input.w + x / r), output.pixel(row * output.w + x)) };
            let first = i * r + x % r;
            for (c, v) in target.iter_mut().enumerate() {
                *v = source[c * r * r + first];
            }
        }
    }
}
simd_fn! {
    /// Row `row` of the small image, counted over images.
    fn unshuffle_row(input: &View, output: &ViewMut, row: usize, r: usize) {
        let from = row / output.h * input.h + row % output.h * r;
        for x in 0..output.w {
            // SAFETY: the pixel exists; rows of the output are disjoint between items.
            let target = unsafe { output.pixel(row * output.w + x) };
            for i in 0..r {
                for j in 0..r {
                    // SAFETY: row `from + i` and column `x·r + j` lie inside the large image.
                    let source = unsafe { input.pixel((from + i) * input.w + x * r + j) };
                    for (c, v) in source.iter().enumerate() {
                        target[c * r * r + i * r + j] = *v;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(PixelShuffle { factor: 2 }, &[[2, 3, 4, 12]]),
        Case::new(PixelShuffle { factor: 3 }, &[[1, 2, 1, 9]]),
        Case::new(PixelUnshuffle { factor: 2 }, &[[2, 6, 4, 3]]),
    ]
}
