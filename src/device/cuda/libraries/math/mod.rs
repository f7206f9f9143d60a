//! NVIDIA's libraries of convolutions and matrix products, as far as they are there. A library that is missing, too old
//! or does not start has no algorithms.

mod api;
mod cublaslt;
mod cudnn;
mod descriptor;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::fmt;

use cublaslt::CublasLt;
use cudnn::Cudnn;

use super::Version;
use super::search::SearchPath;
use crate::device::cuda::driver::DevicePtr;
use crate::device::cuda::launch::library::{LibraryLaunch, LibraryOp};
use crate::{Error, Result};

/// Scratch memory of one call, at most. Calls follow each other in one stream and share it. NVIDIA recommends 32 MiB
/// for matrix products on Hopper; weight gradients that split their pixels take more.
pub(crate) const WORKSPACE_BYTES: usize = 64 << 20;

/// Algorithms of one operation that are offered, at most: each has to be made ready and timed.
const MOST_ALGORITHMS: usize = 8;

/// The libraries that were found, at work in one stream.
pub(crate) struct Math {
    cublaslt: Option<CublasLt>,
    cudnn: Option<Cudnn>,
    workspace: DevicePtr,
    stream: *mut c_void,
}

/// Where a call runs.
#[derive(Clone, Copy)]
struct Place {
    workspace: DevicePtr,
    stream: *mut c_void,
}

impl Math {
    /// Opens the libraries for a driver of CUDA version `driver`.
    ///
    /// # Safety
    /// A context is current, `stream` is a stream of it and outlives the value.
    pub unsafe fn open(search: &SearchPath, driver: Version, stream: *mut c_void) -> Math {
        let cublaslt = CublasLt::open(search, driver).ok();
        // SAFETY: the caller's.
        let cudnn = unsafe { Cudnn::open(search, driver, stream) }.ok();
        Math { cublaslt, cudnn, workspace: DevicePtr(0), stream }
    }

    /// None of them.
    pub fn none() -> Math {
        Math { cublaslt: None, cudnn: None, workspace: DevicePtr(0), stream: std::ptr::null_mut() }
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.cublaslt.is_none() && self.cudnn.is_none()
    }

    /// Gives the libraries [`WORKSPACE_BYTES`] of scratch memory.
    pub fn use_workspace(&mut self, workspace: DevicePtr) {
        self.workspace = workspace;
    }

    /// See [`crate::device::cuda::driver::Driver::algorithms`].
    pub fn algorithms(&mut self, op: &LibraryOp) -> Vec<String> {
        let found = match op {
            LibraryOp::Convolution(c) => self.cudnn.as_mut().map(|cudnn| cudnn.algorithms(c)),
            LibraryOp::Product(p) => self.cublaslt.as_mut().map(|cublaslt| cublaslt.algorithms(p)),
        };
        found.unwrap_or_default()
    }

    /// See [`crate::device::cuda::driver::Driver::prepare`].
    ///
    /// # Errors
    /// Fails if the library is missing or cannot compute `op` by this algorithm.
    pub fn prepare(&mut self, op: &LibraryOp, algorithm: &str) -> Result<()> {
        match op {
            LibraryOp::Convolution(c) => self.cudnn.as_mut().ok_or_else(|| missing("cuDNN"))?.prepare(c, algorithm),
            LibraryOp::Product(p) => self.cublaslt.as_mut().ok_or_else(|| missing("cuBLASLt"))?.prepare(p, algorithm),
        }
    }

    /// Puts a call that is ready into the stream.
    ///
    /// # Errors
    /// Fails if the library reports an error; names the node's path.
    ///
    /// # Safety
    /// As for [`crate::device::cuda::driver::Driver::call`].
    pub unsafe fn call(&mut self, launch: &LibraryLaunch) -> Result<()> {
        let place = Place { workspace: self.workspace, stream: self.stream };
        let operands = launch.call.operands.map(|ptr| ptr.0 as *mut c_void);
        let algorithm = &launch.algorithm;
        // SAFETY: the caller's; the workspace has the size that algorithms were asked for.
        let called = unsafe {
            match &launch.call.op {
                LibraryOp::Convolution(c) => {
                    self.cudnn.as_mut().ok_or_else(|| missing("cuDNN"))?.call(c, algorithm, operands, place)
                }
                LibraryOp::Product(p) => {
                    self.cublaslt.as_mut().ok_or_else(|| missing("cuBLASLt"))?.call(p, algorithm, operands, place)
                }
            }
        };
        called.map_err(|e| Error::device(format!("{algorithm} of {}: {e}", launch.path)))
    }
}

fn missing(library: &str) -> Error {
    Error::device(format!("{library} is not there"))
}

/// The libraries with their versions: `, cuBLASLt 13.0.2, cuDNN 9.13.0`.
impl fmt::Display for Math {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let libraries = [self.cublaslt.as_ref().map(CublasLt::library), self.cudnn.as_ref().map(Cudnn::library)];
        libraries.into_iter().flatten().try_for_each(|l| write!(f, ", {} {}", l.library.name(), l.version))
    }
}
