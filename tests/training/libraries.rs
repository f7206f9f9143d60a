//! Runs on a device that chooses between kernels and libraries: what is chosen is written down, shown, and used again.

use std::fs;

use srgan::config::{Config, Resume};
use srgan::device::cuda::host::{HostDriver, HostOptions, Libraries};
use srgan::log::Messages;
use srgan::runtime::Cuda;
use srgan::runtime::choices::Choices;
use srgan::train::{RunOptions, dry_run_on, run_on};

use crate::common::{Scratch, Shared, assert_same_tensors, meta, tensors};

const SHORT: [&str; 4] = [
    "Training.g_pretrain_steps=2",
    "Training.val_check_interval=2",
    "Training.limit_val_batches=1",
    "Logging.num_val_images=0",
];

fn config(scratch: &Scratch, changes: &[&str]) -> Config {
    let mut changes: Vec<String> = changes.iter().chain(&SHORT).map(|c| (*c).to_owned()).collect();
    changes.push(format!("Data.scenes=[{}]", scratch.path("scene.npy").display()));
    changes.push(format!("Data.store_dir={}", scratch.path("store").display()));
    changes.push("Training.precision=f32".to_owned());
    Config::load(&scratch.path("cfg.yaml"), &changes).unwrap().0
}

fn device(libraries: Libraries) -> Box<Cuda> {
    // The folder that tests of the ops fill too.
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    Box::new(Cuda::new(Box::new(HostDriver::new(&cache, HostOptions { libraries, ..HostOptions::default() }).unwrap())))
}

/// Trains up to a step, or goes on to it; what was printed.
fn train(scratch: &Scratch, run: &str, steps: u64, libraries: Libraries) -> String {
    let cfg = config(scratch, &[&format!("Training.max_steps={steps}")]);
    let folder = scratch.path(run);
    let resume = folder.exists().then_some(Resume::Auto);
    let options = RunOptions { resume, run_dir: Some(folder), ..RunOptions::default() };
    let out = Shared::default();
    run_on(|| Ok(device(libraries)), &cfg, &options, &Messages::plain(out.clone())).unwrap();
    out.text()
}

#[test]
fn a_run_writes_down_what_was_chosen_and_goes_on_with_it() {
    let scratch = Scratch::new();
    train(&scratch, "whole", 4, Libraries::Faster);
    let state = meta(&scratch.last("whole"));
    assert_eq!(state.timed_on, "host, libraries Faster, warpgroups false");
    let by_library = state.choices.values().filter(|algorithm| *algorithm == "host:plain").count();
    assert!(by_library > 5, "{:?}", state.choices);
    let text = fs::read_to_string(scratch.path("whole/algorithms.json")).unwrap();
    let written: Choices = serde_json::from_str(&text).unwrap();
    assert_eq!((&written.algorithms(), &written.timed_on), (&state.choices, &state.timed_on));
    // Everything is decided before the first step, for all phases.
    train(&scratch, "split", 1, Libraries::Faster);
    assert_eq!(meta(&scratch.last("split")).choices, state.choices);
    let said = train(&scratch, "split", 4, Libraries::Faster);
    assert!(!said.contains("algorithms"), "{said}");
    assert_same_tensors(&tensors(&scratch.last("whole")), &tensors(&scratch.last("split")));
    assert_eq!(meta(&scratch.last("split")).choices, state.choices);
}

#[test]
fn another_device_chooses_anew_and_says_so() {
    let scratch = Scratch::new();
    train(&scratch, "run", 1, Libraries::Faster);
    let said = train(&scratch, "run", 2, Libraries::Slower);
    let there = "the run's algorithms were chosen on host, libraries Faster, warpgroups false; here is host, libraries \
                 Slower, warpgroups false";
    assert!(said.contains(there), "{said}");
    let state = meta(&scratch.last("run"));
    assert_eq!(state.timed_on, "host, libraries Slower, warpgroups false");
    assert!(state.choices.values().all(|algorithm| algorithm == "own"), "{:?}", state.choices);
    // And one without libraries: own kernels, the same as those chosen.
    let said = train(&scratch, "run", 3, Libraries::None);
    assert!(said.contains("chosen on host, libraries Slower, warpgroups false; here is cuda (host)"), "{said}");
    assert!(meta(&scratch.last("run")).choices.is_empty());
    let said = train(&scratch, "run", 4, Libraries::None);
    assert!(!said.contains("algorithms"), "{said}");
}

#[test]
fn a_verbose_dry_run_shows_candidates_and_the_choice() {
    let scratch = Scratch::new();
    let text = |verbose| dry_run_on(device(Libraries::Faster), &config(&scratch, &[]), verbose).unwrap();
    let shown = text(true);
    assert!(!text(false).contains("host:plain"));
    let line = |wanted: &[&str]| {
        let found = shown.lines().any(|line| wanted.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {wanted:?} in\n{shown}");
    };
    line(&["program", "layer", "algorithm", "others"]);
    line(&["pretrain", "generator.", "host:plain", "1.0", "own 10.0, host:slow 30.0"]);
    line(&["adversarial", "discriminator.", "host:plain"]);
    line(&["algorithms timed on host, libraries Faster"]);
    // What computes something else is no candidate, and is shown as what it is.
    let shown = dry_run_on(device(Libraries::Faulty), &config(&scratch, &[]), true).unwrap();
    let wrong = "host:plain 5.0 own 10.0, host:scaled is wrong, host:hole is wrong, host:nan is wrong";
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert!(words(&shown).contains(wrong), "{shown}");
    assert!(!scratch.path("logs").exists());
}
