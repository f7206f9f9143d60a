//! NVIDIA's libraries, opened at run time. Each is opened by its absolute path and with global symbols, so that
//! those that need it later find it already loaded, wherever it lies.

pub mod math;
pub mod search;

use std::error::Error as _;
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};

use crate::{Error, Result};
use search::SearchPath;

/// A library that this program can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Library {
    /// The driver API, part of the GPU's driver.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// The runtime API, which the libraries below need.
    Cudart,
    /// Matrix products, the lower layer.
    CublasLt,
    /// Matrix products.
    Cublas,
    /// Convolutions.
    Cudnn,
    /// Communication between GPUs.
    Nccl,
}

/// A version, most significant part first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// Additions.
    pub minor: u32,
    /// Corrections, where the library tells.
    pub patch: Option<u32>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

/// A library that is loaded, until the process ends: unloading one of CUDA's is not safe.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Which.
    pub library: Library,
    /// The file.
    pub path: PathBuf,
    /// What the library says of itself.
    pub version: Version,
    handle: &'static Handle,
}

impl Library {
    /// Every library, each after those that it needs.
    pub const ALL: [Library; 7] = [
        Library::Driver,
        Library::Nvrtc,
        Library::Cudart,
        Library::CublasLt,
        Library::Cublas,
        Library::Cudnn,
        Library::Nccl,
    ];

    /// As NVIDIA calls it.
    pub fn name(self) -> &'static str {
        match self {
            Library::Driver => "CUDA driver",
            Library::Nvrtc => "NVRTC",
            Library::Cudart => "CUDA runtime",
            Library::CublasLt => "cuBLASLt",
            Library::Cublas => "cuBLAS",
            Library::Cudnn => "cuDNN",
            Library::Nccl => "NCCL",
        }
    }

    /// Whether nothing runs on a GPU without it.
    pub fn is_required(self) -> bool {
        matches!(self, Library::Driver | Library::Nvrtc)
    }

    /// What to do where it is missing. `driver` is the CUDA version of the driver, if there is one.
    pub fn install_hint(self, driver: Option<Version>) -> String {
        let old = driver.is_some_and(|v| v.major <= 12);
        let package = match (self, old) {
            (Library::Driver, _) => {
                return "install NVIDIA's driver: https://www.nvidia.com/drivers (in a container, start it with the \
                        host's GPUs: docker run --gpus all)"
                    .to_owned();
            }
            (Library::Nvrtc, false) => "'nvidia-cuda-nvrtc==13.*'",
            (Library::Nvrtc, true) => "'nvidia-cuda-nvrtc-cu12==12.*'",
            (Library::Cudart, false) => "'nvidia-cuda-runtime==13.*'",
            (Library::Cudart, true) => "'nvidia-cuda-runtime-cu12==12.*'",
            (Library::Cublas | Library::CublasLt, false) => "'nvidia-cublas==13.*'",
            (Library::Cublas | Library::CublasLt, true) => "'nvidia-cublas-cu12==12.*'",
            (Library::Cudnn, false) => "'nvidia-cudnn-cu13==9.*'",
            (Library::Cudnn, true) => "'nvidia-cudnn-cu12==9.*'",
            (Library::Nccl, false) => "'nvidia-nccl-cu13==2.*'",
            (Library::Nccl, true) => "'nvidia-nccl-cu12==2.*'",
        };
        format!("pip install {package}")
    }

    /// File names, the preferred one first.
    fn files(self) -> &'static [&'static str] {
        match self {
            Library::Driver => &["libcuda.so.1"],
            Library::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Library::Cudart => &["libcudart.so.13", "libcudart.so.12"],
            Library::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Library::Cublas => &["libcublas.so.13", "libcublas.so.12"],
            Library::Cudnn => &["libcudnn.so.9"],
            Library::Nccl => &["libnccl.so.2"],
        }
    }

    /// The files that a driver of this version can work with.
    fn files_for(self, driver: Option<Version>) -> Vec<&'static str> {
        let is_too_new = |name: &str| name.ends_with(".so.13") && driver.is_some_and(|v| v.major < 13);
        self.files().iter().copied().filter(|name| !is_too_new(name)).collect()
    }

    /// Loads the library: from a root of the search path, else from where the system's loader looks. Of libraries
    /// that come with a version of CUDA, none newer than the `driver`'s major version is taken.
    ///
    /// # Errors
    /// Fails if none of these files can be loaded; says what was tried, and which command installs the library.
    pub fn load(self, search: &SearchPath, driver: Option<Version>) -> Result<Loaded> {
        let names = self.files_for(driver);
        // The driver belongs to the system; toolkits hold stubs of it.
        let mut candidates = if self == Library::Driver { Vec::new() } else { search.libraries(&names) };
        candidates.extend(names.iter().map(PathBuf::from));
        if self == Library::Driver {
            candidates.extend(DRIVER_FOLDERS.iter().map(|folder| Path::new(folder).join(names[0])));
        }
        let mut failures = Vec::new();
        for path in candidates {
            match self.open(&path) {
                Ok(loaded) => return Ok(loaded),
                Err(why) => failures.push(format!("  {why}")),
            }
        }
        let message = format!("{} is not there:\n{}", self.name(), failures.join("\n"));
        Err(Error::device(message).with_hint(self.install_hint(driver)))
    }

    fn open(self, path: &Path) -> Result<Loaded, String> {
        // SAFETY: running the initialisers of NVIDIA's libraries is what a program that links them does.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| reason(&e))?;
        let handle: &'static Handle = Box::leak(Box::new(handle));
        let unusable = || format!("{}: does not tell its version", path.display());
        let (version, symbol) = self.version(handle).ok_or_else(unusable)?;
        let path = file_of(symbol).unwrap_or_else(|| path.to_owned());
        Ok(Loaded { library: self, path, version, handle })
    }

    /// Asks for the version; also gives the address of the function that answered.
    fn version(self, handle: &Handle) -> Option<(Version, *const c_void)> {
        type Out = unsafe extern "C" fn(*mut c_int) -> c_int;
        type Out2 = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        type Property = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
        type Number = unsafe extern "C" fn() -> usize;
        // SAFETY: types as in cuda.h, nvrtc.h, cuda_runtime_api.h, cublas_api.h, cublasLt.h, cudnn_version.h and
        // nccl.h; all of them can be called before anything else, and without a GPU.
        unsafe {
            let one = |name: &str| {
                let function = *handle.get::<Out>(name).ok()?;
                let mut number = 0;
                (function(&mut number) == 0).then_some((number as u32, function as *const c_void))
            };
            let cuda = |number: u32| Version { major: number / 1000, minor: number % 1000 / 10, patch: None };
            let dotted = |n: u32| Version { major: n / 10000, minor: n / 100 % 100, patch: Some(n % 100) };
            let property = |name: &str| {
                let function = *handle.get::<Property>(name).ok()?;
                let part = |which| {
                    let mut value = 0;
                    (function(which, &mut value) == 0).then_some(value as u32)
                };
                let version = Version { major: part(0)?, minor: part(1)?, patch: Some(part(2)?) };
                Some((version, function as *const c_void))
            };
            match self {
                Library::Driver => one("cuDriverGetVersion").map(|(n, at)| (cuda(n), at)),
                Library::Cudart => one("cudaRuntimeGetVersion").map(|(n, at)| (cuda(n), at)),
                Library::Nccl => one("ncclGetVersion").map(|(n, at)| (dotted(n), at)),
                Library::Cublas => property("cublasGetProperty"),
                Library::CublasLt => property("cublasLtGetProperty"),
                Library::Cudnn => {
                    let function = *handle.get::<Number>("cudnnGetVersion").ok()?;
                    Some((dotted(function() as u32), function as *const c_void))
                }
                Library::Nvrtc => {
                    let function = *handle.get::<Out2>("nvrtcVersion").ok()?;
                    let (mut major, mut minor) = (0, 0);
                    let ok = function(&mut major, &mut minor) == 0;
                    let version = Version { major: major as u32, minor: minor as u32, patch: None };
                    ok.then_some((version, function as *const c_void))
                }
            }
        }
    }
}

