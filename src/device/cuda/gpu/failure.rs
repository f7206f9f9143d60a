//! The driver's errors as this program's.

use std::ffi::CStr;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::Error;

/// The error met in `what`, a phrase such as "kernel copy of generator.head".
pub(super) fn failure(what: &str, error: DriverError) -> Error {
    let text = |s: Result<&CStr, DriverError>| s.map_or("unknown".into(), |s| s.to_string_lossy().into_owned());
    let message = format!("{what}: {} ({})", text(error.error_string()), text(error.error_name()));
    if ends_the_context(error.0) {
        return Error::DeviceLost { message };
    }
    if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Error::DeviceMemory { message };
    }
    let hint = match error.0 {
        CUresult::CUDA_ERROR_INVALID_IMAGE
        | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the driver is older than the compiler: update it, or install the NVRTC of the driver's CUDA version"
        }
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the library that was loaded is CUDA's stub, for linking only: take its folder `stubs` out of LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the driver was updated: restart the machine",
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "another process has the GPU for itself: see nvidia-smi",
        _ => return Error::device(message),
    };
    Error::device(message).with_hint(hint)
}

/// Whether every later call fails too: the context, and all memory on the GPU, is gone.
fn ends_the_context(error: CUresult) -> bool {
    matches!(
        error,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_DEINITIALIZED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}
