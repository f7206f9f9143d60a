//! What `--dry-run` promises is what a run takes: the peak of the whole process, read from the system, stays within the
//! total plus a tenth plus 25 MiB. Small configurations in every test run; the examples of `configs/` in the slow ones.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A scene of four bands, 512 rows and columns.
fn write_scene(path: &Path) {
    let header = format!("{:<117}\n", "{'descr': '<u2', 'fortran_order': False, 'shape': (512, 512, 4, ), }");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let value = |i: usize| ((i / 2048 * 37 + i % 2048 * 11) % 4001) as u16;
    (0..512 * 512 * 4).for_each(|i| bytes.extend(value(i).to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// Runs the program in `folder`; its standard output and its peak in MiB.
fn run(folder: &Path, args: &[&str]) -> (String, f64) {
    let out = fs::File::create(folder.join("out")).unwrap();
    let errors = fs::File::create(folder.join("err")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_srgan-train"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(out).stderr(errors);
    #[allow(clippy::zombie_processes)] // `wait4` below is the wait.
    let child = command.spawn().unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and not yet waited for; both places outlive the call.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, child.id() as i32);
    // SAFETY: written by the call; all zeros is a value of the type too.
    let peak = unsafe { usage.assume_init() }.ru_maxrss as f64 / 1024.0;
    let text = fs::read_to_string(folder.join("out")).unwrap();
    assert_eq!(status, 0, "{args:?}: {}", fs::read_to_string(folder.join("err")).unwrap());
    (text, peak)
}

/// The promise and the peak of a configuration.
fn check(folder: &Path, args: &[&str], failures: &mut Vec<String>) {
    let (text, _) = run(folder, &[args, &["--dry-run"]].concat());
    let total = text.lines().find_map(|line| line.strip_prefix("total ")?.trim().parse::<f64>().ok());
    // Several tables have a total; memory's alone is one number.
    let promised = total.unwrap_or_else(|| panic!("no total in {text}"));
    let run_dir = folder.join("run");
    let _ = fs::remove_dir_all(&run_dir);
    let (_, peak) = run(folder, &[args, &["--run-dir", "run"]].concat());
    let line = format!("{promised:.0} MiB promised, {peak:.0} taken: {args:?}");
    println!("{line}");
    if peak > 1.1 * promised + 25.0 {
        failures.push(line);
    }
}

/// A few steps of both phases, a validation with pictures, checkpoints, the table at the end.
const RUN: &str = "\
Data: {dataset_type: Scenes, scenes: [scene.npy], normalization: normalise_10k, hr_size: 64, patches_per_epoch: 64, \
train_batch_size: 4, val_batch_size: 2, val_fraction: 0.5, num_workers: 2}
Model: {in_bands: 4}
Training: {device: cpu, num_threads: 2, max_steps: 3, pretrain_g_only: true, g_pretrain_steps: 1, val_check_interval: 2}
Generator: {model_type: SRResNet, block_type: res, n_channels: 16, n_blocks: 2, scaling_factor: 4}
Discriminator: {model_type: patchgan, n_blocks: 2}
";

/// Changes of `RUN`, one or two at a time.
const MATRIX: [&[&str]; 20] = [
    &[],
    &["Discriminator.model_type=standard", "Discriminator.n_blocks=8", "Data.train_batch_size=2"],
    &["Discriminator.model_type=esrgan", "Discriminator.base_channels=16"],
    &["Generator.model_type=esrgan", "Generator.n_blocks=1"],
    &["Generator.block_type=standard", "Generator.n_channels=64"],
    &["Generator.block_type=rcab", "Generator.n_channels=32"],
    &["Generator.block_type=lka"],
    &["Generator.block_type=rrdb"],
    &["Generator.model_type=stochastic_gan"],
    &["Training.EMA={enabled: true}", "Training.EMA.update_after_step=1"],
    &["Training.accumulate_grad_batches=3", "Data.num_workers=0"],
    &["Data.num_workers=32", "Data.prefetch_factor=32", "Data.patches_per_epoch=4096"],
    &["Data.num_workers=8", "Data.prefetch_factor=64", "Data.hr_size=128", "Data.patches_per_epoch=100000"],
    &["Data.train_batch_size=32", "Training.num_threads=1"],
    &["Data.val_batch_size=16", "Logging.num_val_images=50"],
    &["Training.Losses.r1_gamma=1", "Training.Losses.relativistic_average_d=true"],
    &["Optimizers.gradient_clip_val=1", "Training.num_threads=4"],
    &["Data.hr_size=256", "Data.train_batch_size=1"],
    &["Generator.scaling_factor=8", "Generator.n_channels=32"],
    &["Generator.scaling_factor=2", "Generator.n_blocks=6"],
];

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn small_runs_stay_within_what_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    write_scene(&dir.path().join("scene.npy"));
    fs::write(dir.path().join("cfg.yaml"), RUN).unwrap();
    let mut failures = Vec::new();
    for changes in MATRIX {
        check(dir.path(), &[&["-c", "cfg.yaml"], changes].concat(), &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each example that trains on the scene of this repository, as it stands but for its length.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn examples_stay_within_what_was_promised() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("data"), dir.path().join("data")).unwrap();
    let (mut count, mut failures) = (0, Vec::new());
    for entry in fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || !fs::read_to_string(&path).unwrap().contains("data/sentinel2_10m_b2_b3_b4_b8.npy") {
            continue;
        }
        let few = ["Training.max_steps=2", "Training.val_check_interval=2", "Training.limit_val_batches=1"];
        // The weights of a perceptual network are not part of the repository.
        let other = ["Training.g_pretrain_steps=1", "Training.Losses.perceptual_weight=0", "Training.device=cpu"];
        let config = ["-c", path.to_str().unwrap()];
        check(dir.path(), &[&config[..], &few, &other].concat(), &mut failures);
        count += 1;
    }
    assert_eq!(count, 9);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