/// Where drivers lie that the system's loader does not know: WSL, container runtimes, NixOS.
const DRIVER_FOLDERS: [&str; 4] =
    ["/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/usr/lib64/nvidia", "/run/opengl-driver/lib"];

impl Loaded {
    /// The function `name`, as a function pointer of type `F`.
    ///
    /// # Errors
    /// Fails if the library has no such function.
    ///
    /// # Safety
    /// `F` is the function's type.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: the caller's; the library is never unloaded.
        unsafe { self.handle.get::<F>(name) }.map(|f| *f).map_err(|e| {
            Error::device(format!("{} ({}) lacks {name}: {}", self.library.name(), self.path.display(), reason(&e)))
                .with_hint(self.library.install_hint(None))
        })
    }
}

/// What the system's loader says: the file, and what is wrong with it.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Loads a file that a library opens by its bare name later.
pub(super) fn preload(path: &Path) {
    // SAFETY: as for `Library::open`.
    if let Ok(handle) = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        std::mem::forget(handle);
    }
}

/// The shared library that holds an address.
fn file_of(symbol: *const c_void) -> Option<PathBuf> {
    // SAFETY: plain data, filled by dladdr; the name lives as long as the library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let known = libc::dladdr(symbol, &mut info) != 0 && !info.dli_fname.is_null();
        known.then(|| CStr::from_ptr(info.dli_fname).to_str().ok().map(PathBuf::from)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA_12: Version = Version { major: 12, minor: 4, patch: None };
    const CUDA_13: Version = Version { major: 13, minor: 0, patch: None };

    #[test]
    fn an_older_driver_gets_older_libraries() {
        assert_eq!(Library::Nvrtc.files_for(Some(CUDA_12)), ["libnvrtc.so.12"]);
        for driver in [Some(CUDA_13), None] {
            assert_eq!(Library::Nvrtc.files_for(driver), ["libnvrtc.so.13", "libnvrtc.so.12"]);
            assert_eq!(Library::Cudnn.files_for(driver), ["libcudnn.so.9"]);
        }
        assert!(Library::Cublas.install_hint(Some(CUDA_12)).contains("-cu12"));
        assert!(!Library::Cublas.install_hint(Some(CUDA_13)).contains("-cu12"));
    }

    #[test]
    fn every_library_has_files_for_every_driver_and_a_hint() {
        for library in Library::ALL {
            assert!(!library.files_for(Some(CUDA_12)).is_empty());
            assert!(library.install_hint(None).contains("install"));
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("libnvrtc.so.13");
        std::fs::write(&file, "text").unwrap();
        let error = Library::Nvrtc.open(&file).unwrap_err();
        assert!(error.contains("libnvrtc.so.13"), "{error}");
    }

    #[test]
    fn versions_compare_and_print() {
        assert!(CUDA_12 < CUDA_13);
        assert_eq!(CUDA_12.to_string(), "12.4");
        assert_eq!(Version { patch: Some(3), ..CUDA_13 }.to_string(), "13.0.3");
    }
}
