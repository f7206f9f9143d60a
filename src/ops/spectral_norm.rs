//! Spectral normalisation of a weight (Miyato et al., ICLR 2018), as `torch.nn.utils.spectral_norm` with one
//! power iteration: the weight (O,kh,kw,I) is a matrix W of O rows and kh·kw·I columns, in memory order. In
//! training v ← Wᵀu/‖Wᵀu‖, then u ← Wv/‖Wv‖; the layer uses W/σ with σ = uᵀWv. Gradients flow through W in
//! σ and W/σ, not through u and v: d_W = d/σ − ⟨d, W⟩/σ²·u vᵀ.

use super::math::Lanes;
use super::pointwise::{map2, reference};
use super::sum_to::{SumTo, sum_product_to};
use super::{Application, Exec, Kernel, KernelCall, Op, Pointwise};
use crate::device::cpu::{Ctx, Isa, StoreTo, Tile, TileSink, View};
use crate::ops::mul::Scale;
use crate::tape::{Shape, Tape, Tensor64, Value};
use crate::{Result, simd_fn};

/// Norms are not taken smaller than this.
const EPS: f64 = 1e-12;

/// The normalised weight, and in training the new (u, v). `u` is (1,1,1,O), `v` (1,1,1,kh·kw·I) in the order of
/// the weight's memory.
///
/// # Errors
/// A shape error if u and v do not fit the weight.
pub fn spectral_norm(
    tape: &mut Tape,
    weight: Value,
    u: Value,
    v: Value,
    train: bool,
) -> Result<(Value, Option<(Value, Value)>)> {
    let new_v = if train {
        let product = tape.push(MatVec { transposed: true }, &[weight, u])?;
        tape.push(Direction, &[product])?
    } else {
        v
    };
    let product = tape.push(MatVec { transposed: false }, &[weight, new_v])?;
    let new_u = if train { tape.push(Direction, &[product])? } else { u };
    let sigma = tape.push(SumTo { target: Shape::SCALAR }, &[product, new_u])?;
    let normalised = tape.push(DivideBy, &[weight, sigma])?;
    Ok((normalised, train.then_some((new_u, new_v))))
}

/// W x, or Wᵀ x, for a weight as matrix and a vector: operands weight and x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatVec {
    /// Whether the matrix is transposed.
    pub transposed: bool,
}

/// Rows and columns of a weight.
fn extent(weight: Shape) -> (usize, usize) {
    (weight.n(), weight.h() * weight.w() * weight.c())
}

/// Columns of an item of a transposed product.
const COLUMNS: usize = 512;

