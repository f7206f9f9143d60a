//! Plain loops over any [`Float`]: what kernels are checked against and what finite differences run on.
//! Tensors are contiguous: NHWC activations, O,kh,kw,I weights.

use crate::types::{ConvShape, Float};

/// Calls `f(output pixel, input pixel, tap)` for every pair that a convolution connects, in row-major order
/// of (output pixel, tap).
fn for_each_tap(shape: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let s = shape;
    for n in 0..s.batch {
        for y in 0..s.out_h {
            for x in 0..s.out_w {
                for tap in 0..s.taps() {
                    let (ky, kx) = (tap / s.ksize_w, tap % s.ksize_w);
                    let (Some(iy), Some(ix)) = (s.source(y, ky, s.in_h), s.source(x, kx, s.in_w)) else { continue };
                    f((n * s.out_h + y) * s.out_w + x, (n * s.in_h + iy) * s.in_w + ix, tap);
                }
            }
        }
    }
}

/// Calls `f(output channel, input channel, weight index)` for every weight of a tap.
fn for_each_weight(shape: &ConvShape, tap: usize, mut f: impl FnMut(usize, usize, usize)) {
    let s = shape;
    for o in 0..s.out_ch {
        for i in 0..s.weight_in_ch() {
            let input_channel = if s.depthwise { o } else { i };
            f(o, input_channel, (o * s.taps() + tap) * s.weight_in_ch() + i);
        }
    }
}

/// output\[n,y,x,o\] = Σ weight\[o,ky,kx,i\] input\[n, y stride + ky dilation − pad, …, i\].
pub fn reference_conv2d<T: Float>(shape: &ConvShape, input: &[T], weight: &[T]) -> Vec<T> {
    let mut output = vec![T::ZERO; shape.batch * shape.out_h * shape.out_w * shape.out_ch];
    for_each_tap(shape, |out, inp, tap| {
        for_each_weight(shape, tap, |o, i, w| {
            output[out * shape.out_ch + o] += weight[w] * input[inp * shape.in_ch + i];
        });
    });
    output
}

/// The gradient of [`reference_conv2d`] by its input.
pub fn reference_conv2d_input_grad<T: Float>(shape: &ConvShape, d_output: &[T], weight: &[T]) -> Vec<T> {
    let mut d_input = vec![T::ZERO; shape.batch * shape.in_h * shape.in_w * shape.in_ch];
    for_each_tap(shape, |out, inp, tap| {
        for_each_weight(shape, tap, |o, i, w| {
            d_input[inp * shape.in_ch + i] += weight[w] * d_output[out * shape.out_ch + o];
        });
    });
    d_input
}

/// The gradient of [`reference_conv2d`] by its weight.
pub fn reference_conv2d_weight_grad<T: Float>(shape: &ConvShape, input: &[T], d_output: &[T]) -> Vec<T> {
    let mut d_weight = vec![T::ZERO; shape.weight_len()];
    for_each_tap(shape, |out, inp, tap| {
        for_each_weight(shape, tap, |o, i, w| {
            d_weight[w] += input[inp * shape.in_ch + i] * d_output[out * shape.out_ch + o];
        });
    });
    d_weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_convolution_by_hand() {
        let shape = ConvShape::square([1, 2, 2, 1], 1, 3, 1, 1).unwrap();
        let weight: Vec<f64> = (1..=9).map(f64::from).collect();
        let input = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(reference_conv2d(&shape, &input, &weight), [77.0, 67.0, 47.0, 37.0]);
    }

    #[test]
    fn the_three_passes_are_adjoint() {
        // <y(x, w), d> is linear in x and in w, so it equals <x, dx> and <w, dw>.
        for (depthwise, out_ch) in [(false, 4), (true, 3)] {
            let base = ConvShape::square([2, 5, 4, 3], out_ch, 3, 2, 2).unwrap();
            let shape = ConvShape { dilation: 2, ksize_h: 2, depthwise, ..base }.with_out_size().unwrap();
            let fill = |n: usize, a: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 * a).sin()).collect() };
            let x = fill(2 * 5 * 4 * 3, 1.3);
            let w = fill(shape.weight_len(), 0.7);
            let y = reference_conv2d(&shape, &x, &w);
            let d = fill(y.len(), 2.1);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let want = dot(&y, &d);
            assert!(want.abs() > 1e-3);
            assert!((dot(&x, &reference_conv2d_input_grad(&shape, &d, &w)) - want).abs() < 1e-12);
            assert!((dot(&w, &reference_conv2d_weight_grad(&shape, &x, &d)) - want).abs() < 1e-12);
        }
    }
}
