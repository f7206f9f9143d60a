//! The spectral angle: the angle between the band vectors of two pixels (Kruse et al., "The spectral image
//! processing system (SIPS)", 1993), and its gradient by the first vector.
//!
//! `angle = arccos( clamp( a·b / max(|a||b|, ε), ±(1 − 1e-7) ) )` with |a|, |b| ≥ ε = 1e-8; the gradient is 0
//! where the cosine is clamped.
//!
//! In f32 the cosine of a small angle keeps almost none of it. The fast code therefore works with the chord
//! between the unit vectors, `z = |a/|a| − b/|b||² = 2 − 2 cos`, from which `angle = 2 asin(√z/2)`, and for
//! angles over 90° with the chord to −b/|b|. Pixels that are darker than ε take the plain formula in f64.

use std::f32::consts::PI;

const EPS: f64 = 1e-8;
const COS_LIMIT: f64 = 1.0 - 1e-7;
/// 2 − 2·COS_LIMIT: shorter chords are clamped.
const MIN_CHORD: f32 = 2e-7;
/// Pixels that are computed together.
const LANES: usize = 32;

/// Scalar products of a pair of pixels with what the formula makes of them.
struct Plain {
    dot: f64,
    norm_a: f64,
    norm_b: f64,
    denominator: f64,
}

impl Plain {
    fn new(pairs: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for (a, b) in pairs {
            dot += a * b;
            aa += a * a;
            bb += b * b;
        }
        let (norm_a, norm_b): (f64, f64) = (aa.sqrt(), bb.sqrt());
        Plain { dot, norm_a, norm_b, denominator: (norm_a.max(EPS) * norm_b.max(EPS)).max(EPS) }
    }

    fn cosine(&self) -> f64 {
        self.dot / self.denominator
    }

    /// (α, β) with ∂angle/∂a = α·a + β·b.
    fn gradient(&self) -> (f64, f64) {
        let cosine = self.cosine();
        if cosine.abs() > COS_LIMIT {
            return (0.0, 0.0);
        }
        let slope = -1.0 / (1.0 - cosine * cosine).sqrt();
        let norms_count = self.norm_a >= EPS && self.norm_a * self.norm_b.max(EPS) >= EPS;
        let shrink = if norms_count { -cosine / (self.norm_a * self.norm_a) } else { 0.0 };
        (slope * shrink, slope / self.denominator)
    }
}

/// The angle in radians between two band vectors, by the plain formula.
pub fn angle(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    Plain::new(pairs).cosine().clamp(-COS_LIMIT, COS_LIMIT).acos()
}

/// Factors (α, β) of the gradient α·a + β·b of the angle by the first vector, by the plain formula.
pub fn angle_grad(pairs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    Plain::new(pairs).gradient()
}

fn pixel_pairs<'a>(a: &'a [f32], b: &'a [f32], p: usize, channels: usize) -> impl Iterator<Item = (f64, f64)> + 'a {
    let at = p * channels..(p + 1) * channels;
    a[at.clone()].iter().zip(&b[at]).map(|(a, b)| (f64::from(*a), f64::from(*b)))
}

/// What the fast code knows about up to [`LANES`] pixels.
struct Chords {
    /// 1/|a|.
    inv_a: [f32; LANES],
    /// ±1/|b|, negative where the angle is over 90°.
    inv_b: [f32; LANES],
    /// Squared chord from a/|a| to ±b/|b|, at most 2.
    chord: [f32; LANES],
    /// Whether the pixel needs the plain formula.
    dark: [bool; LANES],
}

impl Chords {
    /// `CH` is the number of channels, or 0 if only `channels` knows it.
    #[inline(always)]
    fn new<const CH: usize>(a: &[f32], b: &[f32], channels: usize) -> Self {
        let ch = if CH == 0 { channels } else { CH };
        let n = (a.len() / ch).min(LANES);
        let (a, b) = (&a[..n * ch], &b[..n * ch]);
        let (mut inv_a, mut inv_b, mut dark) = ([0f32; LANES], [0f32; LANES], [false; LANES]);
        for c in 0..ch {
            for p in 0..n {
                let (x, y) = (a[p * ch + c], b[p * ch + c]);
                inv_a[p] += x * x;
                inv_b[p] += y * y;
            }
        }
        let eps = EPS as f32;
        for p in 0..LANES {
            let (na, nb) = (inv_a[p].sqrt(), inv_b[p].sqrt());
            dark[p] = na < eps || nb < eps || na * nb < eps;
            // Any finite number will do for a dark pixel; NaN stays NaN.
            inv_a[p] = 1.0 / if na < eps { 1.0 } else { na };
            inv_b[p] = 1.0 / if nb < eps { 1.0 } else { nb };
        }
        let (mut near, mut far) = ([0f32; LANES], [0f32; LANES]);
        for c in 0..ch {
            for p in 0..n {
                let (u, v) = (a[p * ch + c] * inv_a[p], b[p * ch + c] * inv_b[p]);
                near[p] += (u - v) * (u - v);
                far[p] += (u + v) * (u + v);
            }
        }
        for p in 0..LANES {
            let opposite = far[p] < near[p];
            near[p] = if opposite { far[p] } else { near[p] };
            inv_b[p] = if opposite { -inv_b[p] } else { inv_b[p] };
        }
        Chords { inv_a, inv_b, chord: near, dark }
    }
}

