//! Bicubic resizing as PyTorch's `interpolate(mode="bicubic", align_corners=False)`: Keys' cubic convolution
//! (IEEE ASSP 29, 1981) along rows and columns. Without antialiasing a = −0.75, the four nearest samples, the
//! border repeated; with it a = −0.5, the kernel stretched by the reduction factor, cut off at the border and
//! its weights divided by their sum.

use std::ops::Range;

use super::{Application, Exec, Kernel, KernelCall, Op};
use crate::device::cpu::{Ctx, View};
use crate::tape::{Shape, Tape, Tensor64, Value};
use crate::{Error, Result, simd_fn};

/// (N,H,W,C) to (N,height,width,C). For data, so it has no derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Rows of the output.
    pub height: usize,
    /// Columns of the output.
    pub width: usize,
    /// Whether reducing averages over all samples instead of picking four.
    pub antialias: bool,
}

/// Weights of a resize along one axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taps {
    /// For each output: its first input, and where its weights are.
    windows: Vec<(usize, Range<usize>)>,
    weights: Vec<f64>,
}

impl Taps {
    /// The first input of output `i`, and the weights from there on.
    pub fn of(&self, i: usize) -> (usize, &[f64]) {
        let (first, range) = &self.windows[i];
        (*first, &self.weights[range.clone()])
    }

    fn push(&mut self, first: usize, weights: impl Iterator<Item = f64>) {
        let start = self.weights.len();
        self.weights.extend(weights);
        self.windows.push((first, start..self.weights.len()));
    }
}

/// The weights that resize `in_len` samples to `out_len`, both > 0.
pub fn taps(in_len: usize, out_len: usize, antialias: bool) -> Taps {
    let scale = in_len as f64 / out_len as f64;
    let mut taps = Taps::default();
    for i in 0..out_len {
        if antialias {
            let stretch = scale.max(1.0);
            let (centre, support) = (scale * (i as f64 + 0.5), 2.0 * stretch);
            // Casts round down and stop at 0.
            let first = (centre - support + 0.5) as usize;
            let last = ((centre + support + 0.5) as usize).min(in_len);
            let weight = |k: usize| keys(-0.5, (k as f64 + 0.5 - centre) / stretch);
            let total: f64 = (first..last).map(weight).sum();
            taps.push(first, (first..last).map(|k| weight(k) / total));
        } else {
            let position = scale * (i as f64 + 0.5) - 0.5;
            let left = position.floor();
            let clamped = |offset: f64| (left + offset).clamp(0.0, (in_len - 1) as f64) as usize;
            let (first, last) = (clamped(-1.0), clamped(2.0));
            let mut weights = [0.0; 4];
            for offset in [-1.0, 0.0, 1.0, 2.0] {
                weights[clamped(offset) - first] += keys(-0.75, position - left - offset);
            }
            taps.push(first, weights[..=last - first].iter().copied());
        }
    }
    taps
}

