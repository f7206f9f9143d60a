//! Seams in the precisions of the CUDA device, whose kernels run on the host.

use std::path::Path;

use srgan::config::Config;
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::log::Messages;
use srgan::predict::{PredictOptions, predict_on};
use srgan::runtime::{Cuda, Device};

use crate::common::{LOCAL, Scratch, Shared, ground, options, read_floats};

/// Families whose kernels take minutes on the host.
const SLOW: [&str; 3] = ["standard", "rrdb", "esrgan"];

fn on_host(_: &Config) -> srgan::Result<Box<dyn Device>> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
    Ok(Box::new(Cuda::new(Box::new(HostDriver::new(&cache, HostOptions::default())?))))
}

/// The map of a scene by windows of a size.
fn mapped(scratch: &Scratch, checkpoint: &Path, precision: &str, (window, batch): (usize, usize)) -> Vec<f32> {
    let (scene, out) = (scratch.path("s.npy"), scratch.path("map.npy"));
    let options = PredictOptions {
        window: Some(window),
        batch: Some(batch),
        overwrite: true,
        overrides: vec![format!("Training.precision={precision}")],
        ..options(checkpoint)
    };
    let said = Shared::default();
    predict_on(&[scene], &out, &options, Messages::plain(said.clone()), on_host).unwrap();
    assert!(!said.text().contains("the generator looks"), "{}", said.text());
    read_floats(&out).1
}

/// The kernels sum each pixel in an order that does not depend on where it lies: with the same kernels, windows give the
/// bits of the untiled map in any precision. Nothing less is asked for, so that a product that is rounded in one window and
/// not in another would show.
#[test]
fn stitched_equals_untiled_in_every_precision() {
    for (family, generator) in LOCAL {
        if SLOW.contains(&family) && !cfg!(feature = "slow-tests") {
            continue;
        }
        let scratch = Scratch::new();
        let checkpoint = scratch.checkpoint("m.safetensors", generator, 3, "normalization: identity");
        scratch.floats("s.npy", &[57, 61, 3], ground);
        let mut maps: Vec<Vec<f32>> = Vec::new();
        for precision in ["f32", "tf32", "bf16"] {
            let whole = mapped(&scratch, &checkpoint, precision, (4096, 1));
            let tiled = mapped(&scratch, &checkpoint, precision, (56, 2));
            assert!(tiled == whole, "{family} in {precision}");
            assert!(!maps.contains(&whole), "{family}: {precision} is not what it says");
            maps.push(whole);
        }
    }
}
