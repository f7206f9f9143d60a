//! A map does not depend on the windows that it was made from.

use srgan::config::Config;
use srgan::plan::{Plan, PlanOptions};
use srgan::predict::{Blend, PredictOptions};
use srgan::rng::{Rng, Stream};
use srgan::runtime::{Cpu, Device};
use srgan::train::programs::Programs;
use srgan::types::{DType, Shape};

use crate::common::{GLOBAL, LOCAL, SMALL, Scratch, assert_close, ground, map, options, read_floats};

/// Windows larger than any scene here.
const WHOLE: Option<usize> = Some(4096);

#[test]
fn stitched_equals_untiled_for_every_local_family() {
    for (family, generator) in LOCAL {
        let scratch = Scratch::new();
        let checkpoint = scratch.checkpoint("m.safetensors", generator, 3, "normalization: identity");
        let scene = scratch.floats("s.npy", &[83, 101, 3], ground);
        let whole = PredictOptions { window: WHOLE, ..options(&checkpoint) };
        map(&scene, &scratch.path("whole.npy"), &whole).unwrap();
        let (header, want) = read_floats(&scratch.path("whole.npy"));
        for (window, batch) in [(64, 1), (75, 3)] {
            let name = format!("{window}.npy");
            let tiled = PredictOptions { window: Some(window), batch: Some(batch), ..options(&checkpoint) };
            let said = map(&scene, &scratch.path(&name), &tiled).unwrap();
            assert!(!said.contains("the generator looks"), "{family}: {said}");
            let (tiled_header, got) = read_floats(&scratch.path(&name));
            assert_eq!(header, tiled_header);
            assert_close(&got, &want, 1e-5, &format!("{family}, windows of {window}"));
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_batch() {
    let scratch = Scratch::new();
    for (family, generator) in [LOCAL[0], LOCAL[4]] {
        let checkpoint = scratch.checkpoint("m.safetensors", generator, 3, "normalization: identity");
        let scene = scratch.floats("s.npy", &[70, 150, 3], ground);
        let maps: Vec<Vec<u8>> = [1, 2, 5]
            .map(|batch| {
                let out = scratch.path(&format!("{family}{batch}.npy"));
                let tiled = PredictOptions { window: Some(60), batch: Some(batch), ..options(&checkpoint) };
                map(&scene, &out, &tiled).unwrap();
                std::fs::read(out).unwrap()
            })
            .into();
        assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "{family}");
    }
}

#[test]
fn any_scene_window_overlap_batch_and_thread_count_gives_the_untiled_map() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 2, "normalization: identity");
    let mut rng = Rng::new(9, Stream::Crop, 0, 0);
    let mut draw = |from: usize, to: usize| from + (rng.uniform() * (to - from) as f32) as usize;
    for case in 0..25 {
        let (height, width) = (draw(1, 90), draw(1, 90));
        let scene = scratch.floats("s.npy", &[height, width, 2], |i| ground(i + case));
        let out = |name: &str| scratch.path(&format!("{name}{case}.npy"));
        map(&scene, &out("whole"), &PredictOptions { window: WHOLE, ..options(&checkpoint) }).unwrap();
        // Twice the reach of 5 pixels at least.
        let overlap = draw(10, 24);
        let window = overlap + draw(1, 40);
        let tiled = PredictOptions {
            window: Some(window),
            overlap: Some(overlap),
            batch: Some(draw(1, 5)),
            blend: [Blend::Cosine, Blend::Linear, Blend::None][draw(0, 3)],
            ..options(&checkpoint)
        };
        let what = format!("{height} × {width}, {tiled:?}");
        let said = map(&scene, &out("tiled"), &tiled).unwrap();
        assert!(!said.contains("the generator looks"), "{what}: {said}");
        assert_close(&read_floats(&out("tiled")).1, &read_floats(&out("whole")).1, 1e-5, &what);
        let threads = vec!["Training.device=cpu".into(), format!("Training.num_threads={}", draw(2, 4))];
        map(&scene, &out("threads"), &PredictOptions { overrides: threads, ..tiled }).unwrap();
        assert!(std::fs::read(out("tiled")).unwrap() == std::fs::read(out("threads")).unwrap(), "{what}");
    }
}

/// The map of one window is the network's output, denormalised.
#[test]
fn an_untiled_map_is_what_the_network_gives() {
    let scratch = Scratch::new();
    let (_, generator) = LOCAL[1];
    let checkpoint = scratch.checkpoint("m.safetensors", generator, 3, "normalization: normalise_10k");
    let scene = scratch.floats("s.npy", &[20, 31, 3], |i| 1e4 * ground(i));
    map(&scene, &scratch.path("map.npy"), &options(&checkpoint)).unwrap();
    let (cfg, _) =
        Config::from_yaml(&srgan::checkpoint::TensorFile::open_checkpoint(&checkpoint).unwrap().1.config, None, &[])
            .unwrap();
    let mut session = srgan::train::session::Session::new(cfg, Box::new(Cpu::new(1).unwrap())).unwrap();
    let plan = session.plan(srgan::train::session::Key::Forward(1, 20, 31)).unwrap();
    let lr: Vec<f32> = (0..20 * 31 * 3).map(|i| (1e4 * ground(i)) / 10000.0).collect();
    session.upload(plan, "lr", bytemuck::cast_slice(&lr)).unwrap();
    let sr = session.run(plan, Default::default()).unwrap().outputs.remove(0);
    let want: Vec<f32> = sr.iter().map(|v| (v * 10000.0).clamp(0.0, 10000.0)).collect();
    assert!(want.iter().any(|v| *v > 0.0));
    assert_close(&read_floats(&scratch.path("map.npy")).1, &want, 1e-6, "map");
}

