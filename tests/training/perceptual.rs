//! The perceptual term in whole runs, its network's weights from files; random ones, since only where they come from
//! matters here.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use srgan::checkpoint::TensorFile;
use srgan::config::Config;
use srgan::nn::perceptual_layout;
use srgan::rng::{Rng, Stream};

use crate::common::Scratch;
use crate::resume::assert_same_runs;

/// A small part of VGG-19.
const VGG: [&str; 3] = ["Training.Losses.perceptual_weight=0.3", "TruncatedVGG.i=2", "TruncatedVGG.j=1"];
const LPIPS: [&str; 3] =
    ["Training.Losses.perceptual_weight=0.3", "Training.Losses.perceptual_metric=lpips", "Data.hr_size=32"];
const FILE: &str = "Training.Losses.perceptual_file=weights.safetensors";
/// Six bands, of which three are drawn for each batch.
const DRAWN: [&str; 3] = ["Data.scenes=[six.npy]", "Model.in_bands=6", "Data.rgb_bands=[0,1,2]"];

/// Writes the weights that a configuration needs to a file, scaled by `scale`, and something beside them.
fn write_weights(scratch: &Scratch, name: &str, args: &[&str], scale: f32) {
    let overrides: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let (cfg, _) = Config::load(&scratch.path("cfg.yaml"), &overrides).unwrap();
    let layout = perceptual_layout(&cfg).unwrap();
    let of_file = layout.params.iter().filter(|p| layout.bare_name(p).starts_with("features."));
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> = of_file
        .zip(0..)
        .map(|(p, step)| {
            let mut rng = Rng::new(1, Stream::Init, step, 0);
            let bound = scale * (6.0 / (p.shape.len() / p.shape.n()) as f32).sqrt();
            let values = (0..p.shape.len()).flat_map(|_| (bound * (2.0 * rng.uniform() - 1.0)).to_le_bytes());
            (layout.bare_name(p).to_owned(), p.file_shape(), values.collect())
        })
        .collect();
    all.push(("classifier.0.bias".to_owned(), vec![1], vec![0; 4]));
    let views = all.iter().map(|(n, shape, data)| (n, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &scratch.path(name)).unwrap();
}

fn with_six_bands(value: fn(usize) -> f32) -> Scratch {
    let scratch = Scratch::new();
    scratch.write("six.npy", &crate::common::npy(srgan::data::PixelType::U16, &[64, 64, 6], value));
    scratch
}

/// The term is in the content loss with its weight, and is measured in training and validation.
#[test]
fn it_is_a_part_of_the_content_loss() {
    let scratch = Scratch::new();
    write_weights(&scratch, "weights.safetensors", &VGG, 1.0);
    scratch.trained("run", &[&VGG[..], &[FILE]].concat());
    let column = |name: &str| scratch.numbers("run", name);
    let components = ["l1", "sam", "perceptual"].map(|n| column(&format!("train_metrics/{n}")));
    for (i, content) in column("generator/content_loss").into_iter().enumerate() {
        let [l1, sam, perceptual] = [0, 1, 2].map(|k| components[k][i]);
        let want = l1 + 0.05 * sam + 0.3 * perceptual;
        assert!(perceptual > 1e-4 && (content - want).abs() <= 1e-5 * want, "step {i}: {content}, not {want}");
    }
    assert!(column("val_metrics/perceptual").iter().all(|v| *v > 1e-4));
    // It is no part of what a checkpoint holds.
    let file = TensorFile::open(&scratch.last("run")).unwrap();
    assert!(file.entries().iter().all(|e| !e.name.starts_with("perceptual")));
    // Other weights, another loss.
    write_weights(&scratch, "other.safetensors", &VGG, 1.5);
    scratch.trained("other", &[&VGG[..], &["Training.Losses.perceptual_file=other.safetensors"]].concat());
    assert_ne!(scratch.column("run", "train_metrics/perceptual"), scratch.column("other", "train_metrics/perceptual"));
    scratch.trained("without", &[]);
    let zeros = scratch.numbers("without", "train_metrics/perceptual");
    assert!(!zeros.is_empty() && zeros.iter().all(|v| *v == 0.0));
}

#[test]
fn a_scheduler_may_watch_it_and_lpips_is_the_other_metric() {
    let scratch = Scratch::new();
    write_weights(&scratch, "weights.safetensors", &LPIPS, 1.0);
    let watch = "Schedulers.metric_g=val_metrics/perceptual";
    scratch.trained("run", &[&LPIPS[..], &[FILE, watch, "Training.max_steps=8", "Data.val_fraction=0.5"]].concat());
    assert!(scratch.numbers("run", "train_metrics/perceptual").iter().all(|v| *v > 1e-6 && *v < 10.0));
    let best = std::fs::read_dir(scratch.path("run")).unwrap();
    assert!(best.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("best-")).count() > 0);
}

