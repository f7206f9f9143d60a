//! `srgan bench`: every way to measure runs, and prints what its readers rely on.

use std::process::Command;

use serde_json::Value;

use crate::common::{Finished, Scratch, finish};

/// The keys that comparisons with other programs read.
const KEYS: [&str; 12] = [
    "impl",
    "version",
    "mode",
    "device",
    "phase",
    "batch",
    "hr",
    "step_ms_median",
    "step_ms_min",
    "patches_per_s",
    "peak_mem_mib",
    "step_mem_mib",
];

fn command(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_srgan"));
    command.args(["bench", "-c", "cfg.yaml"]).args(args).current_dir(scratch.path(""));
    command
}

fn bench(scratch: &Scratch, args: &[&str]) -> Finished {
    finish(&mut command(scratch, args))
}

/// The one line on standard output.
fn json(scratch: &Scratch, args: &[&str]) -> Value {
    let output = command(scratch, &[args, &["--json"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn each_phase_prints_the_keys_of_its_peers() {
    let scratch = Scratch::new();
    for phase in ["forward", "pretrain", "adversarial"] {
        let result = json(&scratch, &["--phase", phase, "--hr", "16", "--steps", "2", "--warmup", "1"]);
        let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
        assert!(keys.iter().zip(KEYS).all(|(a, b)| *a == b), "{keys:?}");
        assert_eq!((&result["phase"], &result["batch"], &result["hr"]), (&phase.into(), &2.into(), &16.into()));
        assert!(result["step_ms_min"].as_f64() <= result["step_ms_median"].as_f64());
        assert!(result.get("wait_share").is_none() && result.get("profile").is_none());
    }
}

#[test]
fn a_profile_covers_all_plan_steps() {
    let scratch = Scratch::new();
    let args = ["--hr", "16", "--steps", "2", "--profile"];
    let result = json(&scratch, &args);
    let lines = result["profile"]["lines"].as_array().unwrap();
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let share: f64 = lines.iter().map(|l| number(l, "share")).sum();
    assert!((share - 1.0).abs() < 0.05, "{share}");
    assert!(number(&lines[0], "gb_s") > 0.0 && number(&lines[0], "roofline_share") > 0.0, "{lines:?}");
    let conv = lines.iter().find(|l| l["label"].as_str().unwrap().starts_with("conv2d+")).unwrap();
    assert!(number(conv, "gflop_s") > 0.0);
    assert!(number(&result["profile"]["peaks"], "flops") > 0.0);
    bench(&scratch, &args).exits(0).says(&["step, median", "roofline", "conv2d_weight_grad", "GFLOP/s"]);
}

#[test]
fn steps_on_the_configs_data_go_through_epochs_and_say_how_long_they_waited() {
    let scratch = Scratch::new();
    // Four steps an epoch, two with accumulation over two batches.
    for (override_, batch) in [("Training.seed=3", 2), ("Training.accumulate_grad_batches=2", 4)] {
        for phase in ["pretrain", "adversarial"] {
            let args = ["--data", "cfg", "--phase", phase, "--steps", "6", override_];
            let result = json(&scratch, &args);
            assert_eq!((&result["batch"], &result["hr"]), (&batch.into(), &16.into()));
            assert!((0.0..1.0).contains(&result["wait_share"].as_f64().unwrap()), "{result}");
        }
    }
    bench(&scratch, &["--data", "cfg", "--steps", "1"]).exits(0).says(&["time waiting for data"]);
}

#[test]
fn the_loader_is_measured_alone() {
    let scratch = Scratch::new();
    let result = json(&scratch, &["--phase", "loader", "--epochs", "3"]);
    assert_eq!((&result["epochs"], &result["patches_per_epoch"]), (&3.into(), &8.into()));
    assert!(result["patches_per_s"].as_f64().unwrap() > 0.0);
    bench(&scratch, &["--phase", "loader"]).exits(0).says(&["20 epochs", "private", "pages of files"]);
}

#[test]
fn random_patches_have_the_side_of_the_configuration_unless_it_is_given() {
    let scratch = Scratch::new();
    let side = |args: &[&str]| json(&scratch, &[&["--phase", "forward", "--steps", "1"], args].concat())["hr"].clone();
    assert_eq!((side(&[]), side(&["--hr", "24"])), (16.into(), 24.into()));
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let scratch = Scratch::new();
    bench(&scratch, &["--hr", "15"]).exits(2).says(&["--hr 15", "scale, 2"]);
    bench(&scratch, &["--hr", "32", "--data", "cfg"]).exits(2).says(&["--hr", "Data.hr_size=32"]);
    bench(&scratch, &["--hr", "32", "--phase", "loader"]).exits(2).says(&["--hr", "Data.hr_size=32"]);
    bench(&scratch, &["--profile", "--phase", "loader"]).exits(2).says(&["--profile", "loader"]);
    bench(&scratch, &["--sync-kernels"]).exits(2).says(&["--sync-kernels", "--device cuda"]);
    bench(&scratch, &["--sync-kernels", "--phase", "loader"]).exits(2).says(&["--sync-kernels", "loader"]);
    bench(&scratch, &["--data", "cfg", "--phase", "forward"]).exits(2).says(&["--data cfg", "pretrain"]);
    let accumulated = ["--data", "cfg", "--profile", "Training.accumulate_grad_batches=2"];
    bench(&scratch, &accumulated).exits(2).says(&["--profile", "accumulate_grad_batches=1"]);
    bench(&scratch, &["--steps", "0"]).exits(2);
}
