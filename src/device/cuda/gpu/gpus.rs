//! The GPUs of this machine.

use cudarc::driver::DriverError;
use cudarc::driver::result::{self, device};
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::failure::failure;
use crate::Result;

/// A GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Multiprocessors.
    pub multiprocessors: u32,
}

/// All GPUs that the driver shows to this process, one that cannot be asked as the error. The driver's library must be
/// loaded.
///
/// # Errors
/// Fails if the driver does not start.
pub fn gpus() -> Result<Vec<Result<Gpu>>> {
    let count = result::init().and_then(|()| device::get_count());
    let count = match count {
        Err(e) if e.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
        other => other.map_err(|e| failure("the driver does not start", e))?,
    };
    Ok((0..count).map(|i| describe(i).map_err(|e| failure(&format!("GPU {i} cannot be asked"), e))).collect())
}

fn describe(ordinal: i32) -> Result<Gpu, DriverError> {
    let device = device::get(ordinal)?;
    // SAFETY: a device that the driver has just named.
    let number = |attribute| unsafe { device::get_attribute(device, attribute) }.map(|n| n as u32);
    Ok(Gpu {
        name: device::get_name(device)?,
        capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: as above.
        memory_bytes: unsafe { device::total_mem(device)? },
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}
