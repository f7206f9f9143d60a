//! Values, masks and bands of maps.

use std::path::Path;

use srgan::checkpoint::TensorFile;
use srgan::config::Config;
use srgan::predict::{Matching, PredictOptions};
use srgan::rng::{Rng, Stream};
use srgan::runtime::Cpu;
use srgan::train::session::{Key, Session};

use crate::common::{SMALL, Scratch, assert_close, ground, map, options, read_floats};

/// Where pixels have no value, and only there, the map has none; what surrounds them does not depend on the windows.
#[test]
fn pixels_without_a_value_have_none_in_the_map_and_leave_no_seams() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 2, "normalization: identity, nodata: -1");
    let mut rng = Rng::new(4, Stream::Crop, 0, 0);
    let (height, width) = (70, 83);
    for (case, share) in [0.002, 0.05, 0.6].into_iter().enumerate() {
        let kind: Vec<f32> = (0..height * width).map(|_| rng.uniform() / share).collect();
        // A block without data, single pixels, and values that are not finite.
        let hidden = |pixel: usize| (20..44).contains(&(pixel / width)) && (30..60).contains(&(pixel % width));
        let value = |i: usize| match kind[i / 2] {
            _ if hidden(i / 2) => -1.0,
            k if k < 0.3 && i.is_multiple_of(2) => -1.0,
            k if (0.3..0.6).contains(&k) => f32::NAN,
            k if (0.6..1.0).contains(&k) => f32::NEG_INFINITY,
            _ => ground(i),
        };
        let scene = scratch.floats("s.npy", &[height, width, 2], value);
        let out = |name: &str| scratch.path(&format!("{name}{case}.npy"));
        map(&scene, &out("whole"), &PredictOptions { window: Some(4096), ..options(&checkpoint) }).unwrap();
        map(&scene, &out("tiled"), &PredictOptions { window: Some(24), ..options(&checkpoint) }).unwrap();
        let (whole, tiled) = (read_floats(&out("whole")).1, read_floats(&out("tiled")).1);
        assert_close(&tiled, &whole, 1e-5, &format!("share {share}"));
        for (i, v) in whole.iter().enumerate() {
            let (pixel, band) = (i / 2, i % 2);
            let from = pixel / (2 * width) / 2 * width + pixel % (2 * width) / 2;
            let is_absent = [value(2 * from), value(2 * from + 1)].iter().any(|v| !v.is_finite() || *v == -1.0);
            assert_eq!(*v == -1.0, is_absent, "pixel {pixel}, band {band}: {v}");
        }
    }
}

#[test]
fn a_scene_without_data_gives_a_map_without_data() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: normalise_10k, nodata: 7");
    let scene = scratch.shorts("s.npy", &[40, 30], |_| 7);
    map(&scene, &scratch.path("map.npy"), &options(&checkpoint)).unwrap();
    let (header, values) = read_floats(&scratch.path("map.npy"));
    assert!(header.contains("'shape': (80, 60, )") && header.contains("<u2"), "{header}");
    assert!(values.iter().all(|v| *v == 7.0));
}

#[test]
fn any_number_of_bands_in_either_order_of_axes() {
    let scratch = Scratch::new();
    let data = "normalization: identity, layout: CHW";
    let many = scratch.checkpoint("13.safetensors", SMALL, 13, data);
    let scene = scratch.floats("13.npy", &[13, 20, 24], ground);
    map(&scene, &scratch.path("13-map.npy"), &options(&many)).unwrap();
    let (header, values) = read_floats(&scratch.path("13-map.npy"));
    assert!(header.contains("'shape': (13, 40, 48, )"), "{header}");
    let last = scratch.checkpoint("hwc.safetensors", SMALL, 13, "normalization: identity");
    let turned = |i: usize| ground((i % 13) * 480 + i / 13);
    let scene = scratch.floats("hwc.npy", &[20, 24, 13], turned);
    map(&scene, &scratch.path("hwc-map.npy"), &options(&last)).unwrap();
    let (_, hwc) = read_floats(&scratch.path("hwc-map.npy"));
    assert!((0..hwc.len()).all(|i| hwc[i] == values[(i % 13) * 1920 + i / 13]));
    // A choice of bands is a scene of these bands alone.
    let one = scratch.checkpoint("1.safetensors", SMALL, 1, "normalization: identity");
    let chosen = PredictOptions { bands: Some("5".into()), ..options(&one) };
    map(&scene, &scratch.path("chosen.npy"), &chosen).unwrap();
    let alone = scratch.floats("alone.npy", &[20, 24, 1], |i| turned(13 * i + 5));
    map(&alone, &scratch.path("alone-map.npy"), &options(&one)).unwrap();
    assert_eq!(read_floats(&scratch.path("chosen.npy")), read_floats(&scratch.path("alone-map.npy")));
}

