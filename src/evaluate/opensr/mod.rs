//! The seven columns of opensr-test 1.3.3 in its default configuration (Aybar et al., "A comprehensive benchmark for
//! optical remote sensing image super-resolution", 2024): consistency of SR with LR (reflectance, spectral, spatial),
//! synthesis, and correctness beside HR (hallucination, omission, improvement).
//!
//! By default the package aligns images by phase correlation and needs no network. It computes in f32, this module in f64.

mod harmonise;
mod planes;
mod register;
#[cfg(test)]
mod tests;

use harmonise::{match_histograms, warp};
pub use planes::Planes;
use register::{Shift, shift};

/// HR pixels at each border that are left out: networks do worse there.
const BORDER: usize = 16;
/// Alignments over more pixels are taken for wrong.
const MAX_SHIFT: f64 = 5.0;
/// Share of pixels by their distance between LR and HR above which a pixel counts in correctness.
const QUANTILE: f64 = 0.75;
/// The package's `ha_score`, `om_score` and `im_score`.
const LAMBDA: f64 = 0.05;
/// The package's `correctness_temperature`.
const TEMPERATURE: f64 = 0.25;
/// Added to the denominator of normalised differences.
const EPSILON: f64 = 1e-8;

/// Names of the columns, in the order of [`Scores::values`], and whether a higher value is better.
pub const COLUMNS: [(&str, bool); 7] = [
    ("reflectance", false),
    ("spectral", false),
    ("spatial", false),
    ("synthesis", true),
    ("hallucination", false),
    ("omission", false),
    ("improvement", true),
];

/// The columns of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Mean absolute difference of LR and reduced SR.
    pub reflectance: f64,
    /// Mean spectral angle of LR and reduced SR, in degrees.
    pub spectral: f64,
    /// Shift between LR and reduced SR in LR pixels; NaN where the alignment fails.
    pub spatial: f64,
    /// Mean absolute difference of enlarged LR and SR: the detail that was added.
    pub synthesis: f64,
    /// Share of detail that neither LR nor HR has.
    pub hallucination: f64,
    /// Share of detail of HR that SR lacks.
    pub omission: f64,
    /// Share of detail that SR has in common with HR.
    pub improvement: f64,
}

impl Scores {
    /// In the order of [`COLUMNS`].
    pub fn values(&self) -> [f64; COLUMNS.len()] {
        let Scores { reflectance, spectral, spatial, synthesis, hallucination, omission, improvement } = *self;
        [reflectance, spectral, spatial, synthesis, hallucination, omission, improvement]
    }
}

/// The smallest side of an HR image that has scores: without its border, at least two LR pixels.
pub fn smallest_side(scale: usize) -> usize {
    2 * BORDER + 2 * scale
}

/// The scores of an image of which neither side is shorter than [`smallest_side`]. `lr` is smaller than `sr` and `hr` by
/// `scale`; `rgb` are the bands that LR and reduced SR are aligned by, of fewer than three bands the first.
pub fn scores(lr: &Planes, sr: &Planes, hr: &Planes, scale: usize, rgb: &[usize]) -> Scores {
    let (lr, sr, hr) = (lr.cropped(BORDER / scale), sr.cropped(BORDER), hr.cropped(BORDER));
    let enlarged = lr.resized(lr.height * scale, lr.width * scale);
    let reduced = sr.resized(lr.height, lr.width);
    let harmonised = harmonise(&sr, &hr);
    let shown: &[usize] = if lr.bands < 3 { &[0] } else { rgb };
    let spatial = match plausible(shift(&reduced.mean_of(shown), &lr.mean_of(shown))) {
        Some(Shift { rows, columns }) => rows.hypot(columns),
        None => f64::NAN,
    };
    let [improvement, omission, hallucination] = correctness(&enlarged, &harmonised, &hr);
    Scores {
        reflectance: mean(by_pixel(&lr, &reduced, absolute)),
        spectral: mean(by_pixel(&lr, &reduced, angle)),
        spatial,
        synthesis: mean(by_pixel(&enlarged, &harmonised, absolute)),
        hallucination,
        omission,
        improvement,
    }
}