/// asin(√t)/√t on 0 ≤ t ≤ ½, to 3e-8 (a Chebyshev fit).
#[inline(always)]
fn asin_ratio(t: f32) -> f32 {
    const FIT: [f32; 9] = [
        1.0,
        1.666_660_8e-1,
        7.503_074_4e-2,
        4.403_984e-2,
        3.622_799_7e-2,
        -8.811_485e-3,
        1.116_855_9e-1,
        -1.412_475_6e-1,
        1.266_042_3e-1,
    ];
    FIT.iter().rev().fold(0.0, |sum, c| sum * t + c)
}

/// Runs `$call::<CH>` with the channels as a constant for the usual numbers of bands.
macro_rules! with_channels {
    ($channels:expr, $call:ident($($arg:expr),*)) => {
        match $channels {
            1 => $call::<1>($($arg),*),
            3 => $call::<3>($($arg),*),
            4 => $call::<4>($($arg),*),
            6 => $call::<6>($($arg),*),
            13 => $call::<13>($($arg),*),
            _ => $call::<0>($($arg),*),
        }
    };
}

crate::simd_fn! {
    /// The sum of the angles of all pixels of two runs of pixels with `channels` values each.
    pub fn sum_angles(a: &[f32], b: &[f32], channels: usize) -> f64 {
        with_channels!(channels, sum_angles_of(a, b, channels))
    }
}

#[inline(always)]
fn sum_angles_of<const CH: usize>(a: &[f32], b: &[f32], channels: usize) -> f64 {
    let mut sum = 0.0;
    for (a, b) in a.chunks(LANES * channels).zip(b.chunks(LANES * channels)) {
        let n = a.len() / channels;
        let chords = Chords::new::<CH>(a, b, channels);
        let mut angles = [0f32; LANES];
        for p in 0..LANES {
            let chord = if chords.chord[p] < MIN_CHORD { MIN_CHORD } else { chords.chord[p] };
            let angle = chord.sqrt() * asin_ratio(0.25 * chord);
            angles[p] = if chords.inv_b[p] < 0.0 { PI - angle } else { angle };
        }
        let dark = &chords.dark[..n];
        if dark.contains(&true) {
            for p in (0..n).filter(|p| dark[*p]) {
                angles[p] = angle(pixel_pairs(a, b, p, channels)) as f32;
            }
        }
        sum += f64::from(angles[..n].iter().sum::<f32>());
    }
    sum
}

crate::simd_fn! {
    /// `d_a += scale·∂angle/∂a` for all pixels of two runs of pixels with `channels` values each.
    pub fn add_angle_grads(a: &[f32], b: &[f32], channels: usize, scale: f32, d_a: &mut [f32]) {
        with_channels!(channels, add_angle_grads_of(a, b, channels, scale, d_a));
    }
}

