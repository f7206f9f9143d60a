//! What a GPU is used without, and what a check of it holds for.

use std::path::PathBuf;

use super::GpuDriver;
use crate::device::cuda::driver::Driver;
use crate::device::cuda::module::all_kernels;
use crate::device::cuda::nvrtc::Arch;

impl GpuDriver {
    /// The same GPU without kernels for Hopper alone.
    #[must_use]
    pub fn without_warpgroups(mut self) -> GpuDriver {
        self.warpgroups = false;
        self
    }

    /// The same GPU, where algorithms are timed anew and not kept.
    #[must_use]
    pub fn without_kept_choices(mut self) -> GpuDriver {
        self.keeps_choices = false;
        self
    }

    /// What kind of GPU it is to a compiler.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// All that results of this GPU depend on: its kind, the driver, the libraries, the kernels.
    pub fn checked_on(&self) -> String {
        let kernels = crc32c::crc32c(self.nvrtc.key(&all_kernels(), &self.arch).as_bytes());
        format!("{}, CUDA {}{}, kernels {kernels:08x}", self.describe(), self.driver, self.math)
    }

    /// The file that keeps the result of a check, if there is one.
    pub fn check_file(&self) -> Option<PathBuf> {
        self.cache.companion(&self.checked_on(), "check.json")
    }
}
