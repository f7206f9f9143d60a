//! What a config opens: the device and the data.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::self_check::{Checked, Trust, check_gpu};
use crate::config::{Config, DatasetType, DeviceChoice, IsaChoice, Layout, LibraryUse, MaskUse, StoreMode};
use crate::data::{self, DataSettings, DatasetKind};
use crate::device::collective::Ranks;
use crate::device::cpu::{Isa, IsaKind};
use crate::device::cuda::libraries::Library;
use crate::device::cuda::{GpuDriver, GpuOptions};
use crate::device::{OnCompile, OnWarning};
use crate::log::{CompileProgress, Messages};
use crate::ops::prepare::Normalization;
use crate::runtime::{Cpu, Cuda, Device};
use crate::{Error, Result};

/// What does not belong in a config.
#[derive(Clone, Default)]
pub struct DeviceOptions {
    /// Wait after each kernel, so that an error names the kernel that caused it. For `cuda` alone.
    pub sync_kernels: bool,
    /// Where progress and warnings go; without it they are not told.
    pub messages: Option<Messages>,
    /// A binary of this project, which is started to check GPUs ([`check_gpu`]). Without one `auto` is the
    /// CPU, and `cuda` a GPU without kernels for Hopper alone, which are used only where they have passed.
    pub program: Option<PathBuf>,
    /// The ranks that this process is one of. For `cpu` alone.
    pub ranks: Ranks,
}

impl DeviceOptions {
    fn info(&self, text: &str) {
        self.messages.iter().for_each(|messages| messages.info(text));
    }

    fn warn(&self, text: &str) {
        self.messages.iter().for_each(|messages| messages.warn(text));
    }
}

/// Shows through `messages` how far kernels are compiled.
fn show_compiling(messages: &Messages) -> OnCompile {
    let mut progress = CompileProgress::new(messages.clone());
    Box::new(move |device, compiling| progress.show(device, (compiling.total, compiling.cached), compiling.done))
}

/// Shows warnings through `messages`.
fn show_warnings(messages: &Messages) -> OnWarning {
    let messages = messages.clone();
    Box::new(move |text| messages.warn(text))
}

/// The device that a config asks for.
///
/// # Errors
/// Fails as [`open_device_with`] does.
pub fn open_device(cfg: &Config) -> Result<Box<dyn Device>> {
    open_device_with(cfg, &DeviceOptions::default())
}

