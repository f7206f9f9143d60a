//! Adaptive average pooling as in PyTorch: output cell i of n covers rows ⌊i·h/n⌋ .. ⌈(i+1)·h/n⌉ (they may
//! overlap), each with weight 1/area; columns alike. Global pooling is 1×1. Op and gradient are each other's
//! adjoint.

use std::ops::Range;

use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, OnnxNode, Op, Rounding, Tape, Tensor64, Value,
};
use crate::ops::sum_to::cuda::{Columns, lanes, sum_pixels, vector_of};
use crate::types::Shape;

/// (N, H, W, C) to (N, out_h, out_w, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool {
    /// Output rows.
    pub out_h: usize,
    /// Output columns.
    pub out_w: usize,
}

/// The part of `len` that cell `i` of `cells` covers.
fn window(i: usize, len: usize, cells: usize) -> Range<usize> {
    i * len / cells..((i + 1) * len).div_ceil(cells)
}

/// The cells of `cells` whose windows cover position `at` of `len`.
fn covering(at: usize, len: usize, cells: usize) -> Range<usize> {
    // window(i) starts at or before `at` for i < (at+1)·cells/len rounded up, and ends after it from
    // at·cells/len rounded down on.
    let first = at * cells / len;
    let last = ((at + 1) * cells).div_ceil(len);
    first..last.min(cells)
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[0].is_empty() || self.out_h == 0 || self.out_w == 0 {
            return Err(format!("{} cannot be pooled to {}x{}", inputs[0], self.out_h, self.out_w));
        }
        Ok(Shape([inputs[0].n(), self.out_h, self.out_w, inputs[0].c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [_, height, width, _] = tape.shape(at.inputs[0]).0;
        Ok(vec![Some(tape.push(AvgPoolGrad { height, width }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [_, h, w, _] = inputs[0].shape.0;
        Tensor64::from_fn(output, |[n, i, j, c]| {
            let (rows, columns) = (window(i, h, self.out_h), window(j, w, self.out_w));
            let area = (rows.len() * columns.len()) as f64;
            rows.flat_map(|y| columns.clone().map(move |x| (y, x)))
                .map(|(y, x)| inputs[0].at([n, y, x, c]))
                .sum::<f64>()
                / area
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        self.is_global().then(|| vec![OnnxNode::of("GlobalAveragePool", 1)])
    }
}

impl AvgPool {
    fn is_global(&self) -> bool {
        self.out_h * self.out_w == 1
    }
}

/// Channels that one item of work sums.
const CHANNELS: usize = 64;

impl CpuKernel for AvgPool {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output) = (call.inputs[0], call.output);
        let parts = output.c().div_ceil(CHANNELS);
        ctx.pool.run(output.pixels() * parts, &|item, _| {
            let (pixel, c0) = (item / parts, item % parts * CHANNELS);
            let (n, i, j) = (pixel / output.w() / output.h(), pixel / output.w() % output.h(), pixel % output.w());
            let (rows, columns) = (window(i, input.h(), output.h()), window(j, input.w(), output.w()));
            let area = (rows.len() * columns.len()) as f64;
            let count = CHANNELS.min(output.c() - c0);
            // f32 within a row of the window, f64 over rows.
            let mut sums = [0f64; CHANNELS];
            for y in rows {
                let mut row = [0f32; CHANNELS];
                for x in columns.clone() {
                    let source = input.pixel((n * input.h() + y) * input.w() + x);
                    row.iter_mut().zip(&source[c0..c0 + count]).for_each(|(s, v)| *s += v);
                }
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(v));
            }
            // SAFETY: this item owns these channels of the output pixel.
            let target = unsafe { output.channels(pixel, c0..c0 + count) };
            target.iter_mut().zip(sums).for_each(|(t, s)| *t = (s / area) as f32);
        });
    }
}

impl CudaKernel for AvgPool {
    fn scratch(&self, inputs: &[Shape], output: Shape) -> usize {
        if self.is_global() { Columns::new(inputs[0], output.n()).scratch(1) } else { 0 }
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (x, to) = (call.inputs[0], call.output);
        if self.is_global() {
            return sum_pixels(call, x.shape.h() * x.shape.w());
        }
        let vector = vector_of(&[x]);
        let (lanes, tiles) = lanes(to.shape.c() / vector);
        let args = Args::new().input("x", x).output("to", to).size("lanes", lanes).fixed("V", vector);
        vec![KernelLaunch::new("avg_pool", "avg_pool", 1, args).with_grid([to.shape.pixels(), tiles, 1])]
    }
}

/// (N, h, w, C) to (N, height, width, C): spreads each cell over its window, divided by the window's area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPoolGrad {
    /// Rows of the pooled image.
    pub height: usize,
    /// Columns of the pooled image.
    pub width: usize,
}

impl Op for AvgPoolGrad {
    fn name(&self) -> &'static str {
        "avg_pool_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape([inputs[0].n(), self.height, self.width, inputs[0].c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [_, out_h, out_w, _] = tape.shape(at.inputs[0]).0;
        Ok(vec![Some(tape.push(AvgPool { out_h, out_w }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [n, h, w, c] = inputs[0].shape.0;
        let mut out = Tensor64::zeros(output);
        for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
            let (rows, columns) = (window(i, self.height, h), window(j, self.width, w));
            let area = (rows.len() * columns.len()) as f64;
            for (y, x) in rows.flat_map(|y| columns.clone().map(move |x| (y, x))) {
                for (b, k) in (0..n).flat_map(|b| (0..c).map(move |k| (b, k))) {
                    let at = out.index([b, y, x, k]);
                    out.data[at] += inputs[0].at([b, i, j, k]) / area;
                }
            }
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for AvgPoolGrad {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output) = (call.inputs[0], call.output);
        ctx.pool.run(output.n() * output.h(), &|row, _| {
            let (n, y) = (row / output.h(), row % output.h());
            for x in 0..output.w() {
                // SAFETY: rows of the output are disjoint between items.
                let target = unsafe { output.pixel(row * output.w() + x) };
                target.fill(0.0);
                for i in covering(y, output.h(), input.h()) {
                    for j in covering(x, output.w(), input.w()) {
                        let (rows, columns) = (window(i, output.h(), input.h()), window(j, output.w(), input.w()));
                        let share = 1.0 / (rows.len() * columns.len()) as f32;
                        let source = input.pixel((n * input.h() + i) * input.w() + j);
                        target.iter_mut().zip(source).for_each(|(t, s)| *t += share * s);
                    }
                }
            }
        });
    }
}

impl CudaKernel for AvgPoolGrad {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (d, to) = (call.inputs[0], call.output);
        let vector = vector_of(&[d, to]);
        let args = Args::new().input("d", d).output("to", to).fixed("V", vector);
        vec![KernelLaunch::over("avg_pool", "avg_pool_grad", to.shape.len() / vector, args)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(AvgPool { out_h: 1, out_w: 1 }, &[[2, 5, 7, 3]]),
        Case::new(AvgPool { out_h: 1, out_w: 1 }, &[[1, 3, 2, 70]]),
        Case::new(AvgPool { out_h: 6, out_w: 6 }, &[[2, 8, 7, 3]]),
        Case::new(AvgPool { out_h: 1, out_w: 1 }, &[[2, 40, 41, 8]]).without_gradient(),
        Case::new(AvgPool { out_h: 6, out_w: 6 }, &[[1, 4, 13, 2]]),
        Case::new(AvgPool { out_h: 2, out_w: 1 }, &[[1, 50, 23, 132]]).without_gradient(),
        Case::new(AvgPoolGrad { height: 8, width: 7 }, &[[2, 6, 6, 3]]),
        Case::new(AvgPoolGrad { height: 5, width: 8 }, &[[2, 2, 3, 8]]),
        Case::new(AvgPoolGrad { height: 3, width: 14 }, &[[1, 6, 6, 2]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_is_the_inverse_of_window() {
        for (len, cells) in (1..15).flat_map(|l| (1..9).map(move |c| (l, c))) {
            for at in 0..len {
                let want: Vec<usize> = (0..cells).filter(|i| window(*i, len, cells).contains(&at)).collect();
                assert_eq!(covering(at, len, cells).collect::<Vec<_>>(), want, "{at} of {len}, {cells} cells");
            }
        }
    }
}