impl Op for MatVec {
    fn name(&self) -> &'static str {
        "mat_vec"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (rows, columns) = extent(inputs[0]);
        let (inner, outer) = if self.transposed { (rows, columns) } else { (columns, rows) };
        if inputs[1] != Shape::vector(inner) {
            return Err(format!("{} is not the vector of {inner} for a weight of {}", inputs[1], inputs[0]));
        }
        Ok(Shape::vector(outer))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [weight, x] = [at.inputs[0], at.inputs[1]];
        let outer = Outer { weight: tape.shape(weight) };
        let back = MatVec { transposed: !self.transposed };
        let pair = if self.transposed { [x, d_output] } else { [d_output, x] };
        Ok(vec![
            if at.needs[0] { Some(tape.push(outer, &pair)?) } else { None },
            if at.needs[1] { Some(tape.push(back, &[weight, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let ((rows, columns), w, x) = (extent(inputs[0].shape), &inputs[0].data, &inputs[1].data);
        Tensor64::from_fn(output, |[_, _, _, i]| {
            if self.transposed {
                (0..rows).map(|o| w[o * columns + i] * x[o]).sum()
            } else {
                (0..columns).map(|k| w[i * columns + k] * x[k]).sum()
            }
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        inputs[0].len() as u64
    }
}

impl Kernel for MatVec {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        // SAFETY: weights and vectors are contiguous operands of this step.
        let (weight, x) = unsafe { (call.inputs[0].dense(), call.inputs[1].dense()) };
        let (rows, columns) = extent(call.inputs[0].shape());
        let (out, len) = (call.output.ptr as usize, if self.transposed { COLUMNS } else { 1 });
        let items = call.output.c.div_ceil(len);
        ctx.pool.run(items, &|item, _| {
            let first = item * len;
            let last = (first + len).min(if self.transposed { columns } else { rows });
            // SAFETY: each item owns these elements of the output.
            let out = unsafe { std::slice::from_raw_parts_mut((out as *mut f32).add(first), last - first) };
            if self.transposed {
                weigh_rows(ctx.isa, weight, columns, first, x, out);
            } else {
                out[0] = dot(ctx.isa, &weight[first * columns..][..columns], x);
            }
        });
    }
}

simd_fn! {
    /// f32 inside blocks, f64 over them.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut total = 0f64;
        for (a, b) in a.chunks(2048).zip(b.chunks(2048)) {
            let mut sum = Lanes::default();
            sum.add2(a, b, |x, y| x * y);
            total += f64::from(sum.total());
        }
        total as f32
    }
}
simd_fn! {
    /// `out[k] = Σ over rows o of factors[o]·weight[o][first + k]`.
    fn weigh_rows(weight: &[f32], columns: usize, first: usize, factors: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (row, factor) in weight.chunks_exact(columns).zip(factors) {
            out.iter_mut().zip(&row[first..]).for_each(|(o, w)| *o += factor * w);
        }
    }
}

/// The matrix `u vᵀ` as a weight: operands u (rows) and v (columns).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outer {
    /// Extent of the output.
    pub weight: Shape,
}

impl Op for Outer {
    fn name(&self) -> &'static str {
        "outer"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (rows, columns) = extent(self.weight);
        if inputs[0] != Shape::vector(rows) || inputs[1] != Shape::vector(columns) {
            return Err(format!("{inputs:?} do not span a weight of {}", self.weight));
        }
        Ok(self.weight)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let mut d_inputs = vec![None, None];
        for (k, transposed) in [false, true].into_iter().enumerate() {
            if at.needs[k] {
                d_inputs[k] = Some(tape.push(MatVec { transposed }, &[d_output, at.inputs[1 - k]])?);
            }
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let columns = inputs[1].data.iter();
        let data = inputs[0].data.iter().flat_map(|u| columns.clone().map(move |v| u * v)).collect();
        Tensor64::new(output, data)
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn macs(&self, _inputs: &[Shape], output: Shape) -> u64 {
        output.len() as u64
    }
}

impl Kernel for Outer {
    fn scratch(&self, _inputs: &[Shape], output: Shape, threads: usize) -> usize {
        threads * output.c().min(COLUMNS)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let sink = StoreTo(call.output);
        self.run_into(ctx, call, &sink);
    }
    fn hosts_epilogue(&self) -> bool {
        true
    }
    fn run_into(&self, ctx: &Ctx, call: KernelCall, sink: &dyn TileSink) {
        // SAFETY: vectors are contiguous operands of this step.
        let (u, v) = unsafe { (call.inputs[0].dense(), call.inputs[1].dense()) };
        let [_, h, w, c] = self.weight.0;
        let width = c.min(COLUMNS);
        let base = call.scratch.as_mut_ptr() as usize;
        ctx.pool.run(u.len(), &|n, worker| {
            // SAFETY: each worker has its own row of scratch.
            let tile = unsafe { std::slice::from_raw_parts_mut((base as *mut f32).add(worker * width), width) };
            for (p, row) in v.chunks_exact(c).enumerate() {
                for (part, columns) in row.chunks(width).enumerate() {
                    tile.iter_mut().zip(columns).for_each(|(t, v)| *t = u[n] * v);
                    let (data, channels, c0) = (tile.as_mut_ptr(), columns.len(), part * width);
                    sink.store(&Tile {
                        data,
                        row_stride: channels,
                        n,
                        y: p / w % h,
                        x0: p % w,
                        pixels: 1,
                        c0,
                        channels,
                    });
                }
            }
        });
    }
}

/// `x/max(‖x‖, 1e-12)` of a vector. Counts as a constant: no gradient flows through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Direction;

impl Op for Direction {
    fn name(&self) -> &'static str {
        "direction"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[0].pixels() == 1 { Ok(inputs[0]) } else { Err(format!("{} is not a vector", inputs[0])) }
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let x = &inputs[0].data;
        let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt().max(EPS);
        Tensor64::new(output, x.iter().map(|v| v / norm).collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Kernel for Direction {
    fn run(&self, _ctx: &Ctx, call: KernelCall) {
        // SAFETY: vectors are contiguous, and the output is this step's alone.
        let (x, out) = unsafe { (call.inputs[0].dense(), call.output.dense()) };
        let norm = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        // `max` would lose a NaN.
        let norm = if norm < EPS { EPS } else { norm };
        out.iter_mut().zip(x).for_each(|(o, v)| *o = (f64::from(*v) / norm) as f32);
    }
}

/// `a/s`: operands a and a scalar s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DivideBy;

impl Op for DivideBy {
    fn name(&self) -> &'static str {
        "divide_by"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[1] == Shape::SCALAR { Ok(inputs[0]) } else { Err(format!("{} is not one number", inputs[1])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let s = at.inputs[1];
        let d_a = if at.needs[0] { Some(tape.push(DivideBy, &[d_output, s])?) } else { None };
        let mut d_s = None;
        if at.needs[1] {
            let sum = sum_product_to(tape, d_output, at.output, Shape::SCALAR)?;
            let negative = tape.push(Scale::by(-1.0), &[sum])?;
            d_s = Some(tape.push(DivideBy, &[negative, s])?);
        }
        Ok(vec![d_a, d_s])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| v[0] / v[1])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(self)
    }
}

impl Pointwise for DivideBy {
    fn apply(&self, isa: Isa, tile: &mut Tile, _carrier: usize, operands: &[View]) {
        divide(isa, tile, &operands[1]);
    }
}

simd_fn! {
    fn divide(tile: &mut Tile, scalar: &View) {
        map2(tile, scalar, |v, s| v / s);
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let (weight, u, v) = ([3, 2, 2, 5], [1, 1, 1, 3], [1, 1, 1, 20]);
    vec![
        Case::new(MatVec { transposed: false }, &[weight, v]),
        Case::new(MatVec { transposed: true }, &[weight, u]),
        Case::new(MatVec { transposed: false }, &[[2, 1, 1, 4300], [1, 1, 1, 4300]]).without_derivative(),
        Case::new(MatVec { transposed: true }, &[[2, 1, 1, 1300], [1, 1, 1, 2]]).without_derivative(),
        Case::new(Outer { weight: Shape(weight) }, &[u, v]),
        Case::new(Outer { weight: Shape([2, 1, 1, 1300]) }, &[[1, 1, 1, 2], [1, 1, 1, 1300]]).without_derivative(),
        Case::new(Direction, &[[1, 1, 1, 9]]).without_derivative(),
        Case::new(DivideBy, &[[2, 3, 4, 5], [1, 1, 1, 1]]),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tests::assert_close;
    use super::*;
    use crate::tape::DType;

    const TRAINED_U: [f64; 3] = [-0.5855971361, -0.1599281071, 0.7946691102];
    const TRAINED_V: [f64; 4] = [0.4393275375, -0.2381629043, -0.6966874703, -0.514680789];
    const TRAINED: [f64; 6] = [0.0, 0.5435675061, 0.5873815538, 0.0911597099, -0.488873951, -0.6194391558];
    const TRAINED_GRAD: [f64; 6] =
        [0.6802001667, 0.3304658468, -0.3230972487, -0.6796062237, -0.4128885686, 0.1781707287];
    const STORED: [f64; 6] = [-0.0, -4.7207697508, -5.1012855636, -0.7917029551, 4.2457676992, 5.3796991112];
    const STORED_GRAD: [f64; 6] = [-7.2825831525, -4.7036148837, 0.66219839, 3.8815526904, 0.3221450354, -4.9362714491];

    /// Numbers of `torch.nn.utils.spectral_norm` on a linear layer 4 -> 3 with weight sin(i), u ∝ (1, 2, 2),
    /// v ∝ (1, 1, 1, 1): one training forward, the gradient of Σ cos(i)·W/σ, then an evaluation.
    #[test]
    fn it_is_that_of_pytorch() {
        let shape = Shape([3, 1, 1, 4]);
        let vector = |data: &[f64]| Tensor64::new(Shape::vector(data.len()), data.to_vec());
        let given: HashMap<String, Tensor64> = [
            ("w".to_owned(), Tensor64::new(shape, (0..12).map(|i| f64::from(i).sin()).collect())),
            ("u".to_owned(), vector(&[1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0])),
            ("v".to_owned(), vector(&[0.5; 4])),
            ("d".to_owned(), Tensor64::new(shape, (0..12).map(|i| f64::from(i).cos()).collect())),
        ]
        .into();
        for train in [true, false] {
            let mut tape = Tape::new();
            let w = tape.input("w", shape, DType::F32);
            let u = tape.input("u", Shape::vector(3), DType::F32);
            let v = tape.input("v", Shape::vector(4), DType::F32);
            let d = tape.input("d", shape, DType::F32);
            let (y, moved) = spectral_norm(&mut tape, w, u, v, train).unwrap();
            let grad = tape.gradients(&[(y, d)], &[w]).unwrap()[0].unwrap();
            let values = tape.evaluate_f64(&given).unwrap();
            let of = |v: Value| &tape.value_of(&values, v).data;
            if train {
                let (u, v) = moved.unwrap();
                assert_close(of(u), &TRAINED_U, 1e-8, "u");
                assert_close(of(v), &TRAINED_V, 1e-8, "v");
                assert_close(&of(y)[..6], &TRAINED, 1e-8, "weight");
                assert_close(&of(grad)[..6], &TRAINED_GRAD, 1e-8, "gradient");
            } else {
                assert!(moved.is_none());
                assert_close(&of(y)[..6], &STORED, 1e-8, "stored weight");
                assert_close(&of(grad)[..6], &STORED_GRAD, 1e-8, "stored gradient");
            }
        }
    }

    #[test]
    fn vectors_that_do_not_fit_are_refused() {
        let mut tape = Tape::new();
        let w = tape.input("w", Shape([3, 2, 2, 5]), DType::F32);
        let (u, v) = (tape.input("u", Shape::vector(3), DType::F32), tape.input("v", Shape::vector(5), DType::F32));
        let message = spectral_norm(&mut tape, w, u, v, false).unwrap_err().to_string();
        assert!(message.contains("vector of 20"), "{message}");
        assert!(spectral_norm(&mut tape, w, v, u, true).is_err());
    }
}
