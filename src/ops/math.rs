//! Elementary functions and sums that the compiler turns into vector code: no branches, no library calls.

/// e^x with a relative error under 2 units in the last place; 0 and infinity where f32 ends, NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2 (Cody and Waite's two-part ln 2), a polynomial for e^r (coefficients of
/// Cephes' `expf`), and 2^n put together in two factors, so that neither leaves the exponent's range.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5·2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-104.0, 89.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let exponent = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * r + coefficient;
    }
    let power = p * r * r + r + 1.0;
    let half = exponent >> 1;
    let two_to = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    power * two_to(half) * two_to(exponent.wrapping_sub(half))
}

/// The logistic function 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent; a polynomial (coefficients of Cephes' `tanhf`) near 0, where the quotient of
/// exponentials cancels.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * z + coefficient;
    }
    let near = p * z * x + x;
    if x.abs() < 0.625 { near } else { far }
}

/// Sixteen running sums, so that a long sum uses vector registers in an order that no compiler changes.
#[derive(Clone, Copy, Default)]
pub struct Lanes([f32; 16]);

impl Lanes {
    /// Adds `f(a[i], b[i])` for every `i` of two slices of equal length.
    #[inline(always)]
    pub fn add2(&mut self, a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
        let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
        let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
        for (lane, (x, y)) in self.0.iter_mut().zip(rest) {
            *lane += f(*x, *y);
        }
        for (x, y) in a_blocks.zip(b_blocks) {
            for l in 0..16 {
                self.0[l] += f(x[l], y[l]);
            }
        }
    }

    /// Adds `f(a[i], b[i], c[i])` for every `i` of three slices of equal length.
    #[inline(always)]
    pub fn add3(&mut self, a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) {
        let ((a, a_rest), (b, b_rest), (c, c_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>(), c.as_chunks::<16>());
        for (lane, ((x, y), z)) in self.0.iter_mut().zip(a_rest.iter().zip(b_rest).zip(c_rest)) {
            *lane += f(*x, *y, *z);
        }
        for ((x, y), z) in a.iter().zip(b).zip(c) {
            for l in 0..16 {
                self.0[l] += f(x[l], y[l], z[l]);
            }
        }
    }

    /// The sum of all lanes.
    #[inline(always)]
    pub fn total(&self) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest distance from `f` in units of the last place of the true value, over [-limit, limit].
    fn worst_ulps(limit: f32, got: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> f64 {
        (0..=400_000).fold(0f64, |worst, i| {
            let x = limit * (i as f32 / 200_000.0 - 1.0);
            let want = want(f64::from(x));
            let ulp = f64::from(f32::from_bits((want as f32).abs().to_bits() + 1)) - f64::from((want as f32).abs());
            let error = (f64::from(got(x)) - want).abs() / ulp;
            assert!(error.is_finite(), "at {x}");
            worst.max(error)
        })
    }

    #[test]
    fn exp_and_its_relatives_are_accurate() {
        let exp_error = worst_ulps(88.0, exp, f64::exp).max(worst_ulps(1.0, exp, f64::exp));
        assert!(exp_error < 2.0, "exp: {exp_error} ulp");
        let sigmoid_error = worst_ulps(30.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(sigmoid_error < 4.0, "sigmoid: {sigmoid_error} ulp");
        let tanh_error = worst_ulps(12.0, tanh, f64::tanh).max(worst_ulps(1.0, tanh, f64::tanh));
        assert!(tanh_error < 4.0, "tanh: {tanh_error} ulp");
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!([exp(-1e30), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert_eq!([exp(1e30), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!((exp(-100.0) / (-100f32).exp() - 1.0).abs() < 0.03, "denormal result");
        assert_eq!([sigmoid(-1e30), sigmoid(f32::NEG_INFINITY), sigmoid(f32::INFINITY)], [0.0, 0.0, 1.0]);
        assert_eq!([tanh(-1e30), tanh(f32::INFINITY), tanh(0.0)], [-1.0, 1.0, 0.0]);
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }

    #[test]
    fn lanes_sum_everything_once() {
        let a: Vec<f32> = (0..53).map(|i| i as f32).collect();
        let mut sum = Lanes::default();
        sum.add2(&a, &a, |x, y| x + y);
        sum.add2(&a[..3], &a[..3], |x, _| x);
        assert_eq!(sum.total(), 52.0 * 53.0 + 3.0);
        sum.add3(&a, &a, &a, |x, y, z| x + 2.0 * y - z);
        assert_eq!(sum.total(), 2.0 * 52.0 * 53.0 + 3.0);
    }
}
