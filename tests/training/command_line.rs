//! The command line: what it refuses, what it only shows, and where a run goes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use libc::SIGTERM;
use srgan::checkpoint::TensorFile;

use crate::common::{Scratch, finish, meta, renamed, signal, tensors};

/// Names and contents of the files under a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_mistyped_key_is_refused_with_its_place_and_the_right_one() {
    let scratch = Scratch::new();
    let text = fs::read_to_string(scratch.path("cfg.yaml")).unwrap();
    let wrong = text.replace("g_pretrain_steps", "g_pretrian_steps");
    let line = 1 + wrong.lines().position(|l| l.contains("g_pretrian_steps")).unwrap();
    scratch.write("cfg.yaml", wrong.as_bytes());
    scratch.train(&[]).exits(2).says(&[&format!("cfg.yaml:{line}: Training.g_pretrian_steps"), "g_pretrain_steps"]);
    assert!(!scratch.path("logs").exists());
}

#[test]
fn wrong_overrides_are_refused() {
    let scratch = Scratch::new();
    scratch.train(&["Training.max_stepz=3"]).exits(2).says(&["Training.max_stepz", "max_steps"]);
    scratch.train(&["Training.max_steps=many"]).exits(2).says(&["Training.max_steps", "many"]);
    scratch.train(&["Generator.model_type=SRResNets"]).exits(2).says(&["Generator.model_type", "SRResNet"]);
    scratch.train(&["max_steps"]).exits(2).says(&["max_steps"]);
    assert!(!scratch.path("logs").exists());
}

#[test]
fn a_dry_run_prints_and_trains_nothing() {
    let scratch = Scratch::new();
    let shown = ["generator", "discriminator", "optimiser", "available", "4 steps per epoch", "device: cpu"];
    scratch.train(&["--dry-run", "--run-dir", "run"]).exits(0).says(&shown);
    scratch.train(&["--dry-run", "-v"]).exits(0).says(&["algorithms: this program's own"]);
    scratch.train(&["-v"]).exits(2).says(&["--dry-run"]);
    assert!(!scratch.path("logs").exists() && !scratch.path("run").exists());
}

#[test]
fn cuda_is_refused_with_a_way_out() {
    let scratch = Scratch::new();
    scratch.train(&["--device", "cuda"]).exits(2).says(&["cuda", "--device cpu"]);
    scratch.train(&["--device", "tpu"]).exits(2).says(&["tpu", "cpu"]);
    assert!(!scratch.path("logs").exists());
    let auto = scratch.train(&["--device", "auto", "--dry-run"]).exits(0);
    // A machine without a driver is a usual one; nothing needs to be said.
    if !Path::new("/proc/driver/nvidia").exists() {
        assert!(auto.text.contains("device: cpu") && !auto.text.contains("warning"), "{}", auto.text);
    }
}

#[test]
fn waiting_after_kernels_is_for_the_gpu() {
    let scratch = Scratch::new();
    scratch.train(&["--sync-kernels"]).exits(2).says(&["--sync-kernels", "cpu device", "--device cuda"]);
    assert!(!scratch.path("logs").exists());
}

#[test]
fn resume_auto_starts_a_run_and_then_continues_it() {
    let scratch = Scratch::new();
    let runs = || fs::read_dir(scratch.path("logs/srgan")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    scratch.train(&["--resume", "auto", "Training.max_steps=3"]).exits(0);
    let first = runs();
    assert_eq!(first.len(), 1);
    scratch.train(&["--resume", "auto"]).exits(0).says(&["continuing at step 3", "Training.max_steps: 3 -> 12"]);
    assert_eq!(runs(), first);
    let run = first[0].strip_prefix(scratch.path("")).unwrap().to_str().unwrap();
    assert_eq!(meta(&scratch.last(run)).step, 12);
    let steps: Vec<u64> = scratch.column(run, "lr_generator").into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, (0..12).collect::<Vec<_>>());
    // Without --resume it is a new run.
    scratch.train(&["Training.max_steps=1"]).exits(0);
    assert_eq!(runs().len(), 2);
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=1"]);
    let before = contents(&scratch.path("run"));
    scratch.train(&["--run-dir", "run"]).exits(2).says(&["already holds a run", "--resume run"]);
    assert_eq!(contents(&scratch.path("run")), before);
}

#[test]
fn another_architecture_is_refused_before_anything_changes() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=2"]);
    let before = contents(&scratch.path("run"));
    let resumed = ["--run-dir", "run", "--resume", "auto", "Generator.n_channels=16"];
    scratch.train(&resumed).exits(2).says(&["run/last.safetensors", "Generator.n_channels: 8 -> 16"]);
    assert_eq!(contents(&scratch.path("run")), before);

    // Weights alone carry no configuration: their extents are compared.
    let load = ["Model.load_checkpoint=run/last.safetensors", "Generator.n_channels=16", "--run-dir", "other"];
    scratch.train(&load).exits(2).says(&["generator.net.conv_block1.conv_block.0.weight", "8×3×3×3", "16×3×3×3"]);
    assert!(!scratch.path("other").exists());
    let lost = |name: &str| (!name.contains("conv_block3")).then(|| name.to_owned());
    renamed(&scratch.last("run"), &scratch.path("lost.safetensors"), lost);
    let load = ["Model.load_checkpoint=lost.safetensors", "--run-dir", "other"];
    scratch.train(&load).exits(2).says(&["lost.safetensors", "conv_block3"]);
    assert!(!scratch.path("other").exists());
}