/// SR without its systematic errors against HR: histograms matched, then aligned.
fn harmonise(sr: &Planes, hr: &Planes) -> Planes {
    let matched = match_histograms(sr, hr);
    match plausible(shift(&hr.mean(), &matched.mean())) {
        Some(by) => warp(&matched, by),
        None => matched,
    }
}

/// A shift that is not taken for wrong.
fn plausible(shift: Shift) -> Option<Shift> {
    (shift.rows.hypot(shift.columns) <= MAX_SHIFT).then_some(shift)
}

/// Improvement, omission and hallucination: shares of three classes, by each pixel's distances to LR and to HR relative to
/// the distance between these. Only pixels with detail count.
fn correctness(enlarged: &Planes, sr: &Planes, hr: &Planes) -> [f64; 3] {
    let reference: Vec<f64> = by_pixel(enlarged, hr, difference).collect();
    let to_hr = by_pixel(sr, hr, difference);
    let to_lr = by_pixel(sr, enlarged, difference);
    let threshold = quantile(&reference);
    let (mut sums, mut counts) = ([0.0; 3], [0.0; 3]);
    for ((reference, to_hr), to_lr) in reference.iter().zip(to_hr).zip(to_lr) {
        let has_detail = [*reference, to_hr, to_lr].iter().any(|distance| *distance > threshold);
        if !has_detail {
            continue;
        }
        for (class, share) in classes(to_hr / reference, to_lr / reference).into_iter().enumerate() {
            if !share.is_nan() {
                sums[class] += share;
                counts[class] += 1.0;
            }
        }
    }
    [0, 1, 2].map(|class| sums[class] / counts[class])
}

/// The share of each class in a pixel with these relative distances to HR and to LR.
fn classes(to_hr: f64, to_lr: f64) -> [f64; 3] {
    let beyond = 1.0 - (-(to_hr + to_lr - 1.0) * LAMBDA).exp();
    let improvement = to_hr + to_lr * beyond;
    let omission = to_lr + to_hr * beyond;
    let hallucination = (-to_hr * to_lr * LAMBDA).exp();
    let weights = [improvement, omission, hallucination].map(|distance| (-distance / TEMPERATURE).exp());
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// The value of which a share of [`QUANTILE`] is not above.
fn quantile(values: &[f64]) -> f64 {
    let rank = ((QUANTILE * values.len() as f64) as usize).max(1);
    let mut values = values.to_vec();
    let (_, value, _) = values.select_nth_unstable_by(rank - 1, f64::total_cmp);
    *value
}

/// `of` the band vectors of each pixel.
fn by_pixel<'a>(
    a: &'a Planes,
    b: &'a Planes,
    of: impl Fn(&mut dyn Iterator<Item = (f64, f64)>) -> f64 + 'a,
) -> impl Iterator<Item = f64> + 'a {
    let pixels = a.height * a.width;
    (0..pixels)
        .map(move |p| of(&mut (0..a.bands).map(|band| (a.values[band * pixels + p], b.values[band * pixels + p]))))
}

/// Mean absolute difference.
fn absolute(pairs: &mut dyn Iterator<Item = (f64, f64)>) -> f64 {
    mean(pairs.map(|(a, b)| (a - b).abs()))
}

/// Mean absolute difference over the sum.
fn difference(pairs: &mut dyn Iterator<Item = (f64, f64)>) -> f64 {
    mean(pairs.map(|(a, b)| (a - b).abs() / (a + b + EPSILON).abs()))
}

/// The angle between two vectors in degrees; NaN where one is zero.
fn angle(pairs: &mut dyn Iterator<Item = (f64, f64)>) -> f64 {
    let (mut product, mut a_squared, mut b_squared) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        product += a * b;
        a_squared += a * a;
        b_squared += b * b;
    }
    (product / (a_squared.sqrt() * b_squared.sqrt())).clamp(-1.0, 1.0).acos().to_degrees()
}

/// The mean of what is not NaN; NaN without any.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.filter(|v| !v.is_nan()).fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    sum / count
}
