//! The patches on which SR gains most over bicubic upsampling, and least.

use std::rc::Rc;

use crate::log::{PanelImages, PanelShape, Panels, Picture};
use crate::{Error, Result};

/// Patches that are kept at each end.
const KEPT: usize = 3;
/// Names of their pictures.
pub(super) const NAMES: [&str; 2 * KEPT] = ["best-1", "best-2", "best-3", "worst-1", "worst-2", "worst-3"];

/// The images of a patch.
pub(super) struct Kept {
    /// Its number.
    pub patch: usize,
    pub shape: PanelShape,
    pub lr: Vec<f32>,
    pub bicubic: Vec<f32>,
    pub sr: Vec<f32>,
    pub hr: Vec<f32>,
}

/// A patch that is shown.
pub(super) struct Extreme {
    pub name: &'static str,
    /// Its number.
    pub patch: usize,
    /// PSNR over that of bicubic upsampling, in dB.
    pub gain: f64,
    pub picture: Picture,
}

/// The best and the worst patches so far, the most extreme first.
#[derive(Default)]
pub(super) struct Extremes {
    best: Vec<(f64, Rc<Kept>)>,
    worst: Vec<(f64, Rc<Kept>)>,
}

impl Extremes {
    /// Keeps a patch whose PSNR gains so many decibels, if it is among the most extreme. Of equals the first is kept.
    pub fn consider(&mut self, gain: f64, kept: Kept) {
        if gain.is_nan() {
            return;
        }
        let kept = Rc::new(kept);
        for (list, sign) in [(&mut self.best, 1.0), (&mut self.worst, -1.0)] {
            let at = list.partition_point(|(other, _)| sign * other >= sign * gain);
            if at < KEPT {
                list.insert(at, (gain, kept.clone()));
                list.truncate(KEPT);
            }
        }
    }

    /// A picture of each of the best and the worst patches of `count`. No patch is both.
    ///
    /// # Errors
    /// Never for patches of one configuration.
    pub fn pictures(&self, bands: &[usize], max_val: f64, count: usize) -> Result<Vec<Extreme>> {
        let best = KEPT.min(count.div_ceil(2));
        let worst = KEPT.min(count - best);
        let (best_names, worst_names) = NAMES.split_at(KEPT);
        let mut pictures = Vec::new();
        for (names, list, shown) in [(best_names, &self.best, best), (worst_names, &self.worst, worst)] {
            for (name, (gain, kept)) in names.iter().zip(list).take(shown) {
                let mut panels = Panels::new(bands, max_val);
                let Kept { lr, bicubic, sr, hr, .. } = &**kept;
                panels.push(&kept.shape, &PanelImages { lr, bicubic, sr, hr })?;
                let picture = panels.rows().first().cloned();
                let picture = picture.ok_or_else(|| Error::Internal("a patch without a picture".into()))?;
                pictures.push(Extreme { name, patch: kept.patch, gain: *gain, picture });
            }
        }
        Ok(pictures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_extreme_patches_are_kept_in_order() {
        let mut extremes = Extremes::default();
        let shape = PanelShape { lr_height: 1, lr_width: 1, scale: 1, channels: 1 };
        for (patch, gain) in [0.5, -0.25, 2.0, f64::NAN, 0.5, 1.0, -1.0, f64::INFINITY].into_iter().enumerate() {
            let pixel = vec![0.5];
            let [lr, bicubic, sr, hr] = [(); 4].map(|()| pixel.clone());
            extremes.consider(gain, Kept { patch, shape, lr, bicubic, sr, hr });
        }
        let patches = |count| {
            let pictures = extremes.pictures(&[0], 1.0, count).unwrap();
            pictures.into_iter().map(|extreme| (extreme.name, extreme.patch)).collect::<Vec<_>>()
        };
        let want = [("best-1", 7), ("best-2", 2), ("best-3", 5), ("worst-1", 6), ("worst-2", 1), ("worst-3", 0)];
        assert_eq!(patches(8), want);
        let names = |count| patches(count).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(3), ["best-1", "best-2", "worst-1"]);
        assert_eq!(names(1), ["best-1"]);
    }
}
