//! Adaptive average pooling as PyTorch's: output (i, j) is the mean of the window of rows
//! `⌊i·H/out_h⌋ .. ⌈(i+1)·H/out_h⌉` and columns likewise; windows may share pixels. 1 × 1 is global pooling. Each
//! of the two ops is the other's derivative.

use std::ops::Range;

use super::{Application, Exec, Kernel, KernelCall, Op};
use crate::device::cpu::{Ctx, StoreTo, Tile, TileSink, View};
use crate::tape::{Shape, Tape, Tensor64, Value};
use crate::{Result, simd_fn};

/// (N,H,W,C) to (N,out_h,out_w,C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvgPool {
    /// Rows of the output.
    pub out_h: usize,
    /// Columns of the output.
    pub out_w: usize,
}

/// Of `full` positions, those that belong to position `i` of `parts`. Seen from the other side,
/// `window(y, parts, full)` are the windows that hold `y`.
fn window(i: usize, full: usize, parts: usize) -> Range<usize> {
    i * full / parts..((i + 1) * full).div_ceil(parts)
}

/// Floats of a window that are summed in f32 before f64 takes over.
const BLOCK: usize = 16_384;

impl AvgPool {
    /// Rows of a window that are summed together, and how many such blocks the highest window has.
    fn blocks(&self, input: Shape) -> (usize, usize) {
        let height = |full: usize, parts: usize| (0..parts).map(|i| window(i, full, parts).len()).max().unwrap_or(0);
        let (high, wide) = (height(input.h(), self.out_h), height(input.w(), self.out_w));
        let rows = (BLOCK / (wide * input.c())).max(1);
        (rows, high.div_ceil(rows))
    }
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if self.out_h * self.out_w == 0 || inputs[0].is_empty() {
            return Err(format!("cannot pool {h}x{w} pixels to {}x{}", self.out_h, self.out_w));
        }
        Ok(Shape([n, self.out_h, self.out_w, c]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [_, in_h, in_w, _] = tape.shape(at.inputs[0]).0;
        Ok(vec![Some(tape.push(AvgPoolGrad { in_h, in_w }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let x = inputs[0];
        Tensor64::from_fn(output, |[n, i, j, c]| {
            let (rows, columns) = (window(i, x.shape.h(), self.out_h), window(j, x.shape.w(), self.out_w));
            let count = (rows.len() * columns.len()) as f64;
            rows.flat_map(|y| columns.clone().map(move |x| (y, x))).map(|(y, k)| x.at([n, y, k, c])).sum::<f64>()
                / count
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Kernel for AvgPool {
    fn scratch(&self, inputs: &[Shape], output: Shape, _threads: usize) -> usize {
        output.len() * self.blocks(inputs[0]).1
    }

    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, out) = (call.inputs[0], call.output);
        let (block_rows, blocks) = self.blocks(x.shape());
        let channels = x.c;
        let place = |pixel: usize| {
            let (i, j) = (pixel / out.w % out.h, pixel % out.w);
            (pixel / (out.w * out.h), window(i, x.h, out.h), window(j, x.w, out.w))
        };
        let partials = call.scratch.as_mut_ptr() as usize;
        ctx.pool.run(out.pixels() * blocks, &|item, _| {
            let (n, rows, columns) = place(item / blocks);
            let start = rows.start + item % blocks * block_rows;
            let rows = start..rows.end.min(start + block_rows);
            // SAFETY: each item owns its own `channels` partial sums.
            let sums = unsafe { std::slice::from_raw_parts_mut((partials as *mut f32).add(item * channels), channels) };
            sum_window(ctx.isa, &x, n, rows, columns, sums);
        });
        let partials = &*call.scratch;
        ctx.pool.run(out.pixels(), &|pixel, _| {
            let (_, rows, columns) = place(pixel);
            let count = (rows.len() * columns.len()) as f64;
            let parts = &partials[pixel * blocks * channels..][..blocks * channels];
            // SAFETY: each item owns one pixel of the output.
            for (c, v) in unsafe { out.pixel(pixel) }.iter_mut().enumerate() {
                let sum: f64 = (0..blocks).map(|b| f64::from(parts[b * channels + c])).sum();
                *v = (sum / count) as f32;
            }
        });
    }
}

simd_fn! {
    /// Σ over some pixels of image `n`; zeros for an empty range.
    fn sum_window(x: &View, n: usize, rows: Range<usize>, columns: Range<usize>, sums: &mut [f32]) {
        sums.fill(0.0);
        for y in rows {
            for p in columns.clone() {
                // SAFETY: the window lies inside the image.
                let pixel = unsafe { x.pixel((n * x.h + y) * x.w + p) };
                sums.iter_mut().zip(pixel).for_each(|(s, v)| *s += v);
            }
        }
    }
}

/// The adjoint of [`AvgPool`]: (N,out_h,out_w,C) to (N,in_h,in_w,C), each window's gradient shared evenly by its
/// pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvgPoolGrad {
    /// Rows of the pooled image.
    pub in_h: usize,
    /// Columns of the pooled image.
    pub in_w: usize,
}

impl AvgPoolGrad {
    /// Pixels of a tile.
    fn tile_pixels(&self, channels: usize) -> usize {
        (2048 / channels).clamp(1, self.in_w)
    }
}

impl Op for AvgPoolGrad {
    fn name(&self) -> &'static str {
        "avg_pool_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, _, _, c] = inputs[0].0;
        Ok(Shape([n, self.in_h, self.in_w, c]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [_, out_h, out_w, _] = tape.shape(at.inputs[0]).0;
        Ok(vec![Some(tape.push(AvgPool { out_h, out_w }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let d = inputs[0];
        let mut out = Tensor64::zeros(output);
        Tensor64::from_fn(d.shape, |[n, i, j, c]| {
            let (rows, columns) = (window(i, output.h(), d.shape.h()), window(j, output.w(), d.shape.w()));
            for (y, x) in rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x))) {
                let at = out.index([n, y, x, c]);
                out.data[at] += d.at([n, i, j, c]) / (rows.len() * columns.len()) as f64;
            }
            0.0
        });
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Kernel for AvgPoolGrad {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        threads * self.tile_pixels(inputs[0].c()) * inputs[0].c()
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let sink = StoreTo(call.output);
        self.run_into(ctx, call, &sink);
    }
    fn hosts_epilogue(&self) -> bool {
        true
    }
    fn run_into(&self, ctx: &Ctx, call: KernelCall, sink: &dyn TileSink) {
        let d = call.inputs[0];
        let pixels = self.tile_pixels(d.c);
        let in_row = self.in_w.div_ceil(pixels);
        let base = call.scratch.as_mut_ptr() as usize;
        ctx.pool.run(d.n * self.in_h * in_row, &|item, worker| {
            let (row, x0) = (item / in_row, item % in_row * pixels);
            let tile = Tile {
                data: (base as *mut f32).wrapping_add(worker * pixels * d.c),
                row_stride: d.c,
                n: row / self.in_h,
                y: row % self.in_h,
                x0,
                pixels: pixels.min(self.in_w - x0),
                c0: 0,
                channels: d.c,
            };
            spread(ctx.isa, &d, self.in_h, self.in_w, &tile);
            sink.store(&tile);
        });
    }
}

simd_fn! {
    /// Fills the tile with the gradients of its pixels.
    fn spread(d: &View, in_h: usize, in_w: usize, tile: &Tile) {
        for p in 0..tile.pixels {
            // SAFETY: the tile is this worker's scratch memory.
            let values = unsafe { tile.pixel(p) };
            values.fill(0.0);
            for i in window(tile.y, d.h, in_h) {
                for j in window(tile.x0 + p, d.w, in_w) {
                    let share = 1.0 / (window(i, in_h, d.h).len() * window(j, in_w, d.w).len()) as f32;
                    // SAFETY: (i, j) is a pixel of the pooled image.
                    let of_window = unsafe { d.pixel((tile.n * d.h + i) * d.w + j) };
                    values.iter_mut().zip(of_window).for_each(|(v, g)| *v += share * g);
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let mut cases = Vec::new();
    for (x, out_h, out_w) in
        [([2, 4, 6, 5], 1, 1), ([2, 4, 6, 3], 2, 3), ([1, 7, 5, 2], 3, 4), ([1, 2, 3, 2], 6, 6), ([2, 5, 40, 90], 1, 1)]
    {
        let [n, in_h, in_w, c] = x;
        cases.push(Case::new(AvgPool { out_h, out_w }, &[x]));
        cases.push(Case::new(AvgPoolGrad { in_h, in_w }, &[[n, out_h, out_w, c]]));
    }
    // Several blocks of rows, and several tiles in a row; too large for differences element by element.
    cases.push(Case::new(AvgPool { out_h: 1, out_w: 1 }, &[[2, 90, 70, 8]]).without_derivative());
    cases.push(Case::new(AvgPoolGrad { in_h: 3, in_w: 70 }, &[[2, 1, 1, 90]]).without_derivative());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_pytorch_and_invert_each_other() {
        assert_eq!((0..3).map(|i| window(i, 7, 3)).collect::<Vec<_>>(), [0..3, 2..5, 4..7]);
        for (full, parts) in [(7, 3), (3, 7), (6, 6), (64, 6), (5, 1)] {
            for y in 0..full {
                let holding: Vec<usize> = (0..parts).filter(|i| window(*i, full, parts).contains(&y)).collect();
                assert_eq!(window(y, parts, full).collect::<Vec<_>>(), holding, "{y} of {full} in {parts}");
            }
        }
    }

    #[test]
    fn nothing_to_pool_is_refused() {
        assert!(AvgPool { out_h: 0, out_w: 1 }.shape(&[Shape([1, 2, 2, 1])]).is_err());
        assert!(AvgPool { out_h: 1, out_w: 1 }.shape(&[Shape([1, 0, 2, 1])]).is_err());
    }
}
