//! A folder with a small scene and a small configuration, and the program running in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use srgan::checkpoint::{CheckpointFile, Meta, TensorFile, TensorRef};
use srgan::data::PixelType;
use tempfile::TempDir;

#[path = "../support/shared.rs"]
mod shared;
pub use shared::Shared;

/// 4 steps an epoch, 3 bands, scale 2; everything that has a state acts within a few steps.
const CONFIG: &str = "\
Data:
  dataset_type: Scenes
  scenes: [scene.npy]
  layout: HWC
  normalization: normalise_10k
  hr_size: 16
  val_fraction: 0.25
  patches_per_epoch: 8
  train_batch_size: 2
  val_batch_size: 2
  num_workers: 2
Model:
  in_bands: 3
Training:
  device: cpu
  num_threads: 2
  seed: 3
  max_steps: 12
  pretrain_g_only: true
  g_pretrain_steps: 6
  adv_loss_ramp_steps: 3
  val_check_interval: 3
  limit_val_batches: 2
  EMA:
    enabled: true
    decay: 0.9
    update_after_step: 2
Generator:
  model_type: SRResNet
  block_type: standard
  large_kernel_size: 3
  n_channels: 8
  n_blocks: 1
  scaling_factor: 2
Discriminator:
  model_type: patchgan
  n_blocks: 1
Optimizers:
  optim_g_lr: 1.0e-3
  optim_d_lr: 1.0e-4
  betas: [0.9, 0.99]
Schedulers:
  g_warmup_steps: 4
  g_warmup_type: cosine
  patience_g: 0
  patience_d: 0
  threshold: 0.5
Logging:
  num_val_images: 1
";

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(120);

/// A tensor's name and the bits of its values.
pub type Bits = (String, Vec<u32>);

/// A folder with `scene.npy` and `cfg.yaml`, in which the program runs; deleted with the value.
pub struct Scratch(TempDir);

/// What a finished process left.
pub struct Finished {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output, then standard error.
    pub text: String,
}

impl Finished {
    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    /// Asserts that each of `wanted` was printed.
    #[track_caller]
    pub fn says(self, wanted: &[&str]) -> Self {
        for text in wanted {
            assert!(self.text.contains(text), "{text:?} is not in:\n{}", self.text);
        }
        self
    }
}

impl Scratch {
    pub fn new() -> Self {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        scratch.write("cfg.yaml", CONFIG.as_bytes());
        scratch.write("scene.npy", &npy(PixelType::U16, &[64, 64, 3], scene_value));
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, making its folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program with `cfg.yaml` and `args`, to be started in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_srgan-train"));
        command.args(["-c", "cfg.yaml"]).args(args).current_dir(self.0.path());
        command
    }

    /// Runs the program to its end.
    pub fn train(&self, args: &[&str]) -> Finished {
        finish(&mut self.command(args))
    }

    /// Runs the program in the run folder `run` and asserts that it trains to its end.
    #[track_caller]
    pub fn trained(&self, run: &str, args: &[&str]) {
        self.train(&[&["--run-dir", run], args].concat()).exits(0);
    }

