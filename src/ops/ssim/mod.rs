//! Structural similarity (Wang et al., "Image quality assessment: from error visibility to structural
//! similarity", IEEE TIP 2004) as `kornia.metrics.ssim` computes it: values clamped to [0, max_val], means and
//! variances under a Gaussian window (σ = 1.5, borders reflected), then
//!
//! `(2μ₁μ₂ + c₁)(2σ₁₂ + c₂) / ((μ₁² + μ₂² + c₁)(σ₁² + σ₂² + c₂) + 1e-12)`
//!
//! with c₁ = (0.01·max_val)², c₂ = (0.03·max_val)²; the mean over pixels, bands and images. A metric.
//!
//! The code filters s = a + b and d = a − b, of which it needs four moments instead of five:
//! 2μ₁μ₂ = (μₛ² − μ_d²)/2, μ₁² + μ₂² = (μₛ² + μ_d²)/2, and the same for the variances. It goes tile by tile:
//! down the columns, then along the rows, where in NHWC a neighbour is C floats away.

use super::flat::{Partials, no_derivative};
use super::pixel_losses::check_images;
use crate::device::cpu::{Ctx, Isa, View};
use crate::graph::{Application, CpuKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::types::Shape;
use crate::{Result, simd_fn};

pub(super) mod cuda;
#[cfg(test)]
mod tests;

const SIGMA: f64 = 1.5;
const EPS: f64 = 1e-12;
/// Output rows of a tile.
const TILE_ROWS: usize = 16;
/// Floats of a row that are filtered together: their sums stay in the first-level cache.
const RUN: usize = 256;

/// Mean structural similarity of two batches of equal extent, a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ssim {
    /// Taps of the Gaussian window in each direction.
    pub window: usize,
    /// Largest value of an image.
    pub max_val: f32,
}

impl Ssim {
    /// The window's weights in one direction; their sum is 1.
    fn weights(&self) -> Vec<f64> {
        let centre = (self.window as f64 - 1.0) / 2.0;
        let bell = |i: usize| (-(i as f64 - centre).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
        let sum: f64 = (0..self.window).map(bell).sum();
        (0..self.window).map(|i| bell(i) / sum).collect()
    }

    /// Taps before the centre.
    fn before(&self) -> usize {
        (self.window - 1) / 2
    }

    fn constants(&self) -> [f64; 2] {
        [0.01, 0.03].map(|k| (k * f64::from(self.max_val)).powi(2))
    }

    /// Whether the window fits the images: its reflected border must lie inside.
    pub(super) fn check(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let shape = check_images(inputs, self.max_val)?;
        let smallest = self.window / 2 + 1;
        if self.window == 0 || shape.h() < smallest || shape.w() < smallest {
            return Err(format!(
                "a window of {} needs images of at least {smallest} x {smallest} pixels, these are {} x {}; \
                 use larger patches or a smaller Training.Losses.ssim_win",
                self.window,
                shape.h(),
                shape.w()
            ));
        }
        Ok(shape)
    }

    /// Floats of scratch memory for [`Ssim::image_means`].
    pub(super) fn scratch(&self, shape: Shape, threads: usize) -> usize {
        threads * Tiles::new(self, shape).scratch()
    }

    /// The mean of each image.
    pub(super) fn image_means(&self, ctx: &Ctx, images: [&View; 2], scratch: &mut [f32]) -> Vec<f64> {
        let shape = images[0].shape();
        let tiles = Tiles::new(self, shape);
        let weights: Vec<f32> = self.weights().iter().map(|w| *w as f32).collect();
        let (count, each) = (tiles.per_image(), tiles.scratch());
        let partials = Partials::new(shape.n() * count);
        ctx.pool.run_with_scratch(shape.n() * count, scratch, each, &|item, own| {
            let tile = tiles.tile(item / count, item % count);
            tiles.load(ctx.isa, self, images, &tile, own);
            partials.set(item, sum_tile(ctx.isa, self, &tiles, &tile, &weights, own));
        });
        let per_image = (shape.h() * shape.w() * shape.c()) as f64;
        (0..shape.n()).map(|n| (0..count).map(|i| partials.get(n * count + i)).sum::<f64>() / per_image).collect()
    }

    /// The mean of each image by the plain formula.
    pub(super) fn reference_means(&self, a: &Tensor64, b: &Tensor64) -> Vec<f64> {
        let [images, h, w, c] = a.shape.0;
        let (weights, [c1, c2], max_val) = (self.weights(), self.constants(), f64::from(self.max_val));
        let reflect = |i: usize, tap: usize, n: usize| reflect(i + tap, self.before(), n);
        let similarity = |n: usize, y: usize, x: usize, k: usize| {
            let mut moments = [0.0; 5];
            for (ty, wy) in weights.iter().enumerate() {
                for (tx, wx) in weights.iter().enumerate() {
                    let at = [n, reflect(y, ty, h), reflect(x, tx, w), k];
                    let (a, b) = (a.at(at).clamp(0.0, max_val), b.at(at).clamp(0.0, max_val));
                    let terms = [a, b, a * a, b * b, a * b];
                    moments.iter_mut().zip(terms).for_each(|(m, t)| *m += wy * wx * t);
                }
            }
            let [ma, mb, aa, bb, ab] = moments;
            let (va, vb, covariance) = (aa - ma * ma, bb - mb * mb, ab - ma * mb);
            let denominator = (ma * ma + mb * mb + c1) * (va + vb + c2) + EPS;
            (2.0 * ma * mb + c1) * (2.0 * covariance + c2) / denominator
        };
        let mean = |n: usize| {
            let values = (0..h * w * c).map(|i| similarity(n, i / c / w, i / c % w, i % c));
            values.sum::<f64>() / (h * w * c) as f64
        };
        (0..images).map(mean).collect()
    }
}

/// The pixel that stands at position `i` of `n` pixels with a reflected border of `before` in front.
fn reflect(i: usize, before: usize, n: usize) -> usize {
    let last = n - 1;
    if i < before { before - i } else { last - last.abs_diff(i - before) }
}

/// How a batch is cut.
struct Tiles {
    window: usize,
    before: usize,
    /// Extent of an image.
    h: usize,
    w: usize,
    c: usize,
    /// Output columns of a tile.
    columns: usize,
    /// Floats from a row of a tile to the next, with the window's border.
    pitch: usize,
}

/// Output pixels of one tile.
struct Tile {
    image: usize,
    y0: usize,
    rows: usize,
    x0: usize,
    columns: usize,
}

impl Tiles {
    fn new(ssim: &Ssim, shape: Shape) -> Self {
        let [_, h, w, c] = shape.0;
        let columns = (2048 / c).max(8).min(w);
        let pitch = ((columns + ssim.window - 1) * c).next_multiple_of(16) + 16;
        Tiles { window: ssim.window, before: ssim.before(), h, w, c, columns, pitch }
    }