/// Bands are drawn by the step, not by how often the program was started.
#[test]
fn drawn_bands_are_the_same_in_a_resumed_run() {
    let scratch = with_six_bands(|i| crate::common::scene_value(i / 6 * 3 + i % 3) + 100.0 * (i % 6) as f32);
    let args = [&VGG[..], &DRAWN, &[FILE]].concat();
    write_weights(&scratch, "weights.safetensors", &VGG, 1.0);
    scratch.trained("whole", &args);
    scratch.trained("split", &[&args[..], &["Training.max_steps=5"]].concat());
    scratch.trained("split", &[&args[..], &["--resume", "auto", "Training.num_threads=1"]].concat());
    assert_same_runs(&scratch, "whole", "split");
}

/// In a scene without detail, whose networks hardly learn, nothing but the bands tells one batch from another.
#[test]
fn bands_are_drawn_anew_for_each_batch_and_once_for_validation() {
    let scratch = with_six_bands(|i| 500.0 + 700.0 * (i % 6) as f32);
    write_weights(&scratch, "weights.safetensors", &VGG, 1.0);
    let still = ["Optimizers.optim_g_lr=1e-30", "Training.EMA.enabled=false", "Generator.block_type=res"];
    let args = [&VGG[..], &DRAWN, &still, &[FILE, "Training.g_pretrain_steps=-1", "Training.max_steps=8"]].concat();
    scratch.trained("drawn", &args);
    scratch.trained("fixed", &[&args[..], &["Training.Losses.fixed_idx=[4,1,0]"]].concat());
    let accumulate = ["Training.accumulate_grad_batches=2", "Data.patches_per_epoch=16"];
    scratch.trained("accumulated", &[&args[..], &accumulate].concat());
    let training = |run: &str| scratch.numbers(run, "train_metrics/perceptual");
    let different = |values: &[f64]| {
        let mut rounded: Vec<i64> = values.iter().map(|v| (v * 1e7) as i64).collect();
        rounded.sort_unstable();
        rounded.dedup_by(|a, b| (*a - *b).abs() <= 1);
        rounded.len()
    };
    assert_eq!(different(&training("fixed")), 1, "{:?}", training("fixed"));
    assert!(different(&training("drawn")) > 4, "{:?}", training("drawn"));
    // A step's two batches differ from its first alone unless both have the same bands, in a 120th of all steps.
    let pairs = training("accumulated").into_iter().zip(training("drawn"));
    let others = pairs.filter(|(both, first)| (both - first).abs() > 1e-6).count();
    assert!(others > 4, "{:?} and {:?}", training("accumulated"), training("drawn"));
    let validation = |args: &[&str], run: &str| {
        scratch.trained(run, args);
        scratch.numbers(run, "val_metrics/perceptual")
    };
    let values = validation(&[&args[..], &["Data.val_batch_size=1"]].concat(), "ones");
    assert_eq!((values.len(), different(&values)), (2, 1));
    assert_eq!(different(&[values[0], scratch.numbers("drawn", "val_metrics/perceptual")[0]]), 1);
}

