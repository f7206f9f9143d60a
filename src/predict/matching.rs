//! Matching a map's values with those of its scene, band by band over the whole scene: the same mean and deviation, or
//! the same distribution.

use serde::{Deserialize, Serialize};

use super::Matching;
use crate::Result;

/// Bins of a histogram, over the range of a band: one for each value of 16-bit integers.
const BINS: usize = 1 << 16;
/// Parts of a distribution, between which values are interpolated.
const PARTS: usize = 1024;

/// What a map's bands are to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Target {
    /// What they have.
    #[default]
    None,
    /// Mean and standard deviation of each band.
    Moments(Vec<[f64; 2]>),
    /// The values below which 0, 1/1024, … of each band's values lie.
    Histogram(Vec<Vec<f32>>),
}

/// A pass over an image: calls its argument with the values of each pixel that has one.
pub(super) type Pass<'a> = dyn FnMut(&mut dyn FnMut(&[f32])) -> Result<()> + 'a;

impl Target {
    /// Whether values stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Target::None
    }

    /// What an image of `bands` bands has, as `matching` looks at it; `pass` is made twice.
    ///
    /// # Errors
    /// If the pass fails.
    pub fn of(matching: Matching, bands: usize, pass: &mut Pass) -> Result<Target> {
        if matching == Matching::None {
            return Ok(Target::None);
        }
        let mut extents = vec![Extent::default(); bands];
        pass(&mut |pixel| extents.iter_mut().zip(pixel).for_each(|(extent, v)| extent.add(*v)))?;
        if matching == Matching::Moments {
            let mut squares = vec![0.0; bands];
            pass(&mut |pixel| {
                for ((sum, extent), v) in squares.iter_mut().zip(&extents).zip(pixel) {
                    *sum += (f64::from(*v) - extent.mean()).powi(2);
                }
            })?;
            let moments = |(extent, sum): (&Extent, f64)| [extent.mean(), (sum / extent.count.max(1.0)).sqrt()];
            return Ok(Target::Moments(extents.iter().zip(squares).map(moments).collect()));
        }
        let mut counts = vec![vec![0u64; BINS]; bands];
        pass(&mut |pixel| {
            for ((counts, extent), v) in counts.iter_mut().zip(&extents).zip(pixel) {
                counts[extent.bin(*v)] += 1;
            }
        })?;
        Ok(Target::Histogram(extents.iter().zip(&counts).map(|(extent, counts)| extent.quantiles(counts)).collect()))
    }

    /// `value` of a band of an image that has `own`, as it is where an image has this.
    pub fn matched(&self, own: &Target, band: usize, value: f32) -> f32 {
        match (self, own) {
            (Target::Moments(wanted), Target::Moments(own)) => {
                let ([mean, deviation], [own_mean, own_deviation]) = (wanted[band], own[band]);
                let gain = if own_deviation > 0.0 { deviation / own_deviation } else { 1.0 };
                ((f64::from(value) - own_mean) * gain + mean) as f32
            }
            (Target::Histogram(wanted), Target::Histogram(own)) => at_rank(&wanted[band], rank(&own[band], value)),
            _ => value,
        }
    }
}

/// Count, sum and range of a band's values.
#[derive(Clone, Copy, Debug)]
struct Extent {
    count: f64,
    sum: f64,
    low: f32,
    high: f32,
}

impl Default for Extent {
    fn default() -> Self {
        Extent { count: 0.0, sum: 0.0, low: f32::INFINITY, high: f32::NEG_INFINITY }
    }
}

impl Extent {
    fn add(&mut self, v: f32) {
        (self.count, self.sum) = (self.count + 1.0, self.sum + f64::from(v));
        (self.low, self.high) = (self.low.min(v), self.high.max(v));
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }

    /// Width of a bin: a whole number's where that is wide enough.
    fn step(&self) -> f64 {
        let width = (f64::from(self.high) - f64::from(self.low)) / (BINS - 1) as f64;
        if width > 0.0 { width } else { 1.0 }
    }

    fn bin(&self, v: f32) -> usize {
        (((f64::from(v) - f64::from(self.low)) / self.step()).round() as usize).min(BINS - 1)
    }