    fn per_image(&self) -> usize {
        self.h.div_ceil(TILE_ROWS) * self.w.div_ceil(self.columns)
    }

    fn tile(&self, image: usize, index: usize) -> Tile {
        let across = self.w.div_ceil(self.columns);
        let (y0, x0) = (index / across * TILE_ROWS, index % across * self.columns);
        Tile { image, y0, rows: TILE_ROWS.min(self.h - y0), x0, columns: self.columns.min(self.w - x0) }
    }

    /// Rows of s and of d that a tile reads.
    fn source_rows(&self) -> usize {
        TILE_ROWS + self.window - 1
    }

    /// Floats of scratch memory of one worker: rows of s, rows of d, a row of each moment.
    fn scratch(&self) -> usize {
        (2 * self.source_rows() + 4) * self.pitch
    }

    /// Fills the rows of s and d under a tile and its border.
    fn load(&self, isa: Isa, ssim: &Ssim, images: [&View; 2], tile: &Tile, scratch: &mut [f32]) {
        let (s_rows, d_rows) = scratch.split_at_mut(self.source_rows() * self.pitch);
        let rows = s_rows.chunks_exact_mut(self.pitch).zip(d_rows.chunks_exact_mut(self.pitch));
        let width = tile.columns + self.window - 1;
        // Positions whose pixels follow each other in the image.
        let inner = self.before.saturating_sub(tile.x0)..width.min(self.w + self.before - tile.x0);
        let dense = images.iter().all(|i| i.stride() == i.c());
        for (r, (s, d)) in rows.take(tile.rows + self.window - 1).enumerate() {
            let first = (tile.image * self.h + reflect(tile.y0 + r, self.before, self.h)) * self.w;
            let mut x = 0;
            while x < width {
                let pixels = if dense && x == inner.start { inner.len() } else { 1 };
                let p = first + reflect(tile.x0 + x, self.before, self.w);
                let to = x * self.c..(x + pixels) * self.c;
                let [a, b] = images.map(|i| i.run(p, pixels));
                sum_and_difference(isa, a, b, ssim.max_val, &mut s[to.clone()], &mut d[to]);
                x += pixels;
            }
        }
    }
}

simd_fn! {
    fn sum_and_difference(a: &[f32], b: &[f32], max_val: f32, s: &mut [f32], d: &mut [f32]) {
        for (((a, b), s), d) in a.iter().zip(b).zip(s).zip(d) {
            let (a, b) = (a.clamp(0.0, max_val), b.clamp(0.0, max_val));
            (*s, *d) = (a + b, a - b);
        }
    }
}

simd_fn! {
    /// The sum of the similarities of a tile's output pixels.
    fn sum_tile(ssim: &Ssim, tiles: &Tiles, tile: &Tile, weights: &[f32], scratch: &mut [f32]) -> f64 {
        let pitch = tiles.pitch;
        let (sources, moments) = scratch.split_at_mut(2 * tiles.source_rows() * pitch);
        let (s_rows, d_rows) = sources.split_at(tiles.source_rows() * pitch);
        let border = (tile.columns + tiles.window - 1) * tiles.c;
        let mut total = 0.0;
        for y in 0..tile.rows {
            for at in (0..border).step_by(RUN) {
                let run = at..border.min(at + RUN);
                let from = y * pitch + at;
                filter_columns(&s_rows[from..], &d_rows[from..], pitch, weights, rows_mut(moments, pitch, run));
            }
            total += sum_row(ssim, tile.columns * tiles.c, tiles, weights, moments);
        }
        total
    }
}

/// The same range of the rows of the four moments.
#[inline(always)]
fn rows_mut(moments: &mut [f32], pitch: usize, range: std::ops::Range<usize>) -> [&mut [f32]; 4] {
    let (a, rest) = moments.split_at_mut(pitch);
    let (b, rest) = rest.split_at_mut(pitch);
    let (c, d) = rest.split_at_mut(pitch);
    [a, b, c, d].map(|row| &mut row[range.clone()])
}

/// Weighted sums down the columns: the moments of s, d, s², d².
#[inline(always)]
fn filter_columns(s: &[f32], d: &[f32], pitch: usize, weights: &[f32], moments: [&mut [f32]; 4]) {
    let n = moments[0].len();
    let [mean_s, mean_d, square_s, square_d] = moments.map(|m| {
        m.fill(0.0);
        &mut m[..n]
    });
    for (k, w) in weights.iter().enumerate() {
        let (s, d) = (&s[k * pitch..][..n], &d[k * pitch..][..n]);
        for i in 0..n {
            let (ws, wd) = (w * s[i], w * d[i]);
            mean_s[i] += ws;
            mean_d[i] += wd;
            square_s[i] += ws * s[i];
            square_d[i] += wd * d[i];
        }
    }
}

/// Weighted sums along a row, of values that are `step` apart; two taps at a time.
#[inline(always)]
fn filter_row(from: &[f32], step: usize, weights: &[f32], to: &mut [f32]) {
    let n = to.len();
    to.fill(0.0);
    let (pairs, last) = weights.as_chunks::<2>();
    for (k, [first, second]) in pairs.iter().enumerate() {
        let (a, b) = (&from[2 * k * step..][..n], &from[(2 * k + 1) * step..][..n]);
        for i in 0..n {
            to[i] += first * a[i] + second * b[i];
        }
    }
    for w in last {
        to.iter_mut().zip(&from[(weights.len() - 1) * step..]).for_each(|(t, f)| *t += w * f);
    }
}

/// The sum of the similarities of the first `count` floats of a row.
#[inline(always)]
fn sum_row(ssim: &Ssim, count: usize, tiles: &Tiles, weights: &[f32], moments: &[f32]) -> f64 {
    let constants = ssim.constants().map(|c| c as f32);
    let (mut filtered, mut values) = ([[0f32; RUN]; 4], [0f32; RUN]);
    let mut total = 0.0;
    for at in (0..count).step_by(RUN) {
        let n = RUN.min(count - at);
        for (m, to) in filtered.iter_mut().enumerate() {
            filter_row(&moments[m * tiles.pitch + at..], tiles.c, weights, &mut to[..n]);
        }
        similarities(constants, &filtered, &mut values[..n]);
        let mut lanes = [0f32; 16];
        for run in values[..n].chunks(lanes.len()) {
            lanes.iter_mut().zip(run).for_each(|(sum, v)| *sum += v);
        }
        total += lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    total
}

/// The similarities from the four filtered moments.
#[inline(always)]
fn similarities([c1, c2]: [f32; 2], moments: &[[f32; RUN]; 4], values: &mut [f32]) {
    let n = values.len();
    let [mean_s, mean_d, square_s, square_d] = moments.each_ref().map(|m| &m[..n]);
    for i in 0..n {
        let (ss, dd) = (mean_s[i] * mean_s[i], mean_d[i] * mean_d[i]);
        let (vs, vd) = (square_s[i] - ss, square_d[i] - dd);
        let numerator = (0.5 * (ss - dd) + c1) * (0.5 * (vs - vd) + c2);
        let denominator = (0.5 * (ss + dd) + c1) * (0.5 * (vs + vd) + c2);
        values[i] = numerator / (denominator + EPS as f32);
    }
}

impl Op for Ssim {
    fn name(&self) -> &'static str {
        "ssim"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.check(inputs)?;
        Ok(Shape::SCALAR)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let means = self.reference_means(inputs[0], inputs[1]);
        Tensor64::new(output, vec![means.iter().sum::<f64>() / means.len() as f64])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for Ssim {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        Ssim::scratch(self, inputs[0], threads)
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let means = self.image_means(ctx, [&call.inputs[0], &call.inputs[1]], call.scratch);
        call.output.pixel_mut(0)[0] = (means.iter().sum::<f64>() / means.len() as f64) as f32;
    }
}

#[cfg(test)]
pub(super) use self::tests::cases;
