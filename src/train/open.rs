//! What a config opens: the device and the data.

use crate::config::{Config, DatasetType, DeviceChoice, IsaChoice, Layout, StoreMode};
use crate::data::{self, DataSettings, DatasetKind};
use crate::device::cpu::{Cpu, Isa, IsaKind};
use crate::device::cuda::{Cuda, GpuDriver, GpuOptions};
use crate::device::{Device, OnCompile};
use crate::log::{CompileProgress, Messages};
use crate::{Error, Result};

/// What does not belong in a config.
#[derive(Default)]
pub struct DeviceOptions {
    /// Wait after each kernel, so that an error names the kernel that caused it. For `cuda` alone.
    pub sync_kernels: bool,
    /// Is told how far kernels are compiled.
    pub on_compile: Option<OnCompile>,
}

/// Shows through `messages` how far kernels are compiled.
pub fn show_compiling(messages: &Messages) -> OnCompile {
    let mut progress = CompileProgress::new(messages.clone());
    Box::new(move |device, compiling| progress.show(device, (compiling.total, compiling.cached), compiling.done))
}

/// The device that a config asks for.
///
/// # Errors
/// Those of [`open_device_with`].
pub fn open_device(cfg: &Config) -> Result<Box<dyn Device>> {
    open_device_with(cfg, DeviceOptions::default())
}

/// The device that a config asks for.
///
/// # Errors
/// For `cuda`, what is missing: a GPU, its driver, the compiler of its kernels. An instruction set that the processor
/// lacks; memory that cannot be had; options that the device has no use for.
// `auto` is the CPU until the CUDA device's results and speed have been measured on a GPU (issue 3).
pub fn open_device_with(cfg: &Config, options: DeviceOptions) -> Result<Box<dyn Device>> {
    let DeviceOptions { sync_kernels, on_compile } = options;
    if cfg.training.device == DeviceChoice::Cuda {
        let ordinal = cfg.training.gpus.ids()[0];
        let options = GpuOptions { ordinal, sync_kernels, ..GpuOptions::new(&|name| std::env::var_os(name)) };
        // Asked for what this machine does not have: wrong use, not a failure of the device.
        let driver = GpuDriver::new(options).map_err(|e| match e {
            Error::Device { message, hint } => {
                let hint = hint.map_or_else(String::new, |hint| format!("{hint}; or "));
                Error::usage(format!("Training.device is cuda, but {message}")).with_hint(hint + "use `--device cpu`")
            }
            other => other,
        })?;
        return Ok(Box::new(Cuda::new(Box::new(driver)).with_progress(on_compile)));
    }
    if sync_kernels {
        return Err(Error::usage("--sync-kernels waits after each CUDA kernel, and the cpu device has none")
            .with_hint("leave it out, or use `--device cuda`"));
    }
    let threads = match cfg.training.num_threads {
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(Box::new(Cpu::new(threads)?.with_isa(instruction_set(cfg.training.isa)?)))
}

/// The instruction set of a choice, if this processor has it.
fn instruction_set(choice: IsaChoice) -> Result<Isa> {
    let kind = match choice {
        IsaChoice::Auto => return Ok(Isa::detect()),
        IsaChoice::Avx512 => IsaKind::Avx512,
        IsaChoice::Avx2 => IsaKind::Avx2,
        IsaChoice::Neon => IsaKind::Neon,
        IsaChoice::Portable => IsaKind::Portable,
    };
    Isa::of(kind).ok_or_else(|| {
        let present: Vec<_> = Isa::all().map(|isa| isa.kind().name()).collect();
        let message = format!("Training.isa is {}, but this processor has only {}", kind.name(), present.join(", "));
        Error::usage(message).with_hint("use `--isa auto` to take the widest")
    })
}

/// The data module's settings of a config.
pub fn data_settings(cfg: &Config) -> DataSettings {
    let d = &cfg.data;
    DataSettings {
        kind: match d.dataset_type {
            DatasetType::Example => DatasetKind::Example,
            DatasetType::LrHrFolder => DatasetKind::LrHrFolder,
            DatasetType::Scenes => DatasetKind::Scenes,
        },
        root_dir: d.root_dir.clone(),
        scenes: d.scenes.clone(),
        layout: d.layout.map(|l| match l {
            Layout::Hwc => data::Layout::Hwc,
            Layout::Chw => data::Layout::Chw,
        }),
        bands: d.bands.clone(),
        nodata: d.nodata,
        in_bands: cfg.model.in_bands,
        scale: cfg.generator.scaling_factor,
        hr_size: d.hr_size,
        patches_per_epoch: d.patches_per_epoch.map(|n| n as usize),
        val_fraction: d.val_fraction,
        augment: d.augment,
        store_dir: Some(d.store_dir.clone()),
        store: match d.store {
            StoreMode::Mmap => data::StoreMode::Mmap,
            StoreMode::Read => data::StoreMode::Read,
        },
        seed: cfg.training.seed,
        train_batch: d.train_batch_size,
        val_batch: d.val_batch_size,
        num_workers: d.num_workers,
        prefetch_factor: d.prefetch_factor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set is either what the device says it runs on, or refused with the sets that there are.
    #[test]
    fn a_named_instruction_set_is_used_or_refused() {
        for choice in [IsaChoice::Portable, IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Neon] {
            let mut cfg = Config::default();
            (cfg.training.isa, cfg.training.num_threads) = (choice, Some(1));
            let name = format!("{choice:?}").to_lowercase();
            match open_device(&cfg) {
                Ok(device) => assert_eq!(device.describe(), format!("cpu (1 threads, {name})")),
                Err(e) => {
                    assert_ne!(choice, IsaChoice::Portable);
                    let text = e.to_string();
                    assert!(text.starts_with(&format!("Training.isa is {name}, but this processor has only portable")));
                    assert!(text.contains("use `--isa auto`"), "{text}");
                }
            }
        }
    }
}
