//! A GPU and what it would be used with, found without opening it.

use std::path::PathBuf;

use cudarc::driver::result::device;
use cudarc::driver::sys::{CUdevice, CUresult, CUuuid};

use super::failure::failure;
use super::gpus::{Gpu, gpus};
use super::{GpuDriver, GpuOptions};
use crate::device::cuda::compile::module::all_kernels;
use crate::device::cuda::compile::nvrtc::{Arch, Nvrtc};
use crate::device::cuda::libraries::{Library, Loaded, Version};
use crate::{Error, Result};

/// The oldest driver's CUDA version that has all that is called here.
const OLDEST_DRIVER: Version = Version { major: 12, minor: 0, patch: None };

/// `cuDeviceGetUuid_v2` of cuda.h, which tells the parts of a shared GPU (MIG) apart.
type GetUuid = unsafe extern "C" fn(*mut CUuuid, CUdevice) -> CUresult;

/// A GPU that could be opened. Nothing was started on it, nor memory taken.
#[derive(Debug)]
pub struct FoundGpu {
    pub(super) options: GpuOptions,
    pub(super) gpu: Gpu,
    pub(super) arch: Arch,
    pub(super) nvrtc: Nvrtc,
    pub(super) library: Loaded,
    uuid: String,
}

impl FoundGpu {
    /// Finds a GPU, its driver and the compiler of its kernels.
    ///
    /// # Errors
    /// Fails if there is no driver, no compiler or no such GPU; says what is missing, and what to do.
    pub fn new(options: GpuOptions) -> Result<FoundGpu> {
        let library = Library::Driver.load(&options.search, None)?;
        let driver = library.version;
        if driver < OLDEST_DRIVER {
            return Err(Error::device(format!("the driver is of CUDA {driver}, too old: {OLDEST_DRIVER} is needed"))
                .with_hint("update it: https://www.nvidia.com/drivers"));
        }
        let (ordinal, mut found) = (options.ordinal, gpus()?);
        if ordinal >= found.len() {
            let visible = "see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it";
            let message = format!("there is no GPU {ordinal}: the driver shows {}", found.len());
            return Err(Error::device(message).with_hint(visible));
        }
        let gpu = found.swap_remove(ordinal)?;
        let arch = Arch::of(gpu.capability.0, gpu.capability.1)?;
        let nvrtc = Nvrtc::load(&options.search, Some(driver))?;
        nvrtc.supports(&arch)?;
        let uuid = uuid(&library, ordinal)?;
        Ok(FoundGpu { options, gpu, arch, nvrtc, library, uuid })
    }

    /// Its name and what kind of GPU it is to a compiler.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.gpu.name, self.arch)
    }

    /// What kind of GPU it is to a compiler.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// All that its results depend on: the GPU itself, the driver, the libraries, the kernels.
    pub fn checked_on(&self) -> String {
        let driver = self.library.version;
        let libraries = [Library::CublasLt, Library::Cudnn].into_iter().filter_map(|library| {
            let loaded = library.load(&self.options.search, Some(driver)).ok()?;
            Some(format!(", {} {}", library.name(), loaded.version))
        });
        let kernels = crc32c::crc32c(self.nvrtc.key(&all_kernels(), &self.arch).as_bytes());
        let (gpu, libraries) = (self.describe(), libraries.collect::<String>());
        format!("{gpu}, {}, CUDA {driver}{libraries}, kernels {kernels:08x}", self.uuid)
    }

    /// The file that keeps the result of a check, if there is one.
    pub fn check_file(&self) -> Option<PathBuf> {
        self.options.cache.companion(&self.checked_on(), "check.json")
    }

    /// Opens it.
    ///
    /// # Errors
    /// Fails if the GPU cannot be opened or its kernels' compiler is missing.
    pub fn open(self) -> Result<GpuDriver> {
        GpuDriver::open(self)
    }
}

fn uuid(driver: &Loaded, ordinal: usize) -> Result<String> {
    // SAFETY: the type is that of cuda.h since CUDA 11.4.
    let get: GetUuid = unsafe { driver.function("cuDeviceGetUuid_v2")? };
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: a device that the driver has just named.
    let told = device::get(ordinal as i32).and_then(|device| unsafe { get(&raw mut uuid, device) }.result());
    told.map_err(|e| failure(&format!("GPU {ordinal} cannot be asked"), e))?;
    Ok(uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect())
}
