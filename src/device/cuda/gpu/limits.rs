//! What a GPU is used without.

use super::GpuDriver;

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
}