    /// The values below which each part of the values lies, from their counts.
    fn quantiles(&self, counts: &[u64]) -> Vec<f32> {
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return vec![0.0; PARTS + 1];
        }
        let (mut bin, mut below) = (0, counts[0]);
        let mut quantile = |part: usize| {
            let wanted = (part as f64 / PARTS as f64 * (total - 1) as f64).round() as u64;
            while below <= wanted {
                bin += 1;
                below += counts[bin];
            }
            (f64::from(self.low) + bin as f64 * self.step()) as f32
        };
        (0..=PARTS).map(&mut quantile).collect()
    }
}

/// The share of values below `value`, times the number of parts.
fn rank(quantiles: &[f32], value: f32) -> f64 {
    let above = quantiles.partition_point(|q| *q < value);
    let upto = quantiles.partition_point(|q| *q <= value);
    if upto > above {
        // A value that many pixels have lies in the middle of its share.
        return (above + upto - 1) as f64 / 2.0;
    }
    if above == 0 || above == quantiles.len() {
        return if above == 0 { 0.0 } else { PARTS as f64 };
    }
    let (low, high) = (f64::from(quantiles[above - 1]), f64::from(quantiles[above]));
    (above - 1) as f64 + (f64::from(value) - low) / (high - low)
}

fn at_rank(quantiles: &[f32], rank: f64) -> f32 {
    let below = (rank.floor() as usize).min(PARTS - 1);
    let (low, high) = (f64::from(quantiles[below]), f64::from(quantiles[below + 1]));
    (low + (rank - below as f64) * (high - low)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn target(matching: Matching, values: &[f32]) -> Target {
        Target::of(matching, 1, &mut |pixel| {
            values.iter().for_each(|v| pixel(&[*v]));
            Ok(())
        })
        .unwrap()
    }

    fn moments(values: &[f32]) -> [f64; 2] {
        match target(Matching::Moments, values) {
            Target::Moments(moments) => moments[0],
            _ => unreachable!(),
        }
    }

    #[test]
    fn matched_values_have_the_wanted_moments_or_distribution() {
        let mut rng = Rng::new(1, Stream::Crop, 0, 0);
        let wanted: Vec<f32> = (0..20_000).map(|_| (rng.uniform() * 3000.0).round()).collect();
        let own: Vec<f32> = (0..80_000).map(|_| 700.0 + 200.0 * rng.normal()).collect();
        for matching in [Matching::Moments, Matching::Histogram] {
            let (to, from) = (target(matching, &wanted), target(matching, &own));
            let matched: Vec<f32> = own.iter().map(|v| to.matched(&from, 0, *v)).collect();
            let ([mean, deviation], [got_mean, got_deviation]) = (moments(&wanted), moments(&matched));
            assert!((mean - got_mean).abs() < 5.0 && (deviation - got_deviation).abs() < 5.0, "{matching:?}");
        }
        let (to, from) = (target(Matching::Histogram, &wanted), target(Matching::Histogram, &own));
        let mut matched: Vec<f32> = own.iter().map(|v| to.matched(&from, 0, *v)).collect();
        let mut sorted = wanted.clone();
        sorted.sort_by(f32::total_cmp);
        matched.sort_by(f32::total_cmp);
        for part in 0..20 {
            let (a, b) = (sorted[part * 1000 + 500], matched[part * 4000 + 2000]);
            assert!((a - b).abs() < 10.0, "part {part}: {a} and {b}");
        }
    }

    #[test]
    fn an_image_matched_with_itself_stays_as_it_is() {
        let values: Vec<f32> = (0..5000).map(|i| ((i * 37) % 1000) as f32).collect();
        for matching in [Matching::Moments, Matching::Histogram] {
            let own = target(matching, &values);
            assert!(values.iter().all(|v| (own.matched(&own, 0, *v) - v).abs() < 1e-2), "{matching:?}");
        }
        let flat = target(Matching::Moments, &[5.0; 10]);
        assert_eq!(flat.matched(&flat, 0, 5.0), 5.0);
    }
}
