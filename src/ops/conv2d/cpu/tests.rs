//! Every kernel against the f64 reference, on seeded random shapes.

use super::*;
use crate::device::cpu::testing::{Collect, DIRECT, assert_close, is_memcheck, of_each_kind, random, rng, sets, wide};
use crate::device::cpu::{Isa, Pool};
use crate::ops::conv2d::reference::{reference_conv2d, reference_conv2d_input_grad, reference_conv2d_weight_grad};

/// Allowed relative L2 error of Winograd's sums.
const WINOGRAD: f64 = 2e-6;

/// A tensor that is a channel slice of a wider buffer full of NaN.
struct Sliced {
    buffer: Vec<f32>,
    sizes: [usize; 4],
    stride: usize,
    offset: usize,
}

impl Sliced {
    fn new(values: &[f32], sizes: [usize; 4], extra: usize, offset: usize) -> Sliced {
        let [n, h, w, c] = sizes;
        let stride = c + extra;
        let pixels = n * h * w;
        // The last pixel ends with its last channel, so a read beyond it is a read outside.
        let mut buffer = vec![f32::NAN; (pixels - 1) * stride + offset + c];
        for p in 0..pixels {
            buffer[p * stride + offset..][..c].copy_from_slice(&values[p * c..][..c]);
        }
        Sliced { buffer, sizes, stride, offset }
    }

    fn view(&self) -> View<'_> {
        View::strided(&self.buffer[self.offset..], self.sizes, self.stride)
    }
}

/// A convolution's operands and right results.
struct Case {
    shape: ConvShape,
    input: Vec<f32>,
    weight: Vec<f32>,
    d_output: Vec<f32>,
}

impl Case {
    fn new(shape: ConvShape, seed: u64) -> Case {
        let s = &shape;
        let mut r = rng(seed);
        let input = random(&mut r, s.batch * s.in_h * s.in_w * s.in_ch);
        let weight = random(&mut r, s.weight_len());
        let d_output = random(&mut r, s.batch * s.out_h * s.out_w * s.out_ch);
        Case { shape, input, weight, d_output }
    }

    fn want(&self, pass: Pass) -> Vec<f64> {
        let (x, w, d) = (wide(&self.input), wide(&self.weight), wide(&self.d_output));
        match pass {
            Pass::Forward => reference_conv2d(&self.shape, &x, &w),
            Pass::InputGrad => reference_conv2d_input_grad(&self.shape, &d, &w),
            Pass::WeightGrad => reference_conv2d_weight_grad(&self.shape, &x, &d),
        }
    }

    fn got(&self, ctx: &Ctx, algorithm: Algorithm, pass: Pass) -> Vec<f32> {
        let s = &self.shape;
        let mut scratch = vec![f32::NAN; scratch_len_with(algorithm, s, pass, ctx.pool.threads())];
        let (in_sizes, out_sizes) = ([s.batch, s.in_h, s.in_w, s.in_ch], [s.batch, s.out_h, s.out_w, s.out_ch]);
        let input = Sliced::new(&self.input, in_sizes, 5, 3);
        let d_output = Sliced::new(&self.d_output, out_sizes, 8, 8);
        let what = format!("{pass:?} of {s:?}");
        match pass {
            Pass::Forward => {
                let sink = Collect::new(out_sizes);
                correlate(algorithm, ctx, s, pass, input.view(), &self.weight, &sink, &mut scratch);
                sink.finish(&what)
            }
            Pass::InputGrad => {
                let sink = Collect::new(in_sizes);
                correlate(algorithm, ctx, s, pass, d_output.view(), &self.weight, &sink, &mut scratch);
                sink.finish(&what)
            }
            Pass::WeightGrad => {
                let mut d_weight = vec![f32::NAN; s.weight_len()];
                weight_grad(algorithm, ctx, s, input.view(), d_output.view(), &mut d_weight, &mut scratch);
                d_weight
            }
        }
    }
}

const PASSES: [Pass; 3] = [Pass::Forward, Pass::InputGrad, Pass::WeightGrad];

