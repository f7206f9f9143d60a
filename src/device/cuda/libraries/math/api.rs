//! The functions that are called, taken from the very libraries that were found. Statuses are plain numbers: a newer
//! library may answer what an older header does not name.

use std::ffi::{c_int, c_void};

use crate::device::cuda::libraries::Loaded;
use crate::{Error, Result};

/// `cublasStatus_t`, `cudnnStatus_t`: 0 is success.
pub(super) type Status = c_int;
/// A handle or descriptor of a library.
pub(super) type Object = *mut c_void;

type Create = unsafe extern "C" fn(*mut Object) -> Status;
type Destroy = unsafe extern "C" fn(Object) -> Status;
/// Object, attribute, value, its bytes.
type SetAttribute = unsafe extern "C" fn(Object, u32, *const c_void, usize) -> Status;

/// Functions of cublasLt.h.
#[derive(Debug)]
pub(super) struct CublasLtApi {
    pub create: Create,
    pub destroy: Destroy,
    pub product_create: unsafe extern "C" fn(*mut Object, u32, u32) -> Status,
    pub product_destroy: Destroy,
    pub product_set: SetAttribute,
    pub layout_create: unsafe extern "C" fn(*mut Object, u32, u64, u64, i64) -> Status,
    pub layout_destroy: Destroy,
    pub preference_create: Create,
    pub preference_destroy: Destroy,
    pub preference_set: SetAttribute,
    #[allow(clippy::type_complexity)]
    pub heuristic: unsafe extern "C" fn(
        Object,
        Object,
        Object,
        Object,
        Object,
        Object,
        Object,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status,
    #[allow(clippy::type_complexity)]
    pub check:
        unsafe extern "C" fn(Object, Object, Object, Object, Object, Object, *const [u64; 8], *mut Heuristic) -> Status,
    #[allow(clippy::type_complexity)]
    pub product: unsafe extern "C" fn(
        Object,
        Object,
        *const c_void,
        *const c_void,
        Object,
        *const c_void,
        Object,
        *const c_void,
        *const c_void,
        Object,
        *mut c_void,
        Object,
        *const [u64; 8],
        *mut c_void,
        usize,
        *mut c_void,
    ) -> Status,
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heuristic {
    /// The algorithm: opaque, valid for the same version of the library, in other processes too.
    pub algorithm: [u64; 8],
    pub workspace_bytes: usize,
    pub state: Status,
    pub waves: f32,
    reserved: [c_int; 4],
}

impl CublasLtApi {
    /// # Errors
    /// Fails if the library lacks a function.
    pub fn of(library: &Loaded) -> Result<CublasLtApi> {
        // SAFETY: types as in cublasLt.h, the same in versions 12 and 13.
        unsafe {
            Ok(CublasLtApi {
                create: library.function("cublasLtCreate")?,
                destroy: library.function("cublasLtDestroy")?,
                product_create: library.function("cublasLtMatmulDescCreate")?,
                product_destroy: library.function("cublasLtMatmulDescDestroy")?,
                product_set: library.function("cublasLtMatmulDescSetAttribute")?,
                layout_create: library.function("cublasLtMatrixLayoutCreate")?,
                layout_destroy: library.function("cublasLtMatrixLayoutDestroy")?,
                preference_create: library.function("cublasLtMatmulPreferenceCreate")?,
                preference_destroy: library.function("cublasLtMatmulPreferenceDestroy")?,
                preference_set: library.function("cublasLtMatmulPreferenceSetAttribute")?,
                heuristic: library.function("cublasLtMatmulAlgoGetHeuristic")?,
                check: library.function("cublasLtMatmulAlgoCheck")?,
                product: library.function("cublasLtMatmul")?,
            })
        }
    }
}

/// Functions of cudnn_graph.h.
#[derive(Debug)]
pub(super) struct CudnnApi {
    pub create: Create,
    pub destroy: Destroy,
    pub set_stream: unsafe extern "C" fn(Object, *mut c_void) -> Status,
    pub descriptor_create: unsafe extern "C" fn(u32, *mut Object) -> Status,
    pub descriptor_destroy: Destroy,
    pub descriptor_finalize: Destroy,
    /// Descriptor, attribute, its type, number of elements, elements.
    pub descriptor_set: unsafe extern "C" fn(Object, u32, u32, i64, *const c_void) -> Status,
    /// Descriptor, attribute, its type, room for elements, their number, elements.
    pub descriptor_get: unsafe extern "C" fn(Object, u32, u32, i64, *mut i64, *mut c_void) -> Status,
    pub execute: unsafe extern "C" fn(Object, Object, Object) -> Status,
}

impl CudnnApi {
    /// # Errors
    /// Fails if the library lacks a function.
    pub fn of(library: &Loaded) -> Result<CudnnApi> {
        // SAFETY: types as in cudnn_graph.h of version 9.
        unsafe {
            Ok(CudnnApi {
                create: library.function("cudnnCreate")?,
                destroy: library.function("cudnnDestroy")?,
                set_stream: library.function("cudnnSetStream")?,
                descriptor_create: library.function("cudnnBackendCreateDescriptor")?,
                descriptor_destroy: library.function("cudnnBackendDestroyDescriptor")?,
                descriptor_finalize: library.function("cudnnBackendFinalize")?,
                descriptor_set: library.function("cudnnBackendSetAttribute")?,
                descriptor_get: library.function("cudnnBackendGetAttribute")?,
                execute: library.function("cudnnBackendExecute")?,
            })
        }
    }
}

/// Turns a status into an error.
pub(super) fn check(what: &str, status: Status) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::device(format!("{what}: status {status}"))) }
}
