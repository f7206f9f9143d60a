//! A folder with small scenes and checkpoints of untrained networks, and maps made in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use srgan::checkpoint::{CheckpointFile, Counters, Meta, TensorRef};
use srgan::config::Config;
use srgan::log::Messages;
use srgan::predict::{PredictOptions, predict};
use srgan::runtime::Cpu;
use srgan::train::DeviceOptions;
use srgan::train::session::{SavedTensor, Session};
use srgan::{Error, Result};
use tempfile::TempDir;

#[path = "../support/shared.rs"]
mod shared;
pub use shared::Shared;

/// Generators whose pixels depend on a bounded neighbourhood.
pub const LOCAL: [(&str, &str); 6] = [
    (
        "standard",
        "{model_type: SRResNet, block_type: standard, n_channels: 6, n_blocks: 1, scaling_factor: 4, large_kernel_size: 5}",
    ),
    (
        "res",
        "{model_type: SRResNet, block_type: res, n_channels: 6, n_blocks: 2, scaling_factor: 2, large_kernel_size: 3}",
    ),
    (
        "rrdb",
        "{model_type: SRResNet, block_type: rrdb, n_channels: 6, n_blocks: 1, scaling_factor: 2, large_kernel_size: 3}",
    ),
    (
        "lka",
        "{model_type: SRResNet, block_type: lka, n_channels: 6, n_blocks: 1, scaling_factor: 2, large_kernel_size: 3}",
    ),
    ("esrgan", "{model_type: esrgan, n_channels: 8, growth_channels: 4, n_blocks: 1, scaling_factor: 4}"),
    (
        "stochastic",
        "{model_type: stochastic_gan, n_channels: 6, n_blocks: 1, noise_dim: 4, scaling_factor: 2, large_kernel_size: 3}",
    ),
];

/// One whose pixels depend on the whole window.
pub const GLOBAL: &str =
    "{model_type: SRResNet, block_type: rcab, n_channels: 16, n_blocks: 1, scaling_factor: 2, large_kernel_size: 3}";

/// A small one of scale 2, with nothing to wait for.
pub const SMALL: &str =
    "{model_type: SRResNet, block_type: res, n_channels: 4, n_blocks: 1, scaling_factor: 2, large_kernel_size: 3}";

/// A folder that is deleted with the value.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of the folder's files, sorted.
    pub fn files(&self) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.0.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// A checkpoint with the initial weights of a generator for `bands` bands; `data` goes on with the section Data.
    pub fn checkpoint(&self, name: &str, generator: &str, bands: usize, data: &str) -> PathBuf {
        let yaml = format!(
            "Data: {{dataset_type: Scenes, scenes: [s.npy], hr_size: 16, {data}}}\nModel: {{in_bands: {bands}}}\nTraining: {{EMA: {{enabled: true}}, seed: 5}}\n\
             Generator: {generator}\nDiscriminator: {{model_type: patchgan, n_blocks: 1}}\n"
        );
        let (cfg, _) = Config::from_yaml(&yaml, None, &[]).unwrap();
        let session = Session::new(cfg.clone(), Box::new(Cpu::new(1).unwrap())).unwrap();
        let tensors = session.tensors().unwrap();
        let counters = Counters { ema_updates: 1, ..Counters::default() };
        let meta = Meta { config: cfg.to_yaml(), step: 7, counters, ..Meta::default() };
        let path = self.path(name);
        CheckpointFile { tensors: tensors.iter().map(tensor_ref).collect(), meta: &meta }.write_atomic(&path).unwrap();
        path
    }

    /// An array file of float32.
    pub fn floats(&self, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) -> PathBuf {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
        self.array(name, "<f4", shape, bytes)
    }

    /// An array file of uint16.
    pub fn shorts(&self, name: &str, shape: &[usize], value: impl Fn(usize) -> u16) -> PathBuf {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
        self.array(name, "<u2", shape, bytes)
    }

    fn array(&self, name: &str, descr: &str, shape: &[usize], values: Vec<u8>) -> PathBuf {
        let extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend_from_slice(format!("{dict:<117}\n").as_bytes());
        bytes.extend(values);
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn tensor_ref(t: &SavedTensor) -> TensorRef<'_> {
    TensorRef { name: &t.name, shape: &t.shape, data: &t.data }
}

/// Options on one thread of the CPU.
pub fn options(checkpoint: &Path) -> PredictOptions {
    PredictOptions {
        checkpoint: checkpoint.into(),
        overrides: vec!["Training.device=cpu".into(), "Training.num_threads=1".into()],
        ..PredictOptions::default()
    }
}

/// Maps a scene and returns what was said.
pub fn map(scene: &Path, out: &Path, options: &PredictOptions) -> Result<String> {
    let said = Shared::default();
    let device = DeviceOptions { messages: Some(Messages::plain(said.clone())), ..DeviceOptions::default() };
    predict(&[scene.to_owned()], out, options, &device)?;
    Ok(said.text())
}

/// The error of a map, with its exit code.
#[track_caller]
pub fn refused(scene: &Path, out: &Path, options: &PredictOptions) -> (u8, String) {
    let error: Error = map(scene, out, options).expect_err("the map was made");
    (error.exit_code(), error.to_string())
}

/// Shape and values of an array file of this program.
pub fn read_floats(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    let values = &bytes[128..];
    let floats = match header.contains("<f4") {
        true => values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        false => values.chunks_exact(2).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
    };
    (header, floats)
}

/// Smooth ground with detail, 0.1 to 0.9.
pub fn ground(i: usize) -> f32 {
    let (a, b) = ((i % 911) as f32, (i / 37 % 401) as f32);
    0.5 + 0.25 * (0.37 * a).sin() + 0.15 * (0.11 * b + 0.01 * a).cos()
}

/// Asserts that two maps differ by less than `share` of the range of the second.
#[track_caller]
pub fn assert_close(got: &[f32], want: &[f32], share: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let finite = || want.iter().filter(|v| v.is_finite());
    let range = finite().fold(f32::MIN, |a, b| a.max(*b)) - finite().fold(f32::MAX, |a, b| a.min(*b));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let same = a.is_nan() && b.is_nan();
        assert!(same || (a - b).abs() <= share * range, "{what}: value {i} is {a}, not {b}, of a range of {range}");
    }
}