#[inline(always)]
fn add_angle_grads_of<const CH: usize>(a: &[f32], b: &[f32], channels: usize, scale: f32, d_a: &mut [f32]) {
    let ch = if CH == 0 { channels } else { CH };
    let runs = a.chunks(LANES * ch).zip(b.chunks(LANES * ch)).zip(d_a.chunks_mut(LANES * ch));
    for ((a, b), d_a) in runs {
        let n = a.len() / ch;
        let chords = Chords::new::<CH>(a, b, channels);
        let mut factor = [0f32; LANES];
        for p in 0..LANES {
            let chord = chords.chord[p];
            let sine = (chord * (1.0 - 0.25 * chord)).sqrt();
            let along = if chords.inv_b[p] < 0.0 { scale } else { -scale };
            let is_flat = chord < MIN_CHORD || chords.dark[p];
            factor[p] = if is_flat { 0.0 } else { along * chords.inv_a[p] / sine };
        }
        for p in 0..n {
            for i in p * ch..(p + 1) * ch {
                // ∂cos/∂a = (w − cos·u)/|a| with u = a/|a|, w = b/|b|, written without cancellation.
                let (u, w) = (a[i] * chords.inv_a[p], b[i] * chords.inv_b[p]);
                d_a[i] += factor[p] * ((w - u) + 0.5 * chords.chord[p] * u);
            }
        }
        for p in (0..n).filter(|p| chords.dark[*p]) {
            let (alpha, beta) = angle_grad(pixel_pairs(a, b, p, ch));
            let scale = f64::from(scale);
            for (d, (a, b)) in d_a[p * ch..].iter_mut().zip(pixel_pairs(a, b, p, ch)) {
                *d += (scale * (alpha * a + beta * b)) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Isa;

    /// Angle and gradient of a single pixel by the fast code.
    fn fast(a: &[f32], b: &[f32]) -> (f64, Vec<f32>) {
        let mut d_a = vec![0.0; a.len()];
        add_angle_grads(Isa::detect(), a, b, a.len(), 1.0, &mut d_a);
        (sum_angles(Isa::detect(), a, b, a.len()), d_a)
    }

    fn check(a: &[f32], b: &[f32], tol: f64) {
        let (got, d_a) = fast(a, b);
        let pairs = || pixel_pairs(a, b, 0, a.len());
        let want = angle(pairs());
        assert!((got - want).abs() <= tol * want, "{a:?} {b:?}: {got} for {want}");
        let (alpha, beta) = angle_grad(pairs());
        let grad: Vec<f64> = pairs().map(|(a, b)| alpha * a + beta * b).collect();
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        for (got, want) in d_a.iter().zip(grad) {
            assert!((f64::from(*got) - want).abs() <= 3.0 * tol * norm, "{a:?} {b:?}: {got} for {want}");
        }
    }

    #[test]
    fn small_angles_keep_their_digits() {
        let a = [0.31, 0.27, 0.45, 0.6];
        for k in 0..6 {
            // Turned by about 10^-k.
            let turn = 10f32.powi(-k) * 0.5;
            check(&a, &[a[0] + turn * a[1], a[1] - turn * a[0], a[2], a[3]], if k < 3 { 1e-6 } else { 3e-4 });
        }
        check(&[1.0, 0.0, 0.0], &[-0.9, 0.01, 0.0], 1e-5);
    }

    #[test]
    fn equal_and_opposite_vectors_are_clamped_without_gradient() {
        for (a, b, want) in [([0.3, 0.4], [0.6, 0.8], 4.472e-4), ([0.3, 0.4], [-0.6, -0.8], 3.141_145_4)] {
            let (angle, d_a) = fast(&a, &b);
            assert!((angle - want).abs() < 1e-6, "{angle}");
            assert_eq!(d_a, [0.0, 0.0]);
        }
        assert_eq!(fast(&[0.7], &[0.2]).1, [0.0]);
    }

    #[test]
    fn dark_pixels_follow_the_clamped_formula() {
        // No data in both: no direction, no gradient.
        assert_eq!(fast(&[0.0; 3], &[0.0; 3]), (std::f64::consts::FRAC_PI_2 as f32 as f64, vec![0.0; 3]));
        // In one of them.
        check(&[0.2, 0.3, 0.4], &[0.0; 3], 1e-6);
        check(&[0.0; 3], &[2e-9, 3e-9, 4e-9], 1e-6);
        // Norms over ε whose product is below it.
        check(&[1e-5, 2e-5, 1e-5], &[1e-5, 1e-5, 3e-5], 1e-6);
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        assert!(fast(&[f32::NAN, 1.0], &[1.0, 1.0]).0.is_nan());
        assert!(fast(&[1.0, 1.0], &[1.0, f32::NAN]).0.is_nan());
    }

    #[test]
    fn every_number_of_channels_and_of_pixels() {
        for channels in [1, 2, 3, 4, 6, 13, 20] {
            for pixels in [1, 31, 32, 33, 70] {
                let value = |i: usize, k: f32| 0.5 + 0.4 * (i as f32 * k).sin();
                let a: Vec<f32> = (0..pixels * channels).map(|i| value(i, 1.7)).collect();
                let b: Vec<f32> = (0..pixels * channels).map(|i| value(i, 0.9)).collect();
                let want: f64 = (0..pixels).map(|p| angle(pixel_pairs(&a, &b, p, channels))).sum();
                for isa in Isa::all() {
                    let got = sum_angles(isa, &a, &b, channels);
                    assert!((got - want).abs() <= 1e-6 * want, "{channels} {pixels}: {got} for {want}");
                }
            }
        }
    }
}
