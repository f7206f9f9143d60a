//! How windows lie along rows or columns, and what each adds to the map.
//!
//! All windows have one length and are spread evenly: the first starts at the scene's edge, the last ends at the other, so
//! that the network's own padding acts at the scene's edges and nowhere else. Two neighbours share at least the asked-for
//! overlap. In its middle the map passes from one to the other, at a cut or over a zone of blending.

use std::f64::consts::PI;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Blend;

/// Windows along one axis. All numbers are input pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Axis {
    /// Length of the scene.
    pub len: usize,
    /// Length of a window.
    pub window: usize,
    /// Where windows start.
    origins: Vec<usize>,
    /// For each pair of neighbours, where the map passes from one to the other: an empty range is a cut.
    zones: Vec<Range<usize>>,
}

/// How neighbouring windows meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seam {
    /// Pixels that they share, at least.
    pub overlap: usize,
    /// Pixels at an edge of a window that is none of the scene's, which the map does not take.
    pub margin: usize,
    /// How the rest of the overlap is blended.
    pub blend: Blend,
}

impl Axis {
    /// Windows of `window` pixels, or one of `len` where that is less.
    pub fn new(len: usize, window: usize, seam: Seam) -> Axis {
        let window = window.min(len);
        let stride = window.saturating_sub(seam.overlap).max(1);
        let gaps = (len - window).div_ceil(stride);
        let origins: Vec<usize> = (0..=gaps).map(|i| (i * (len - window)).checked_div(gaps).unwrap_or(0)).collect();
        let shortest = origins.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(0);
        let wanted = match seam.blend {
            Blend::None => 0,
            Blend::Cosine | Blend::Linear => seam.overlap.saturating_sub(2 * seam.margin),
        };
        // Zones of different pairs have no pixel in common.
        let zone = wanted.min(shortest.saturating_sub(1));
        let between = |pair: &[usize]| {
            let start = (pair[1] + pair[0] + window) / 2 - zone / 2;
            start..start + zone
        };
        let zones = origins.windows(2).map(between).collect();
        Axis { len, window, origins, zones }
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        self.origins.len()
    }

    /// The pixels of window `i`.
    pub fn pixels(&self, i: usize) -> Range<usize> {
        self.origins[i]..self.origins[i] + self.window
    }

    /// The zone between windows `i` and `i + 1`; empty at the scene's end.
    pub fn zone_after(&self, i: usize) -> Range<usize> {
        self.zones.get(i).cloned().unwrap_or(self.len..self.len)
    }

    /// The zone between windows `i − 1` and `i`; empty at the scene's start.
    pub fn zone_before(&self, i: usize) -> Range<usize> {
        i.checked_sub(1).map_or(0..0, |before| self.zone_after(before))
    }

    /// The pixels that window `i` adds to.
    pub fn span(&self, i: usize) -> Range<usize> {
        self.zone_before(i).start..self.zone_after(i).end
    }

    /// The window that pixel `at` comes from, the second of two where it lies in a zone.
    pub fn window_of(&self, at: usize) -> usize {
        self.zones.partition_point(|zone| zone.start <= at)
    }
}

/// The share of the later of two windows at place `at` of `zone`, both in output pixels.
pub(super) fn rise(blend: Blend, at: usize, zone: &Range<usize>) -> f32 {
    let t = (at - zone.start) as f64 + 0.5;
    let t = t / zone.len().max(1) as f64;
    match blend {
        Blend::Cosine => (0.5 - 0.5 * (PI * t).cos()) as f32,
        Blend::Linear | Blend::None => t as f32,
    }
}

/// A range of input pixels in output pixels.
pub(super) fn scaled(range: &Range<usize>, scale: usize) -> Range<usize> {
    range.start * scale..range.end * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// Every pixel comes from one window, or from two in a zone; it lies at least the margin inside each; the first and
    /// last windows touch the scene's edges.
    #[test]
    fn windows_of_any_size_share_the_scene() {
        let mut rng = Rng::new(3, Stream::Crop, 0, 0);
        let mut draw = |n: usize| (rng.uniform() * n as f32) as usize;
        for _ in 0..2000 {
            let (len, window) = (1 + draw(300), 1 + draw(90));
            let overlap = draw(window);
            let margin = draw(overlap / 2 + 1);
            let blend = [Blend::None, Blend::Linear, Blend::Cosine][draw(3)];
            let axis = Axis::new(len, window, Seam { overlap, margin, blend });
            let window = window.min(len);
            let what = format!("{len} by {window}, overlap {overlap}, margin {margin}, {blend:?}: {axis:?}");
            let last = axis.count() - 1;
            assert_eq!((axis.pixels(0).start, axis.pixels(last).end), (0, len), "{what}");
            let mut owners = vec![0; len];
            for i in 0..axis.count() {
                let (pixels, span) = (axis.pixels(i), axis.span(i));
                let before = if i == 0 { 0 } else { pixels.start + margin };
                let after = if i == last { len } else { pixels.end - margin };
                assert!(before <= span.start && span.end <= after && !span.is_empty(), "window {i} of {what}");
                assert!(i == last || axis.pixels(i + 1).start <= pixels.end - overlap.min(window), "{what}");
                span.clone().for_each(|at| owners[at] += 1);
                let own = axis.zone_before(i).end..axis.zone_after(i).start;
                assert!(own.end >= own.start && own.clone().all(|at| axis.window_of(at) == i), "{what}");
            }
            let zones: usize = (0..last).map(|i| axis.zone_after(i).len()).sum();
            assert!(owners.iter().all(|n| (1..=2).contains(n)), "{what}");
            assert_eq!(owners.iter().filter(|n| **n == 2).count(), zones, "{what}");
        }
    }

    #[test]
    fn shares_of_two_windows_rise_from_none_to_all() {
        for blend in [Blend::Linear, Blend::Cosine] {
            let shares: Vec<f32> = (8..24).map(|at| rise(blend, at, &(8..24))).collect();
            assert!(shares.windows(2).all(|pair| pair[0] < pair[1]) && shares[0] > 0.0 && shares[15] < 1.0);
            assert!(shares.iter().zip(shares.iter().rev()).all(|(a, b)| (a + b - 1.0).abs() < 1e-6));
        }
    }
}
