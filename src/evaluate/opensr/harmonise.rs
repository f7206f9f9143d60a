//! What removes the systematic errors of SR: the histogram of each band, and a shift.

use super::Planes;
use super::register::Shift;

/// Gives each band of `image` the distribution of the reference's, as scikit-image's `match_histograms`: a value becomes
/// that of the same quantile, interpolated between the reference's distinct values.
pub(super) fn match_histograms(image: &Planes, reference: &Planes) -> Planes {
    let mut values = Vec::with_capacity(image.values.len());
    for band in 0..image.bands {
        let (of_image, of_reference) = (distinct(image.plane(band)), distinct(reference.plane(band)));
        let mut matched = Vec::with_capacity(of_image.len());
        let mut next = 0;
        for (value, quantile) in &of_image {
            while next + 1 < of_reference.len() && of_reference[next].1 < *quantile {
                next += 1;
            }
            let (high, at) = of_reference[next];
            let (low, before) = of_reference[next.saturating_sub(1)];
            let is_between = next > 0 && at > *quantile;
            matched.push((
                *value,
                if is_between { low + (high - low) * (quantile - before) / (at - before) } else { high },
            ));
        }
        let look_up = |value: &f64| matched[matched.partition_point(|(known, _)| known < value)].1;
        // The package's images are f32.
        values.extend(image.plane(band).iter().map(|value| f64::from(look_up(value) as f32)));
    }
    Planes { values, ..*image }
}

/// The distinct values in order, and the share of values that are not above each.
fn distinct(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut found: Vec<(f64, f64)> = Vec::new();
    for (i, value) in sorted.iter().enumerate() {
        let share = (i + 1) as f64 / values.len() as f64;
        match found.last_mut().filter(|(last, _)| last == value) {
            Some(last) => last.1 = share,
            None => found.push((*value, share)),
        }
    }
    found
}

/// Moves an image by a shift, bilinear; what comes in at a border repeats it.
pub(super) fn warp(image: &Planes, by: Shift) -> Planes {
    let (rows, columns) = (places(image.height, by.rows), places(image.width, by.columns));
    let mut values = Vec::with_capacity(image.values.len());
    for band in 0..image.bands {
        let plane = image.plane(band);
        for (top, bottom, below) in &rows {
            let (top, bottom) = (&plane[top * image.width..], &plane[bottom * image.width..]);
            for (left, right, beside) in &columns {
                let along = |row: &[f64]| row[*left] + (row[*right] - row[*left]) * beside;
                let upper = along(top);
                values.push(upper + (along(bottom) - upper) * below);
            }
        }
    }
    Planes { values, ..*image }
}

/// For each pixel of an axis the two that it comes from, and the share of the second.
fn places(n: usize, shift: f64) -> Vec<(usize, usize, f64)> {
    let last = n as f64 - 1.0;
    let place = |i: usize| {
        let from = i as f64 - shift;
        let clamped = |at: f64| at.clamp(0.0, last) as usize;
        (clamped(from.floor()), clamped(from.floor() + 1.0), from - from.floor())
    };
    (0..n).map(place).collect()
}