/// The table at the end shows no perceptual distance, so that its network does not limit what is held out.
#[test]
fn the_last_table_needs_no_room_for_the_network() {
    let scratch = Scratch::new();
    write_weights(&scratch, "weights.safetensors", &LPIPS, 1.0);
    // A quarter of the rows is held out: 32, and 20.
    for (name, rows) in [("tall.npy", 128), ("flat.npy", 80)] {
        let shape = [rows, 64, 3];
        scratch.write(name, &crate::common::npy(srgan::data::PixelType::U16, &shape, crate::common::scene_value));
    }
    let data = ["Data.scenes=[tall.npy,flat.npy]", "Training.max_steps=1"];
    let run = scratch.train(&[&LPIPS[..], &data, &[FILE, "--run-dir", "run"]].concat()).exits(0);
    run.says(&["bicubic", "held-out imagery"]);
}

#[test]
fn weights_are_found_where_torchvision_keeps_them() {
    let scratch = Scratch::new();
    let hub = Path::new("torch/hub/checkpoints/vgg19-dcbb9e9d.pth");
    std::fs::create_dir_all(scratch.path("torch/hub/checkpoints")).unwrap();
    write_weights(&scratch, hub.to_str().unwrap(), &VGG, 1.0);
    for (variable, folder) in [("TORCH_HOME", "torch"), ("XDG_CACHE_HOME", "."), ("HOME", "home")] {
        if variable == "HOME" {
            std::fs::create_dir_all(scratch.path("home/.cache")).unwrap();
            std::fs::rename(scratch.path("torch"), scratch.path("home/.cache/torch")).unwrap();
        }
        let mut command = scratch.command(&[&VGG[..], &["--dry-run"]].concat());
        command.env_remove("TORCH_HOME").env_remove("XDG_CACHE_HOME").env(variable, scratch.path(folder));
        let finished = crate::common::finish(&mut command).exits(0);
        finished.says(&["perceptual loss: VGG-19 to relu2_1, weights of", "vgg19-dcbb9e9d.pth"]);
    }
}

#[test]
fn missing_and_wrong_weights_are_refused_before_any_work() {
    let scratch = Scratch::new();
    let nowhere = |args: &[&str]| {
        let mut command = scratch.command(args);
        crate::common::finish(command.env("TORCH_HOME", scratch.path("nowhere"))).exits(2)
    };
    let wanted = ["needs the weights of VGG-19", "nowhere/hub/checkpoints/vgg19-dcbb9e9d.pth", "curl --create-dirs"];
    nowhere(&VGG).says(&wanted);
    nowhere(&[&VGG[..], &["--dry-run"]].concat()).says(&wanted);
    nowhere(&LPIPS).says(&["needs the weights of AlexNet", "alexnet-owt-7be5be79.pth"]);
    write_weights(&scratch, "weights.safetensors", &LPIPS, 1.0);
    nowhere(&[&VGG[..], &[FILE]].concat())
        .says(&["weights.safetensors: its tensors are not those of torchvision's VGG-19", "features.2.weight"]);
    let mut command = scratch.command(&VGG);
    let command = command.env_remove("TORCH_HOME").env_remove("XDG_CACHE_HOME").env_remove("HOME");
    crate::common::finish(command).exits(2).says(&["no folder of torchvision's is known", "perceptual_file"]);
    write_weights(&scratch, "nan.safetensors", &VGG, f32::NAN);
    nowhere(&[&VGG[..], &["Training.Losses.perceptual_file=nan.safetensors"]].concat())
        .says(&["nan.safetensors: tensor features.0.weight has a number that is not finite"]);
    scratch.write("cut.pth", b"PK\x03\x04");
    nowhere(&[&VGG[..], &["Training.Losses.perceptual_file=cut.pth"]].concat()).says(&["cut.pth"]);
    nowhere(&[&VGG[..], &["Training.Losses.perceptual_file=none.pth"]].concat()).says(&["none.pth", "no such file"]);
    assert!(!scratch.path("logs").exists());
}
