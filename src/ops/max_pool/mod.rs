//! Maxima over square windows as PyTorch's `MaxPool2d(size, stride)` takes them, without padding:
//! `output[i, j] = max input[i·stride + y, j·stride + x]` over y, x < size; rows and columns that fill no whole window
//! count nothing. Windows overlap where the stride is smaller than the size.
//!
//! A window is read row by row, and a value takes the maximum's place if it is larger or not a number. So the gradient
//! of equal maxima goes to the first of them, and a window with a NaN gives NaN.

use std::ops::Range;

use super::flat::no_derivative;
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value};
use crate::ops::sum_to::cuda::vector_of;
use crate::types::Shape;
use crate::{Result, simd_fn};

#[cfg(test)]
mod tests;

/// (N,H,W,C) to (N, (H−size)/stride + 1, (W−size)/stride + 1, C), rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// Rows and columns of a window.
    pub size: usize,
    /// Rows and columns from a window to the next.
    pub stride: usize,
}

impl MaxPool {
    /// The windows along one axis, of `windows`, that cover some position of `at`.
    fn covering(&self, at: Range<usize>, windows: usize) -> Range<usize> {
        let first = (at.start + 1).saturating_sub(self.size).div_ceil(self.stride);
        first..at.end.div_ceil(self.stride).min(windows)
    }

    /// The maximum of a window in f64, and the row and column that it is at.
    fn reference_maximum(&self, input: &Tensor64, [n, i, j, c]: [usize; 4]) -> (f64, [usize; 2]) {
        let (y0, x0) = (i * self.stride, j * self.stride);
        let mut best = (input.at([n, y0, x0, c]), [y0, x0]);
        for (y, x) in (y0..y0 + self.size).flat_map(|y| (x0..x0 + self.size).map(move |x| (y, x))) {
            let v = input.at([n, y, x, c]);
            if v > best.0 || v.is_nan() {
                best = (v, [y, x]);
            }
        }
        best
    }

    fn args(&self) -> Args {
        Args::new().size("ksize", self.size).size("stride", self.stride)
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, MaxPool { size, stride }) = (inputs[0], *self);
        if size == 0 || stride == 0 || x.is_empty() {
            return Err(format!("{x} has no maxima in windows of {size}x{size} with stride {stride}"));
        }
        if x.h() < size || x.w() < size {
            return Err(format!(
                "a window of {size}x{size} needs images of at least {size}x{size} pixels, these are {}x{}; \
                 use larger patches",
                x.h(),
                x.w()
            ));
        }
        Ok(Shape([x.n(), (x.h() - size) / stride + 1, (x.w() - size) / stride + 1, x.c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(MaxPoolGrad { pool: *self }, &[d_output, at.inputs[0]])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |at| self.reference_maximum(inputs[0], at).0)
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for MaxPool {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output) = (call.inputs[0], call.output);
        self.check(&input, output.shape());
        let rows = rows_per_item(output.w() * output.c(), 1);
        let items = output.h().div_ceil(rows);
        ctx.pool.run(output.n() * items, &|item, _| {
            let (n, first) = (item / items, item % items * rows);
            for i in first..output.h().min(first + rows) {
                // SAFETY: windows lie inside the input; rows of the output are disjoint between items.
                unsafe { pool_row(ctx.isa, *self, &input, &output, n, i) };
            }
        });
    }
}

impl CudaKernel for MaxPool {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (x, to) = (call.inputs[0], call.output);
        let vector = vector_of(&[x, to]);
        let args = self.args().input("x", x).output("to", to).fixed("V", vector);
        vec![KernelLaunch::over("max_pool", "max_pool", to.shape.len() / vector, args)]
    }
}

impl MaxPool {
    /// Windows are addressed by these extents.
    fn check(self, input: &View, pooled: Shape) {
        assert_eq!(Op::shape(&self, &[input.shape()]), Ok(pooled), "the pooled extent");
    }
}

/// Values that one item of work makes, at least.
const ITEM: usize = 8192;
/// Channels whose maxima are found together.
const LANES: usize = 16;

/// Rows of `values` values that one item of work makes, a multiple of `unit`.
fn rows_per_item(values: usize, unit: usize) -> usize {
    (ITEM / values).max(1).next_multiple_of(unit)
}

/// The maxima of `W` channels of a window, and their places in it, row by row. `corner` is where these channels of the
/// window's first pixel lie.
///
/// # Safety
/// The window's pixels lie inside the input.
#[inline(always)]
unsafe fn maxima<const W: usize>(pool: MaxPool, input: &View, corner: *const f32) -> ([f32; W], [u32; W]) {
    let values = |y: usize, x: usize| {
        // SAFETY: the caller's promise.
        unsafe { corner.add((y * input.w() + x) * input.stride()).cast::<[f32; W]>().read() }
    };
    let (mut best, mut places, mut place) = (values(0, 0), [0; W], 0);
    for y in 0..pool.size {
        for x in 0..pool.size {
            (best, places) = larger((best, places), (values(y, x), place));
            place += 1;
        }
    }
    (best, places)
}

/// Maxima and their places, of which the values of the next place take some. They are written to new arrays, which
/// the compiler keeps in registers; with masked stores to the old ones 2x128x128x64 values took 2.2 ms instead of 0.6
/// on one core with AVX2.
#[inline(always)]
fn larger<const W: usize>((best, places): ([f32; W], [u32; W]), (v, place): ([f32; W], u32)) -> ([f32; W], [u32; W]) {
    let mut next = ([0.0; W], [0; W]);
    for l in 0..W {
        let take = (v[l] > best[l]) | v[l].is_nan();
        next.0[l] = if take { v[l] } else { best[l] };
        next.1[l] = if take { place } else { places[l] };
    }
    next
}