    /// Starts the program in the run folder `run` and waits until `step` is in its metrics.
    pub fn started(&self, run: &str, step: u64, args: &[&str]) -> Child {
        let mut child = self.command(&[&["--run-dir", run], args].concat()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while self.rows(run).last().is_none_or(|row| row.0 < step) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before step {step}");
            assert!(start.elapsed() < PATIENCE, "step {step} does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    pub fn last(&self, run: &str) -> PathBuf {
        self.path(run).join("last.safetensors")
    }

    /// The complete rows of `metrics.csv`: step and line.
    fn rows(&self, run: &str) -> Vec<(u64, String)> {
        let text = fs::read_to_string(self.path(run).join("metrics.csv")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let cells = |line: &str| line.matches(',').count();
        let expected = whole.lines().next().map_or(0, cells);
        // While a row is written again, what is read may be parts of both.
        let complete = whole.lines().skip(1).filter(|l| cells(l) == expected);
        complete.filter_map(|l| Some((l.split(',').next()?.parse().ok()?, l.to_owned()))).collect()
    }

    pub fn metrics_text(&self, run: &str) -> String {
        fs::read_to_string(self.path(run).join("metrics.csv")).unwrap()
    }

    /// The column `name` of `metrics.csv`: step and cell of each row where the cell is not empty.
    pub fn column(&self, run: &str, name: &str) -> Vec<(u64, String)> {
        let text = self.metrics_text(run);
        let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
        let at = header.iter().position(|h| *h == name).unwrap_or_else(|| panic!("no column {name}: {header:?}"));
        let cells = self.rows(run).into_iter().map(|(step, row)| (step, row.split(',').nth(at).unwrap().to_owned()));
        cells.filter(|(_, cell)| !cell.is_empty()).collect()
    }

    /// The same as numbers, without the steps.
    pub fn numbers(&self, run: &str, name: &str) -> Vec<f64> {
        self.column(run, name).into_iter().map(|(_, cell)| cell.parse().unwrap()).collect()
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Finished { code: output.status.code(), text }
}

/// Sends a signal to a child and waits for its end; the exit code, `None` if the signal ended it.
pub fn signal(mut child: Child, signal: i32) -> Option<i32> {
    // SAFETY: kill takes two numbers and touches no memory; the child has not been waited for, so the number is its.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    child.wait().unwrap().code()
}

/// A smooth scene with some detail, 500 … 5500, different in each band.
pub fn scene_value(i: usize) -> f32 {
    let (pixel, band) = (i / 3, i % 3);
    let (y, x) = ((pixel / 64) as f32, (pixel % 64) as f32);
    3000.0 + 2500.0 * (0.35 * x + band as f32).sin() * (0.21 * y - 0.4 * band as f32).cos()
}

/// An `.npy` file.
pub fn npy(dtype: PixelType, shape: &[usize], value: impl Fn(usize) -> f32) -> Vec<u8> {
    let extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({extents}), }}", dtype.descr());
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend_from_slice(format!("{dict:<117}\n").as_bytes());
    for v in (0..shape.iter().product()).map(value) {
        match dtype {
            PixelType::F32 => bytes.extend(v.to_le_bytes()),
            _ => bytes.extend((v as u16).to_le_bytes()),
        }
    }
    bytes
}

/// The document of a checkpoint.
pub fn meta(path: &Path) -> Meta {
    TensorFile::open_checkpoint(path).unwrap().1
}

/// All tensors of a checkpoint.
pub fn tensors(path: &Path) -> Vec<Bits> {
    let mut file = TensorFile::open(path).unwrap();
    let names: Vec<String> = file.entries().iter().map(|e| e.name.clone()).collect();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    names
        .into_iter()
        .map(|n| {
            let values = file.read(&n).unwrap();
            (n, bits(values))
        })
        .collect()
}

/// Asserts that two lists of tensors have the same names and bits.
#[track_caller]
pub fn assert_same_tensors(a: &[Bits], b: &[Bits]) {
    assert!(!a.is_empty());
    assert!(a.iter().map(|t| &t.0).eq(b.iter().map(|t| &t.0)), "the names differ");
    let differing: Vec<&str> = a.iter().zip(b).filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0.as_str()).collect();
    assert!(differing.is_empty(), "{} of {} tensors differ: {differing:?}", differing.len(), a.len());
}

/// Writes a checkpoint file of another's tensors under new names; `rename` leaves those out that it has none for.
pub fn renamed(from: &Path, to: &Path, rename: impl Fn(&str) -> Option<String>) {
    let (mut file, meta) = TensorFile::open_checkpoint(from).unwrap();
    let entries = file.entries().to_vec();
    let kept: Vec<(String, Vec<usize>, Vec<f32>)> = entries
        .into_iter()
        .filter_map(|e| Some((rename(&e.name)?, e.shape.clone(), file.read(&e.name).unwrap())))
        .collect();
    let tensors = kept.iter().map(|(name, shape, data)| TensorRef { name, shape, data }).collect();
    CheckpointFile { tensors, meta: &meta }.write_atomic(to).unwrap();
}