#[test]
fn a_network_that_looks_everywhere_says_so_unless_one_window_holds_the_scene() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", GLOBAL, 1, "normalization: identity");
    let scene = scratch.floats("s.npy", &[60, 70, 1], ground);
    let tiled = PredictOptions { window: Some(40), ..options(&checkpoint) };
    let said = map(&scene, &scratch.path("tiled.npy"), &tiled).unwrap();
    assert!(said.contains("looks at the whole of a window") && said.contains("share 20"), "{said}");
    let said = map(&scene, &scratch.path("whole.npy"), &options(&checkpoint)).unwrap();
    assert!(!said.contains("looks"), "{said}");
    // Blended: no step is larger than those within the map of one window.
    let (whole, tiled) = (read_floats(&scratch.path("whole.npy")).1, read_floats(&scratch.path("tiled.npy")).1);
    let step =
        |map: &[f32]| map.chunks_exact(140).flat_map(|r| r.windows(2)).fold(0f32, |m, p| m.max((p[0] - p[1]).abs()));
    assert!(step(&tiled) < 1.5 * step(&whole), "{} {}", step(&tiled), step(&whole));
}

#[test]
fn windows_too_small_for_the_network_are_blended_with_a_note() {
    let scratch = Scratch::new();
    let (_, lka) = LOCAL[3];
    let checkpoint = scratch.checkpoint("m.safetensors", lka, 1, "normalization: identity");
    let scene = scratch.floats("s.npy", &[60, 70], ground);
    let tiled = PredictOptions { window: Some(24), ..options(&checkpoint) };
    let said = map(&scene, &scratch.path("tiled.npy"), &tiled).unwrap();
    assert!(said.contains("pixels far, and windows of 24 pixels share 12") && said.contains("--window"), "{said}");
    let whole = PredictOptions { window: WHOLE, ..tiled };
    map(&scene, &scratch.path("whole.npy"), &whole).unwrap();
    let (got, want) = (read_floats(&scratch.path("tiled.npy")).1, read_floats(&scratch.path("whole.npy")).1);
    assert_close(&got, &want, 0.1, "blended");
    assert_ne!(got, want);
}

/// What the graph says about how far a network looks is what it does: a changed pixel changes the output as far as that
/// and no farther.
#[test]
fn the_reach_is_that_of_the_network() {
    for (family, generator) in LOCAL {
        let yaml = format!(
            "Model: {{in_bands: 1}}\nGenerator: {generator}\nDiscriminator: {{model_type: patchgan, n_blocks: 1}}\n"
        );
        let (cfg, _) = Config::from_yaml(&yaml, None, &["Data.normalization=identity".into()]).unwrap();
        let scale = cfg.generator.scaling_factor;
        let programs = Programs::new(cfg).unwrap();
        let side = 61;
        let (program, lr) = programs.predict(1, (side, side), DType::F32).unwrap();
        let reach = program.tape.reach(lr, program.outputs[0].1).expect("a bounded reach");
        assert!(reach > 2 && reach < 25, "{family}: {reach}");
        let mut device = Cpu::new(1).unwrap();
        let layout = programs.layout(srgan::nn::Network::Generator);
        // Positive weights: nothing cancels, so that the farthest path shows; a tanh would make all of large ones the same.
        let (least, bump) = if family == "standard" { (1e-3, 1.0) } else { (0.05, 1e6) };
        let weights: Vec<f32> = layout.initial_params(1).iter().map(|v| 0.3 * v.abs() + least).collect();
        device.set_state(&layout.params_state(), Shape::vector(weights.len()), &weights).unwrap();
        for buffer in &layout.buffers {
            device.set_state(&buffer.name, buffer.shape, &buffer.initial(1)).unwrap();
        }
        let plan = Plan::compile(&program, PlanOptions::new(device.target())).unwrap();
        let id = device.load(plan).unwrap();
        let dim = 4;
        device.upload(id, "codes", &[0]).unwrap();
        device.upload(id, "noise", bytemuck::cast_slice(&vec![0.5f32; dim])).unwrap_or(());
        let mut run = |centre: f32| {
            let mut image = vec![0.1f32; side * side];
            image[side / 2 * side + side / 2] = centre;
            device.upload(id, "lr", bytemuck::cast_slice(&image)).unwrap();
            device.run(id).unwrap().outputs.remove(0)
        };
        let (a, b) = (run(0.1), run(bump));
        let width = side * scale;
        let distance = |i: usize| ((i / width) / scale).abs_diff(side / 2).max((i % width / scale).abs_diff(side / 2));
        let farthest = (0..a.len()).filter(|i| a[*i] != b[*i]).map(distance).max().unwrap();
        assert!(farthest <= reach, "{family}: a pixel {farthest} away changed, the reach is {reach}");
        assert!(farthest + 2 >= reach || family == "standard", "{family}: {farthest} of {reach}");
    }
    let yaml =
        format!("Model: {{in_bands: 1}}\nGenerator: {GLOBAL}\nDiscriminator: {{model_type: patchgan, n_blocks: 1}}\n");
    let (cfg, _) = Config::from_yaml(&yaml, None, &[]).unwrap();
    let (program, lr) = Programs::new(cfg).unwrap().predict(1, (16, 16), DType::F32).unwrap();
    assert_eq!(program.tape.reach(lr, program.outputs[0].1), None);
}