simd_fn! {
    /// Row `i` of the output of image `n`.
    ///
    /// # Safety
    /// Its windows lie inside the input, and nothing else uses the row.
    unsafe fn pool_row(pool: MaxPool, input: &View, output: &ViewMut, n: usize, i: usize) {
        let whole = output.c() / LANES * LANES;
        for j in 0..output.w() {
            let (corner, to) = (input.at(n, i * pool.stride, j * pool.stride), output.at(n, i, j));
            for c in (0..whole).step_by(LANES) {
                // SAFETY: the caller's promise; channels from `c` on are at least `LANES`.
                unsafe { to.add(c).cast::<[f32; LANES]>().write(maxima(pool, input, corner.add(c)).0) };
            }
            for c in whole..output.c() {
                // SAFETY: as above, for one channel.
                unsafe { to.add(c).cast::<[f32; 1]>().write(maxima(pool, input, corner.add(c)).0) };
            }
        }
    }
}

/// The gradient of [`MaxPool`] by its input (N,H,W,C), from `d_output` and the input: each window's goes to its
/// maximum. Training differentiates it no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPoolGrad {
    /// The op whose gradient it is.
    pub pool: MaxPool,
}

impl Op for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let pooled = self.pool.shape(&inputs[1..])?;
        if inputs[0] != pooled {
            return Err(format!("d_output is {}, but {} is pooled to {pooled}", inputs[0], inputs[1]));
        }
        Ok(inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (d_output, input) = (inputs[0], inputs[1]);
        let mut out = Tensor64::zeros(output);
        Tensor64::from_fn(d_output.shape, |at @ [n, _, _, c]| {
            let [y, x] = self.pool.reference_maximum(input, at).1;
            let to = out.index([n, y, x, c]);
            out.data[to] += d_output.at(at);
            0.0
        });
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for MaxPoolGrad {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (d, input, output) = (call.inputs[0], call.inputs[1], call.output);
        self.pool.check(&input, d.shape());
        assert_eq!(output.shape(), input.shape(), "the gradient's extent");
        // An item goes through all windows that cover its rows, in one order for every pixel. Few of them cover rows of
        // the next item too, and none where windows do not overlap.
        let rows = rows_per_item(output.w() * output.c(), 4 * self.pool.stride);
        let items = output.h().div_ceil(rows);
        ctx.pool.run(output.n() * items, &|item, _| {
            let (n, first) = (item / items, item % items * rows);
            let own = first..output.h().min(first + rows);
            // SAFETY: windows lie inside the input; rows of the output are disjoint between items.
            unsafe { grad_rows(ctx.isa, self.pool, &d, &input, &output, n, &own) };
        });
    }
}

impl CudaKernel for MaxPoolGrad {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (d, x, to) = (call.inputs[0], call.inputs[1], call.output);
        let vector = vector_of(&[d, x, to]);
        let args = self.pool.args().input("d", d).input("x", x).output("to", to).fixed("V", vector);
        vec![KernelLaunch::over("max_pool", "max_pool_grad", to.shape.len() / vector, args)]
    }
}

simd_fn! {
    /// The gradient's rows `own` of image `n`.
    ///
    /// # Safety
    /// Windows lie inside the input, and nothing else uses the rows.
    unsafe fn grad_rows(pool: MaxPool, d: &View, input: &View, output: &ViewMut, n: usize, own: &Range<usize>) {
        for p in (n * output.h() + own.start) * output.w()..(n * output.h() + own.end) * output.w() {
            // SAFETY: the pixel lies inside these rows.
            unsafe { output.pixel(p) }.fill(0.0);
        }
        let whole = output.c() / LANES * LANES;
        for i in pool.covering(own.clone(), d.h()) {
            for j in 0..d.w() {
                let at = [n, i, j];
                for c in (0..whole).step_by(LANES) {
                    // SAFETY: the caller's promise; channels from `c` on are at least `LANES`.
                    unsafe { add_window::<LANES>(pool, [d, input], output, at, c, own) };
                }
                for c in whole..output.c() {
                    // SAFETY: as above, for one channel.
                    unsafe { add_window::<1>(pool, [d, input], output, at, c, own) };
                }
            }
        }
    }
}

/// Adds the gradient of window (n, i, j) to its maxima that lie in the rows `own`, for `W` channels from `c` on.
///
/// # Safety
/// As for `grad_rows`, and there are as many channels.
#[inline(always)]
unsafe fn add_window<const W: usize>(
    pool: MaxPool,
    [d, input]: [&View; 2],
    output: &ViewMut,
    [n, i, j]: [usize; 3],
    c: usize,
    own: &Range<usize>,
) {
    let (y0, x0) = (i * pool.stride, j * pool.stride);
    // SAFETY: the caller's promise.
    unsafe {
        let (_, places) = maxima::<W>(pool, input, input.at(n, y0, x0).add(c));
        let d = d.at(n, i, j).add(c).cast::<[f32; W]>().read();
        for y in y0.max(own.start)..(y0 + pool.size).min(own.end) {
            for x in x0..x0 + pool.size {
                let place = ((y - y0) * pool.size + x - x0) as u32;
                let to = &mut *output.at(n, y, x).add(c).cast::<[f32; W]>();
                for l in 0..W {
                    to[l] += if places[l] == place { d[l] } else { 0.0 };
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) use self::tests::cases;