#[test]
fn a_second_run_in_the_folder_is_refused() {
    let scratch = Scratch::new();
    let endless = ["Training.max_steps=1000000", "Training.val_check_interval=2"];
    let child = scratch.started("run", 4, &endless);
    let second = scratch.train(&["--run-dir", "run", "--resume", "auto"]);
    let third = scratch.train(&["--run-dir", "run"]);
    assert_eq!(signal(child, SIGTERM), Some(75));
    for refused in [second, third] {
        refused.exits(2).says(&["another run is working in this folder", "--run-dir"]);
    }
    let state = meta(&scratch.last("run"));
    assert_eq!(scratch.column("run", "lr_generator").len() as u64, state.step);
}

#[test]
fn load_checkpoint_takes_weights_only() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Generator.block_type=res"]);
    let args = ["Generator.block_type=res", "Model.load_checkpoint=run/last.safetensors", "Training.max_steps=1"];
    scratch.trained("next", &[&args[..], &["Optimizers.optim_g_lr=1e-30"]].concat());
    let state = meta(&scratch.last("next"));
    assert_eq!((state.step, state.epoch, state.counters.adam_g, state.counters.adam_d), (1, 0, 1, 0));
    assert_eq!(state.plateau_g.factor, 1.0);
    let (old, new) = (tensors(&scratch.last("run")), tensors(&scratch.last("next")));
    let of = |list: &[(String, Vec<u32>)], prefix: &str| -> Vec<Vec<u32>> {
        list.iter().filter(|t| t.0.starts_with(prefix)).map(|t| t.1.clone()).collect()
    };
    for network in ["generator.", "discriminator."] {
        assert!(!of(&old, network).is_empty());
        assert_eq!(of(&old, network), of(&new, network));
    }
    assert_eq!(of(&new, "ema."), of(&old, "generator."), "the average starts at the weights taken");
    assert!(of(&new, "optim_d.").concat().iter().all(|v| *v == 0), "moments are not taken");
}

#[test]
fn a_checkpoint_of_opensr_srgan_starts_a_run_but_does_not_continue_one() {
    let scratch = Scratch::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch/opensr.ckpt");
    fs::copy(fixture, scratch.path("model.ckpt")).unwrap();
    let discriminator = ["Discriminator.model_type=esrgan", "Discriminator.base_channels=1"];
    let network = [&discriminator[..], &["Discriminator.linear_size=2", "Generator.n_channels=4"]].concat();
    let few = ["Training.max_steps=1", "Optimizers.optim_g_lr=1e-30", "Optimizers.optim_d_lr=1e-30"];
    let args = [&network[..], &few, &["Model.load_checkpoint=model.ckpt", "--run-dir", "run"]].concat();
    scratch.train(&args).exits(0).says(&["initial weights of generator and discriminator from model.ckpt"]);
    let (mut old, new) = (TensorFile::open(&scratch.path("model.ckpt")).unwrap(), tensors(&scratch.last("run")));
    // A step changes the averages of batch norms, but hardly a weight.
    let live = |name: &str| name.starts_with("generator.") || name.starts_with("discriminator.");
    let weight = |name: &str| live(name) && (name.ends_with("weight") || name.ends_with("bias"));
    let weights: Vec<_> = new.into_iter().filter(|(name, _)| weight(name)).collect();
    assert_eq!(weights.len(), old.entries().iter().filter(|e| weight(&e.name)).count());
    for (name, bits) in weights {
        let start = old.read(&name).unwrap();
        assert_eq!(start.len(), bits.len());
        // Adam's first step is as long as the learning rate; only a zero is small enough to show it.
        let kept = |(a, b): (&f32, &u32)| (a - f32::from_bits(*b)).abs() <= 1e-29;
        assert!(start.iter().zip(&bits).all(kept), "{name}");
    }
    let refused = scratch.train(&[&network[..], &["--resume", "model.ckpt"]].concat()).exits(2);
    refused.says(&["model.ckpt", "a file of PyTorch", "Model.load_checkpoint=FILE"]);
}

/// Each example that names the scene of this repository can be trained as it stands.
#[test]
fn examples_start_on_the_sample_scene() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch::new();
    let store = format!("Data.store_dir={}", scratch.path("store").display());
    let mut count = 0;
    for entry in fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || !fs::read_to_string(&path).unwrap().contains("data/sentinel2_10m_b2_b3_b4_b8.npy") {
            continue;
        }
        // The weights of a perceptual network are not part of the repository.
        let args = ["--dry-run", &store, "Training.Losses.perceptual_weight=0", "Generator.n_blocks=1"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_srgan-train"));
        command.current_dir(root).arg("-c").arg(&path).args(args);
        finish(&mut command).exits(0).says(&["steps per epoch"]);
        count += 1;
    }
    assert_eq!(count, 9);
}
