//! Registration by phase correlation (Guizar-Sicairos et al., "Efficient subpixel image registration algorithms", 2008):
//! the peak of the inverse transform of the normalised cross-power spectrum, first to a whole pixel, then around it in
//! steps of 1/50, as scikit-image's `phase_cross_correlation` finds it.
//!
//! Transforms are products with matrices: images are patches of some hundred pixels, and the fine search needs values
//! between the pixels anyway.

use std::f64::consts::TAU;

use super::Planes;

/// Steps in a pixel.
const STEPS: f64 = 50.0;
/// Whole steps around the first estimate, in each direction.
const AROUND: i32 = 37;
/// Weaker frequencies keep less than their phase: 100 times the resolution of f32, in which the package computes.
const FLOOR: f64 = 100.0 * f32::EPSILON as f64;

/// A shift in pixels, downwards and to the right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shift {
    pub rows: f64,
    pub columns: f64,
}

/// By how much `moving` has to be shifted to lie on `reference`; both are one plane of equal extent.
pub(super) fn shift(reference: &Planes, moving: &Planes) -> Shift {
    let (height, width) = (reference.height, reference.width);
    let all = |n: usize| (0..n).map(|i| i as f64).collect::<Vec<_>>();
    let forward = |image: &Planes| Field::real(image).transformed((&all(height), &all(width)), -1.0);
    let spectrum = forward(reference).cross_power(&forward(moving));
    let whole = spectrum.transformed((&all(height), &all(width)), 1.0).peak();
    let [row, column] = [(whole / width, height), (whole % width, width)].map(|(at, n)| centred(at, n));
    if height * width == 1 {
        return Shift { rows: 0.0, columns: 0.0 };
    }
    let around = |at: f64| (-AROUND..AROUND + 1).map(|step| at + f64::from(step) / STEPS).collect::<Vec<_>>();
    let (rows, columns) = (around(row), around(column));
    let fine = spectrum.transformed((&rows, &columns), 1.0).peak();
    let found = |positions: &[f64], at: usize, n: usize| if n == 1 { 0.0 } else { positions[at] };
    Shift { rows: found(&rows, fine / columns.len(), height), columns: found(&columns, fine % columns.len(), width) }
}

/// An index of a cyclic axis as a distance from its start.
fn centred(at: usize, n: usize) -> f64 {
    if at > n / 2 { at as f64 - n as f64 } else { at as f64 }
}

/// A plane of complex numbers.
struct Field {
    height: usize,
    width: usize,
    re: Vec<f64>,
    im: Vec<f64>,
}

impl Field {
    fn real(image: &Planes) -> Field {
        Field { height: image.height, width: image.width, re: image.values.clone(), im: vec![0.0; image.values.len()] }
    }

    /// `self · conj(other)`, each number divided by its magnitude.
    fn cross_power(&self, other: &Field) -> Field {
        let product = |i: usize| {
            let (a, b, c, d) = (self.re[i], self.im[i], other.re[i], -other.im[i]);
            let (re, im) = (a * c - b * d, a * d + b * c);
            let magnitude = re.hypot(im).max(FLOOR);
            (re / magnitude, im / magnitude)
        };
        let (re, im) = (0..self.re.len()).map(product).unzip();
        Field { height: self.height, width: self.width, re, im }
    }

    /// Σ value · exp(sign · 2πi · (y·row/height + x·column/width)) for all pairs of `rows` and `columns`. Where these lie
    /// between whole numbers, y and x count from the centre.
    fn transformed(&self, (rows, columns): (&[f64], &[f64]), sign: f64) -> Field {
        self.along_rows(columns, sign).along_rows(rows, sign)
    }

    /// The transform of each row, as a column of the result.
    fn along_rows(&self, positions: &[f64], sign: f64) -> Field {
        let n = self.width;
        let angle = |at: f64, x: usize| sign * TAU * (at * centred_frequency(x, n) / n as f64).fract();
        let (mut re, mut im) = (Vec::new(), Vec::new());
        for at in positions {
            let wave: Vec<(f64, f64)> = (0..n).map(|x| angle(*at, x).sin_cos()).collect();
            for (row_re, row_im) in self.re.chunks_exact(n).zip(self.im.chunks_exact(n)) {
                let (mut sum_re, mut sum_im) = (0.0, 0.0);
                for ((a, b), (sin, cos)) in row_re.iter().zip(row_im).zip(&wave) {
                    sum_re += a * cos - b * sin;
                    sum_im += a * sin + b * cos;
                }
                re.push(sum_re);
                im.push(sum_im);
            }
        }
        Field { height: positions.len(), width: self.height, re, im }
    }

    /// Where the magnitude is largest; of equals the first.
    fn peak(&self) -> usize {
        let magnitude = |i: usize| self.re[i] * self.re[i] + self.im[i] * self.im[i];
        let larger = |best: usize, i: usize| if magnitude(i) > magnitude(best) { i } else { best };
        (0..self.re.len()).fold(0, larger)
    }
}

/// The frequency of an element of a spectrum of `n`.
fn centred_frequency(at: usize, n: usize) -> f64 {
    if at >= n.div_ceil(2) { at as f64 - n as f64 } else { at as f64 }
}
