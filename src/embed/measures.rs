//! The metrics of images in memory, by the op that validations run.

use super::images::Extent;
use crate::graph::Tape;
use crate::metrics::ergas;
use crate::ops::image_metrics::{ImageMetrics, NAMES};
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Cpu, Device, PlanId};
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// What metrics depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasureOptions {
    /// Largest value of an image; PSNR and SSIM limit values to 0 … this.
    pub max_val: f32,
    /// Taps of SSIM's window, odd, from 3.
    pub ssim_win: usize,
    /// SR pixels per LR pixel along a side, for ERGAS.
    pub scale: usize,
}

impl Default for MeasureOptions {
    fn default() -> Self {
        MeasureOptions { max_val: 1.0, ssim_win: 11, scale: 4 }
    }
}

/// The metrics of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Mean absolute error.
    pub l1: f64,
    /// Peak signal-to-noise ratio in dB; infinite for equal images.
    pub psnr: f64,
    /// Mean structural similarity; NaN where the image is smaller than the window asks for.
    pub ssim: f64,
    /// Mean spectral angle in radians.
    pub sam: f64,
    /// Relative global error over all bands; NaN where no band of the reference has a mean.
    pub ergas: f64,
}

/// Measures each of `images` SR images beside its HR image, both (N, C, H, W) of `extent` (bands, rows, columns).
///
/// # Errors
/// [`Error::Usage`] if lengths do not fit, or options are out of range.
pub fn measure(
    (sr, hr): (&[f32], &[f32]),
    (images, [channels, height, width]): (usize, [usize; 3]),
    options: &MeasureOptions,
) -> Result<Vec<Measures>> {
    let extent = Extent { channels, height, width };
    extent.check(images, sr.len(), "sr")?;
    extent.check(images, hr.len(), "hr")?;
    check(options)?;
    if images == 0 {
        return Ok(Vec::new());
    }
    // SSIM reflects at borders, which takes pixels to reflect.
    let has_ssim = height.min(width) > options.ssim_win / 2;
    let win = if has_ssim { options.ssim_win } else { 1 };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut device = Cpu::new(threads)?;
    let plan = load(&mut device, &extent, &ImageMetrics { max_val: options.max_val, ssim_win: win })?;
    let pairs = sr.chunks_exact(extent.image()).zip(hr.chunks_exact(extent.image()));
    pairs
        .map(|(sr, hr)| {
            for (slot, planes) in [("sr", sr), ("hr", hr)] {
                device.upload(plan, slot, bytemuck::cast_slice(&extent.interleaved(planes, |v| v)))?;
            }
            let values = device.run(plan)?.outputs.swap_remove(0);
            let value = |name: &str| NAMES.iter().position(|n| *n == name).map_or(f64::NAN, |at| values[at].into());
            let ssim = if has_ssim { value("ssim") } else { f64::NAN };
            let ergas = ergas(band_errors(&extent, sr, hr), options.scale).unwrap_or(f64::NAN);
            Ok(Measures { l1: value("l1"), psnr: value("psnr"), ssim, sam: value("sam"), ergas })
        })
        .collect()
}

fn check(options: &MeasureOptions) -> Result<()> {
    let MeasureOptions { max_val, ssim_win, scale } = *options;
    if !(max_val.is_finite() && max_val > 0.0) {
        return Err(Error::usage(format!("max_val is {max_val}, and must be a positive number")));
    }
    if !(3..=255).contains(&ssim_win) || ssim_win % 2 == 0 {
        return Err(Error::usage(format!("SSIM's window is {ssim_win}, and must be an odd number from 3 to 255")));
    }
    if scale == 0 {
        return Err(Error::usage("scale is 0, and must be at least 1"));
    }
    Ok(())
}

/// The op's plan for one image.
fn load(device: &mut Cpu, extent: &Extent, op: &ImageMetrics) -> Result<PlanId> {
    let mut tape = Tape::new();
    let shape = Shape([1, extent.height, extent.width, extent.channels]);
    let images = ["sr", "hr"].map(|name| tape.input(name, shape, DType::F32));
    let metrics = tape.push(*op, &images)?;
    let outputs = vec![("metrics".to_owned(), metrics)];
    let program = Program { name: "measure", tape, outputs, checks: vec![], commits: vec![] };
    let plan = Plan::compile(&program, PlanOptions::new(device.target()))?;
    device.load(plan)
}

/// Of each band, the mean squared error and the mean of the reference.
fn band_errors(extent: &Extent, sr: &[f32], hr: &[f32]) -> Vec<(f64, f64)> {
    let pixels = extent.height * extent.width;
    let bands = sr.chunks_exact(pixels).zip(hr.chunks_exact(pixels));
    let error = |(sr, hr): (&[f32], &[f32])| {
        let squares: f64 = sr.iter().zip(hr).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        (squares / pixels as f64, hr.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels as f64)
    };
    bands.map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: [usize; 3] = [2, 16, 12];

    fn images(count: usize) -> Vec<f32> {
        (0..count * 2 * 16 * 12).map(|i| 0.5 + 0.3 * (0.37 * i as f32).sin()).collect()
    }

    #[test]
    fn each_image_is_measured_by_itself() {
        let hr = images(3);
        let mut sr = hr.clone();
        // The second image has an error of 0.1 in its second band.
        sr[384 + 192..768].iter_mut().for_each(|v| *v += 0.1);
        let all = measure((&sr, &hr), (3, EXTENT), &MeasureOptions::default()).unwrap();
        assert_eq!((all[0].psnr, all[0].l1, all[0].ergas), (f64::INFINITY, 0.0, 0.0));
        assert_eq!(all[0], all[2]);
        // The mean squared error is 0.005: 10·log10(1/0.005) dB.
        assert!((all[1].psnr - 23.010_3).abs() < 1e-3, "{all:?}");
        assert!((all[1].l1 - 0.05).abs() < 1e-6 && all[1].sam > 0.01 && all[1].ssim < 0.999, "{all:?}");
        let mean = hr[384 + 192..768].iter().sum::<f32>() / 192.0;
        let want = 25.0 * (0.01 / f64::from(mean * mean) / 2.0).sqrt();
        assert!((all[1].ergas - want).abs() < 1e-3 * want, "{all:?} {want}");
    }

    #[test]
    fn small_images_have_no_ssim_and_wrong_arguments_are_refused() {
        let flat = [0.5; 2 * 3 * 3];
        let measures = measure((&flat, &flat), (1, [2, 3, 3]), &MeasureOptions::default()).unwrap();
        assert!(measures[0].ssim.is_nan() && measures[0].psnr.is_infinite());
        assert_eq!(measure((&[], &[]), (0, EXTENT), &MeasureOptions::default()).unwrap(), []);
        let refused = |options: MeasureOptions| measure((&flat, &flat), (1, [2, 3, 3]), &options).unwrap_err();
        let plain = MeasureOptions::default();
        assert!(refused(MeasureOptions { ssim_win: 4, ..plain }).to_string().contains("odd"));
        assert!(refused(MeasureOptions { max_val: f32::NAN, ..plain }).to_string().contains("NaN"));
        assert!(refused(MeasureOptions { scale: 0, ..plain }).to_string().contains("at least 1"));
        assert!(measure((&flat, &flat[1..]), (1, [2, 3, 3]), &plain).is_err());
    }
}