/// The device that a config asks for. `auto` is a GPU that trains as the CPU does ([`check_gpu`]), else the CPU:
/// silently where there is no driver, otherwise with a warning that says why. `cuda` is a GPU in any case, with a
/// warning where its check fails: who asks for it may know better, for instance that the kernel at fault is none of
/// theirs, and has planned for a GPU's speed. Kernels for Hopper alone are used where they have passed, and nowhere else:
/// without [`DeviceOptions::program`] they are not.
///
/// # Errors
/// For `cuda`, what is missing: a GPU, its driver, the compiler of its kernels. An instruction set that the processor
/// lacks; memory that cannot be had; options that the device has no use for.
pub fn open_device_with(cfg: &Config, options: &DeviceOptions) -> Result<Box<dyn Device>> {
    if options.ranks.are_several() {
        return open_cpu_among(cfg, &options.ranks);
    }
    let gpu = match cfg.training.device {
        DeviceChoice::Cuda => Some(gpu_asked_for(cfg, options)?),
        DeviceChoice::Auto => gpu_found(cfg, options),
        DeviceChoice::Cpu => None,
    };
    if let Some(gpu) = gpu {
        let messages = options.messages.as_ref();
        let device = Cuda::new(Box::new(gpu)).with_progress(messages.map(show_compiling));
        let seconds = Duration::from_secs_f64(cfg.training.tune_seconds.min(1e9));
        return Ok(Box::new(device.with_warnings(messages.map(show_warnings)).with_tuning_time(seconds)));
    }
    if options.sync_kernels {
        return Err(Error::usage("--sync-kernels waits after each CUDA kernel, and the cpu device has none")
            .with_hint("leave it out, or use `--device cuda`"));
    }
    let threads = match cfg.training.num_threads {
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(Box::new(Cpu::new(threads)?.with_isa(instruction_set(cfg.training.isa)?)))
}

/// The CPU of one of several ranks. They share a node's cores: each takes its part of them.
fn open_cpu_among(cfg: &Config, ranks: &Ranks) -> Result<Box<dyn Device>> {
    if cfg.training.device == DeviceChoice::Cuda {
        return Err(Error::usage(format!("Training.device is cuda, but {} ranks train on CPUs only", ranks.count()))
            .with_hint("use `--device cpu`, or start one process"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cfg.training.num_threads.unwrap_or_else(|| (cores / ranks.count()).max(1));
    Ok(Box::new(Cpu::new(threads)?.with_isa(instruction_set(cfg.training.isa)?).among(ranks.clone())))
}

fn gpu_options(cfg: &Config, options: &DeviceOptions) -> GpuOptions {
    let (ordinal, sync_kernels) = (cfg.training.gpus.ids()[0], options.sync_kernels);
    let libraries = cfg.training.libraries == LibraryUse::Auto;
    GpuOptions { ordinal, sync_kernels, libraries, ..GpuOptions::new(&|name| std::env::var_os(name)) }
}

/// A GPU and its report, as far as `program` can make one.
fn checked(gpu: &GpuOptions, program: &Path, options: &DeviceOptions) -> Result<Checked> {
    let checked = check_gpu(gpu, program, Trust::Kept, &mut |text| options.info(text))?;
    if let Some(fault) = checked.report.warpgroups_fault() {
        options.warn(&format!(
            "kernels for Hopper alone (wgmma) are not used, since they did not pass the GPU's self-check: {fault}\n  \
             `srgan doctor` checks again"
        ));
    }
    Ok(checked)
}

/// The GPU of `Training.device: cuda`.
fn gpu_asked_for(cfg: &Config, options: &DeviceOptions) -> Result<GpuDriver> {
    let gpu = gpu_options(cfg, options);
    let open = || {
        let Some(program) = &options.program else { return Ok(GpuDriver::new(gpu)?.without_warpgroups()) };
        let checked = checked(&gpu, program, options)?;
        if let Some(fault) = checked.report.fault() {
            let name = checked.describe();
            options.warn(&format!("training on {name}, as asked for, but {fault}\n  `srgan doctor` checks again"));
        }
        checked.open()
    };
    // Asked for what this machine does not have: wrong use, not a failure of the device.
    open().map_err(|e| match e {
        Error::Device { message, hint } => {
            let hint = hint.map_or_else(String::new, |hint| format!("{hint}; or "));
            Error::usage(format!("Training.device is cuda, but {message}")).with_hint(hint + "use `--device cpu`")
        }
        other => other,
    })
}

/// The GPU of `Training.device: auto`, if there is one that can be trusted. Another is not even opened.
fn gpu_found(cfg: &Config, options: &DeviceOptions) -> Option<GpuDriver> {
    let gpu = gpu_options(cfg, options);
    let program = options.program.as_ref()?;
    Library::Driver.load(&gpu.search, None).ok()?;
    // Who hides all GPUs wants the CPU.
    let hides_all = |list: OsString| list.is_empty() || list == "-1" || list == "NoDevFiles";
    if std::env::var_os("CUDA_VISIBLE_DEVICES").is_some_and(hides_all) {
        return None;
    }
    let opened = checked(&gpu, program, options).and_then(|checked| match checked.report.fault() {
        None => checked.open().map(Ok),
        Some(fault) => Ok(Err(format!("not on {}: {fault}", checked.describe()))),
    });
    let why = match opened {
        Ok(Ok(driver)) => return Some(driver),
        Ok(Err(why)) => why,
        Err(e) => format!("though there is an NVIDIA driver: {e}"),
    };
    options.warn(&format!("training on the CPU, {why}\n  `srgan doctor` shows what there is and checks again"));
    None
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
        split: data::Split::Val,
        root_dir: d.root_dir.clone(),
        scenes: d.scenes.iter().map(|scene| scene.paths().to_vec()).collect(),
        layout: d.layout.map(|l| match l {
            Layout::Hwc => data::Layout::Hwc,
            Layout::Chw => data::Layout::Chw,
        }),
        bands: d.bands.clone(),
        nodata: d.nodata,
        mask: d.mask == MaskUse::Auto,
        apply_scale: d.apply_scale,
        value_scale: d.scale,
        value_offset: d.offset,
        normalization: d.normalization.and_then(|method| Normalization::parse(method.name())),
        check_range: d.check_range,
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