/// Keys' kernel with parameter `a` at distance `x`.
fn keys(a: f64, x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if self.height * self.width * h * w == 0 {
            return Err(format!("cannot resize {h}x{w} pixels to {}x{}", self.height, self.width));
        }
        Ok(Shape([n, self.height, self.width, c]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        let message = "resizing is for data and has no derivative".into();
        Err(Error::Shape { node: tape.node(at.output).path.to_string(), op: self.name(), message })
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let x = inputs[0];
        let (rows, columns) = self.tables(x.shape);
        Tensor64::from_fn(output, |[n, i, j, c]| {
            let ((y0, in_y), (x0, in_x)) = (rows.of(i), columns.of(j));
            let row = |y: usize| in_x.iter().enumerate().map(|(k, w)| w * x.at([n, y, x0 + k, c])).sum::<f64>();
            in_y.iter().enumerate().map(|(k, w)| w * row(y0 + k)).sum()
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Resize {
    fn tables(&self, input: Shape) -> (Taps, Taps) {
        (taps(input.h(), self.height, self.antialias), taps(input.w(), self.width, self.antialias))
    }
}

impl Kernel for Resize {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        threads * inputs[0].w() * inputs[0].c()
    }

    /// Each row of the output: first its rows of the input are blended, then the columns of the blend.
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, out) = (call.inputs[0], call.output);
        let (rows, columns) = self.tables(x.shape());
        let len = x.w * x.c;
        let base = call.scratch.as_mut_ptr() as usize;
        ctx.pool.run(out.n * out.h, &|line, worker| {
            // SAFETY: each worker has its own row of scratch.
            let row = unsafe { std::slice::from_raw_parts_mut((base as *mut f32).add(worker * len), len) };
            let (first, weights) = rows.of(line % out.h);
            blend_rows(ctx.isa, &x, (line / out.h) * x.h + first, weights, row);
            for j in 0..out.w {
                let (first, weights) = columns.of(j);
                // SAFETY: rows of the output are disjoint between items.
                let pixel = unsafe { out.pixel(line * out.w + j) };
                pixel.fill(0.0);
                for (w, from) in weights.iter().zip(row[first * x.c..].chunks_exact(x.c)) {
                    pixel.iter_mut().zip(from).for_each(|(p, v)| *p += *w as f32 * v);
                }
            }
        });
    }
}

simd_fn! {
    /// Σ weight·row over rows from `first` (counted over images) on.
    fn blend_rows(x: &View, first: usize, weights: &[f64], out: &mut [f32]) {
        out.fill(0.0);
        for (k, weight) in weights.iter().enumerate() {
            let (weight, start) = (*weight as f32, (first + k) * x.w);
            if x.stride == x.c {
                // SAFETY: a dense row of the input.
                let row = unsafe { std::slice::from_raw_parts(x.ptr.add(start * x.c), out.len()) };
                out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v);
                continue;
            }
            for (p, pixel) in out.chunks_exact_mut(x.c).enumerate() {
                // SAFETY: the pixel lies inside the input.
                let from = unsafe { x.pixel(start + p) };
                pixel.iter_mut().zip(from).for_each(|(o, v)| *o += weight * v);
            }
        }
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let mut cases = Vec::new();
    for antialias in [false, true] {
        for (height, width) in [(3, 2), (12, 17), (6, 8), (1, 1)] {
            let case = Case::new(Resize { height, width, antialias }, &[[2, 6, 8, 3]]);
            cases.push(case.without_derivative());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_close;
    use super::*;
    use crate::tape::DType;

    const PYTORCH: [(usize, usize, bool, &[f64]); 9] = [
        (8, 3, false, &[0.7148166037, -0.3609089598, -0.0860393197]),
        (8, 3, true, &[0.6230702053, -0.2267578918, -0.2207412602]),
        (12, 3, true, &[0.3595264786, -0.157673208, 0.0500199217]),
        (12, 3, false, &[1.0262887437, -0.7259064998, -0.0773204377]),
        (
            5,
            8,
            false,
            &[
                -0.0781175151,
                0.3561953303,
                0.8816181786,
                1.0169370094,
                0.7374420326,
                0.2164646308,
                -0.4328967614,
                -0.8401606574,
            ],
        ),
        (
            5,
            8,
            true,
            &[
                -0.0605486502,
                0.3287926937,
                0.8684896882,
                0.975813405,
                0.7353384476,
                0.1942254207,
                -0.4409845052,
                -0.8214131551,
            ],
        ),
        (
            2,
            7,
            false,
            &[-0.0931475261, -0.0388689677, 0.1600757486, 0.4207354924, 0.6813952362, 0.8803399525, 0.9346185109],
        ),
        (1, 2, false, &[0.0, 0.0]),
        (
            9,
            9,
            true,
            &[
                0.0,
                0.8414709848,
                0.9092974268,
                0.1411200081,
                -0.7568024953,
                -0.9589242747,
                -0.2794154982,
                0.6569865987,
                0.9893582466,
            ],
        ),
    ];

    /// One row sin(0), sin(1), … resized along the width.
    fn resized(in_len: usize, out_len: usize, antialias: bool) -> Vec<f64> {
        let x = Tensor64::from_fn(Shape([1, 1, in_len, 1]), |[_, _, x, _]| (x as f64).sin());
        let op = Resize { height: 1, width: out_len, antialias };
        op.reference(&[&x], Shape([1, 1, out_len, 1])).data
    }

    /// Numbers of `torch.nn.functional.interpolate` in f64.
    #[test]
    fn it_is_that_of_pytorch() {
        for (in_len, out_len, antialias, want) in PYTORCH {
            assert_close(&resized(in_len, out_len, antialias), want, 1e-8, &format!("{in_len} to {out_len}"));
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let op = Resize { height: 0, width: 3, antialias: false };
        assert!(op.shape(&[Shape([1, 4, 4, 1])]).unwrap_err().contains("4x4"));
        let mut tape = Tape::new();
        let x = tape.input("x", Shape([1, 4, 4, 1]), DType::F32);
        let y = tape.push(Resize { height: 2, width: 2, antialias: true }, &[x]).unwrap();
        let message = tape.gradients(&[(y, y)], &[x]).unwrap_err().to_string();
        assert!(message.contains("no derivative"), "{message}");
    }
}