/// All passes: right on every instruction set, the same bits for 1, 2 and 3 threads.
fn check(shape: ConvShape, algorithm: Algorithm, bound: f64, seed: u64) {
    let case = Case::new(shape, seed);
    for pass in PASSES {
        let want = case.want(pass);
        for isa in sets() {
            let what = format!("{algorithm:?} {pass:?} {isa:?} of {shape:?}");
            let run = |threads| {
                let pool = Pool::new(threads);
                case.got(&Ctx { pool: &pool, isa }, algorithm, pass)
            };
            let got = run(1);
            assert_close(&got, &want, bound, &what);
            for threads in 2..=if is_memcheck() { 2 } else { 3 } {
                let other = run(threads);
                assert!(
                    got.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{what}: other bits with {threads} threads"
                );
            }
        }
    }
}

fn shape(sizes: [usize; 4], out_ch: usize, ksize: [usize; 2], step: [usize; 3], depthwise: bool) -> Option<ConvShape> {
    let [ksize_h, ksize_w] = ksize;
    let [stride, pad, dilation] = step;
    ConvShape { ksize_h, ksize_w, dilation, depthwise, ..ConvShape::square(sizes, out_ch, 1, stride, pad)? }
        .with_out_size()
}

#[test]
fn direct_is_right_on_chosen_shapes() {
    let few_results = [
        shape([1, 9, 10, 64], 4, [9, 9], [1, 4, 1], false),
        shape([1, 1, 1, 1], 1, [1, 1], [1, 0, 1], false),
        shape([1, 1, 1, 1], 1, [9, 9], [1, 4, 1], false),
        shape([1, 7, 7, 24], 1, [4, 4], [1, 1, 1], false),
    ];
    let many_results = [
        shape([2, 3, 2, 5], 7, [5, 7], [1, 3, 1], false),
        shape([1, 9, 10, 4], 64, [9, 9], [1, 4, 1], false),
        shape([2, 5, 6, 40], 33, [1, 1], [1, 0, 1], false),
    ];
    let strided = [
        shape([2, 8, 9, 16], 24, [4, 4], [2, 1, 1], false),
        shape([2, 9, 8, 16], 24, [3, 3], [2, 1, 1], false),
        shape([1, 5, 6, 8], 8, [1, 1], [3, 2, 1], false),
    ];
    let depthwise = [
        shape([1, 12, 11, 9], 9, [7, 7], [1, 9, 3], true),
        shape([1, 12, 11, 9], 9, [3, 9], [2, 1, 1], true),
        shape([2, 13, 6, 20], 20, [5, 5], [1, 2, 1], true),
    ];
    // More than one chunk of pixels in the weight gradient, more than one item of a row in the others.
    let long =
        [shape([1, 12, 560, 32], 17, [1, 3], [1, 1, 1], false), shape([1, 40, 600, 16], 17, [3, 3], [1, 1, 1], false)];
    let chosen = of_each_kind(&[&few_results, &many_results, &strided, &depthwise, &long]);
    for (seed, shape) in chosen.into_iter().enumerate() {
        check(shape.unwrap(), Algorithm::Direct, DIRECT, seed as u64);
    }
}

#[test]
fn direct_is_right_on_random_shapes() {
    let mut r = rng(1000);
    let mut done = 0;
    let count = if is_memcheck() { 10 } else { 60 };
    while done < count {
        let mut pick = |low: u32, high: u32| (low + r.below(high - low + 1)) as usize;
        let sizes = [pick(1, 3), pick(1, 14), pick(1, 14), pick(1, 36)];
        let depthwise = pick(0, 3) == 0;
        let out_ch = if depthwise { sizes[3] } else { pick(1, 36) };
        let step = [pick(1, 3), pick(0, 4), pick(1, 3)];
        let Some(shape) = shape(sizes, out_ch, [pick(1, 5), pick(1, 5)], step, depthwise) else { continue };
        check(shape, Algorithm::Direct, DIRECT, 2000 + done);
        done += 1;
    }
}