/// `Data.scale` and `Data.offset` act before the network and are undone behind it.
#[test]
fn values_are_those_of_the_files_scale() {
    let scratch = Scratch::new();
    let plain = scratch.checkpoint("a.safetensors", SMALL, 1, "normalization: identity");
    let scaled = scratch.checkpoint("b.safetensors", SMALL, 1, "normalization: identity, scale: 0.5, offset: -0.25");
    let scene = scratch.floats("a.npy", &[20, 24], ground);
    let moved = scratch.floats("b.npy", &[20, 24], |i| 2.0 * (ground(i) + 0.25));
    map(&scene, &scratch.path("a-map.npy"), &options(&plain)).unwrap();
    map(&moved, &scratch.path("b-map.npy"), &options(&scaled)).unwrap();
    let (a, b) = (read_floats(&scratch.path("a-map.npy")).1, read_floats(&scratch.path("b-map.npy")).1);
    let back: Vec<f32> = b.iter().map(|v| v / 2.0 - 0.25).collect();
    assert_close(&back, &a, 1e-5, "scaled");
}

#[test]
fn matched_maps_have_the_moments_or_the_distribution_of_the_scene() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 2, "normalization: identity");
    let scene = scratch.floats("s.npy", &[60, 50, 2], |i| ground(i) + if i % 2 == 1 { 3.0 } else { 0.0 });
    let moments = |values: &[f32], band: usize| {
        let own: Vec<f64> = values.iter().skip(band).step_by(2).map(|v| f64::from(*v)).collect();
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        (mean, (own.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / own.len() as f64).sqrt())
    };
    let want: Vec<f32> = (0..6000).map(|i| ground(i) + if i % 2 == 1 { 3.0 } else { 0.0 }).collect();
    for matching in [Matching::Moments, Matching::Histogram] {
        let out = scratch.path(&format!("{matching:?}.npy"));
        map(&scene, &out, &PredictOptions { matching, window: Some(30), ..options(&checkpoint) }).unwrap();
        let got = read_floats(&out).1;
        for band in 0..2 {
            let ((mean, deviation), (got_mean, got_deviation)) = (moments(&want, band), moments(&got, band));
            assert!((mean - got_mean).abs() < 0.005 && (deviation - got_deviation).abs() < 0.005, "{matching:?}");
        }
    }
}

#[test]
fn averaged_weights_are_used_unless_live_ones_are_asked_for() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    let scene = scratch.floats("s.npy", &[20, 24], ground);
    let said = map(&scene, &scratch.path("a.npy"), &options(&checkpoint)).unwrap();
    assert!(said.contains("averaged weights of step 7"), "{said}");
    let live = PredictOptions { live: true, ..options(&checkpoint) };
    let said = map(&scene, &scratch.path("b.npy"), &live).unwrap();
    assert!(said.contains("live weights of step 7"), "{said}");
}

/// The configuration of tests/fixtures/torch/opensr.ckpt, as opensr-srgan has it.
const OPENSR: &str = "
Data: {normalization: normalise_10k}
Model: {in_bands: 3}
Generator: {model_type: SRResNet, block_type: standard, large_kernel_size: 3, n_channels: 4, n_blocks: 1, scaling_factor: 2}
Discriminator: {model_type: esrgan, base_channels: 1, linear_size: 2}
Training: {EMA: {enabled: True}}
";

#[test]
fn checkpoints_of_opensr_srgan_are_mapped_with() {
    let scratch = Scratch::new();
    let config = scratch.path("theirs.yaml");
    std::fs::write(&config, OPENSR).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch/opensr.ckpt");
    let scene = scratch.floats("s.npy", &[20, 24, 3], ground);
    let theirs = PredictOptions { config: Some(config), ..options(&path) };
    let said = map(&scene, &scratch.path("averaged.npy"), &theirs).unwrap();
    assert!(said.contains("averaged weights"), "{said}");
    let said = map(&scene, &scratch.path("map.npy"), &PredictOptions { live: true, ..theirs }).unwrap();
    assert!(said.contains("live weights"), "{said}");
    // The average has the buffers of its last update, which this file's weights have left behind.
    assert_ne!(read_floats(&scratch.path("averaged.npy")), read_floats(&scratch.path("map.npy")));
    // The same network as the trainer takes it.
    let (mut cfg, _) = Config::from_yaml(OPENSR, None, &["Training.device=cpu".into()]).unwrap();
    cfg.training.ema.enabled = false;
    let mut session = Session::new(cfg, Box::new(Cpu::new(1).unwrap())).unwrap();
    session.restore_weights(&mut TensorFile::open(&path).unwrap(), &path, true).unwrap();
    let plan = session.plan(Key::Forward(1, 20, 24)).unwrap();
    let lr: Vec<f32> = (0..20 * 24 * 3).map(ground).collect();
    session.upload(plan, "lr", bytemuck::cast_slice(&lr)).unwrap();
    let want = session.run(plan, Default::default()).unwrap().outputs.remove(0);
    assert_close(&read_floats(&scratch.path("map.npy")).1, &want, 1e-6, "map");
}