#[test]
fn winograd_is_right() {
    let blocks_of_tiles = [
        ([2, 5, 7, 16], 24, 3, 1),
        ([1, 1, 1, 8], 8, 3, 1),
        ([1, 12, 13, 40], 8, 3, 1),
        ([1, 2, 2, 8], 8, 4, 1),
        ([2, 8, 7, 16], 24, 4, 1),
    ];
    let blocks_of_channels =
        [([3, 9, 6, 24], 136, 3, 1), ([1, 4, 4, 8], 72, 3, 1), ([1, 13, 10, 40], 72, 4, 1), ([1, 4, 4, 8], 72, 4, 1)];
    let borders = [([1, 6, 5, 16], 16, 3, 2), ([1, 6, 5, 16], 16, 3, 0)];
    let borders_of_four = [([1, 6, 7, 16], 8, 4, 0), ([1, 6, 5, 16], 16, 4, 3)];
    // More than one block of channels: weights that are transformed block by block, in all passes.
    let local = [([1, 5, 4, 256], 272, 4, 1), ([1, 6, 5, 264], 256, 3, 1)];
    // More than one chunk of tiles in the weight gradient.
    let chunks = [([1, 36, 37, 56], 8, 4, 1), ([1, 45, 48, 128], 8, 4, 1), ([1, 60, 62, 128], 8, 3, 1)];
    let kinds: [&[_]; 6] = [&blocks_of_tiles, &blocks_of_channels, &borders, &borders_of_four, &local, &chunks];
    for (seed, (sizes, out_ch, ksize, pad)) in of_each_kind(&kinds).into_iter().enumerate() {
        let shape = ConvShape::square(sizes, out_ch, ksize, 1, pad).unwrap();
        check(shape, Algorithm::Winograd, WINOGRAD, 3000 + seed as u64);
    }
}

#[test]
fn stacked_weight_gradients_are_right() {
    let chosen = [([1, 65, 66, 16], 1, 6, 2), ([1, 64, 65, 16], 3, 9, 4), ([2, 60, 56, 24], 4, 9, 0)];
    for (seed, (sizes, out_ch, ksize, pad)) in of_each_kind(&[&chosen]).into_iter().enumerate() {
        let case = Case::new(ConvShape::square(sizes, out_ch, ksize, 1, pad).unwrap(), 4000 + seed as u64);
        let want = case.want(Pass::WeightGrad);
        for isa in sets() {
            let mut results = Vec::new();
            for threads in [1, 3] {
                let pool = Pool::new(threads);
                let ctx = Ctx { pool: &pool, isa };
                assert_eq!(algorithm(&case.shape, Pass::WeightGrad), Algorithm::Stacked);
                results.push(case.got(&ctx, Algorithm::Stacked, Pass::WeightGrad));
            }
            assert_close(&results[0], &want, WINOGRAD, &format!("{:?} {isa:?}", case.shape));
            assert_eq!(results[0], results[1]);
        }
    }
}

fn forward(ctx: &Ctx, s: &ConvShape, input: View, weight: &[f32], sink: &Collect, scratch: &mut [f32]) {
    correlate(algorithm(s, Pass::Forward), ctx, s, Pass::Forward, input, weight, sink, scratch);
}

#[test]
#[should_panic(expected = "floats of scratch and needs")]
fn too_little_scratch_is_refused() {
    let shape = ConvShape::square([1, 4, 4, 8], 8, 3, 1, 1).unwrap();
    let (input, weight, pool) = (vec![0.0; 128], vec![0.0; 576], Pool::new(1));
    let mut scratch = vec![0.0; scratch_len(&shape, Pass::Forward, 1) - 1];
    let ctx = Ctx { pool: &pool, isa: Isa::PORTABLE };
    let sink = Collect::new([1, 4, 4, 8]);
    forward(&ctx, &shape, View::new(&input, [1, 4, 4, 8]), &weight, &sink, &mut scratch);
}

#[test]
#[should_panic(expected = "a view for")]
fn a_view_of_another_shape_is_refused() {
    let shape = ConvShape::square([1, 4, 4, 8], 8, 3, 1, 1).unwrap();
    let (input, weight, pool) = (vec![0.0; 128], vec![0.0; 576], Pool::new(1));
    let ctx = Ctx { pool: &pool, isa: Isa::PORTABLE };
    let sink = Collect::new([1, 4, 4, 8]);
    forward(&ctx, &shape, View::new(&input, [1, 8, 4, 4]), &weight, &sink, &mut []);
}
