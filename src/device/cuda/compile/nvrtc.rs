//! NVRTC: CUDA C++ to machine code for one kind of GPU. Needs neither a GPU nor a driver.
//!
//! The functions are taken from the very library that was found, so that its version is known.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::PathBuf;
use std::ptr::{null, null_mut};

use super::ptxas::{Usage, resource_usage};
use crate::device::cuda::driver::ModuleSource;
use crate::device::cuda::libraries::search::SearchPath;
use crate::device::cuda::libraries::{Library, Loaded, Version, preload};
use crate::device::cuda::sources::include;
use crate::{Error, Result};

/// What comes before every module.
const PRELUDE: [(&str, &str); 5] =
    [include::DEVICE_CUH, include::MMA_CUH, include::ASYNC_CUH, include::BULK_CUH, include::WGMMA_CUH];

/// A header of CUDA's that kernels include: bf16 arithmetic.
const HEADER: &str = "cuda_bf16.h";

/// A kind of GPU that machine code is made for: `sm_80`, `sm_90a`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch(String);

impl Arch {
    /// The kind of a GPU of compute capability `major.minor`. Hopper's has its own instructions (`wgmma`).
    ///
    /// # Errors
    /// GPUs before Ampere, which lack bf16 and asynchronous copies.
    pub fn of(major: u32, minor: u32) -> Result<Arch> {
        if major < 8 {
            return Err(Error::device(format!("compute capability {major}.{minor} is too old"))
                .with_hint("GPUs of compute capability 8.0 (Ampere, 2020) or later are supported"));
        }
        let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
        Ok(Arch(format!("sm_{major}{minor}{suffix}")))
    }

    /// As options spell it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has the instructions that are Hopper's alone: `wgmma`.
    pub fn has_warpgroups(&self) -> bool {
        self.0 == "sm_90a"
    }

    /// The number without what follows it: 90 of `sm_90a`.
    fn number(&self) -> Option<c_int> {
        self.0.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic).parse().ok()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a compilation gives.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What each kernel takes of a multiprocessor.
    pub usage: Vec<Usage>,
    /// Warnings and the assembler's report.
    pub log: String,
}

/// The compiler. Threads may compile at the same time.
#[derive(Debug)]
pub struct Nvrtc {
    library: Loaded,
    headers: Option<PathBuf>,
    /// Of the headers' text, for the cache: they may be of another version than the compiler.
    headers_checksum: u32,
    supported: Vec<c_int>,
    api: Api,
}

type Program = *mut c_void;
type Status = c_int;

/// Functions of nvrtc.h.
#[derive(Debug)]
struct Api {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Nvrtc {
    /// Loads the compiler; `driver` is the CUDA version of the driver that will run the code, if there is one.
    ///
    /// # Errors
    /// It is not there: where it was looked for, and the command that installs it.
    pub fn load(search: &SearchPath, driver: Option<Version>) -> Result<Nvrtc> {
        let library = Library::Nvrtc.load(search, driver)?;
        // The compiler opens its second half by name, at the first compilation.
        let Version { major, minor, .. } = library.version;
        preload(&library.path.with_file_name(format!("libnvrtc-builtins.so.{major}.{minor}")));
        let headers = search.headers(HEADER, &library.path);
        let text = headers.as_ref().and_then(|folder| std::fs::read(folder.join(HEADER)).ok());
        let headers_checksum = text.map_or(0, |text| crc32c::crc32c(&text));
        // SAFETY: types as in nvrtc.h, the same in versions 12 and 13.
        let (api, supported) = unsafe {
            let api = Api {
                create: library.function("nvrtcCreateProgram")?,
                compile: library.function("nvrtcCompileProgram")?,
                log_size: library.function("nvrtcGetProgramLogSize")?,
                log: library.function("nvrtcGetProgramLog")?,
                cubin_size: library.function("nvrtcGetCUBINSize")?,
                cubin: library.function("nvrtcGetCUBIN")?,
                destroy: library.function("nvrtcDestroyProgram")?,
                error: library.function("nvrtcGetErrorString")?,
            };
            let count: unsafe extern "C" fn(*mut c_int) -> Status = library.function("nvrtcGetNumSupportedArchs")?;
            let list: unsafe extern "C" fn(*mut c_int) -> Status = library.function("nvrtcGetSupportedArchs")?;
            let mut archs = 0;
            api.check(count(&mut archs))?;
            let mut supported = vec![0; archs.max(0) as usize];
            api.check(list(supported.as_mut_ptr()))?;
            (api, supported)
        };
        Ok(Nvrtc { library, headers, headers_checksum, supported, api })
    }

    /// The library.
    pub fn library(&self) -> &Loaded {
        &self.library
    }

    /// The folder of CUDA's headers, if it was found.
    pub fn headers(&self) -> Option<&PathBuf> {
        self.headers.as_ref()
    }

    /// Whether code for `arch` can be made.
    ///
    /// # Errors
    /// This version does not know that GPU, and which to install.
    pub fn supports(&self, arch: &Arch) -> Result<()> {
        if arch.number().is_some_and(|n| self.supported.contains(&n)) {
            return Ok(());
        }
        let message =
            format!("NVRTC {} ({}) makes no code for {arch}", self.library.version, self.library.path.display());
        Err(Error::device(message).with_hint("install a newer one: pip install --upgrade nvidia-cuda-nvrtc"))
    }

    /// All that decides what a module is compiled to: compiler, options, text.
    pub fn key(&self, module: &ModuleSource, arch: &Arch) -> String {
        let (version, headers) = (self.library.version, self.headers_checksum);
        format!("NVRTC {version}, headers {headers:08x}\n{}\n{}", options(arch).join(" "), text(module))
    }

    /// Compiles a module.
    ///
    /// # Errors
    /// The compiler's log, in lines of the files in `kernels/`.
    pub fn compile(&self, module: &ModuleSource, arch: &Arch) -> Result<Compiled> {
        self.supports(arch)?;
        let nul = |_| Error::Internal(format!("the text of module {} holds a zero byte", module.name));
        let text = CString::new(text(module)).map_err(nul)?;
        let name = CString::new(format!("kernels/{}.cu", module.name)).map_err(nul)?;
        let mut options = options(arch);
        options.extend(self.headers.iter().map(|folder| format!("--include-path={}", folder.display())));
        let options: Vec<CString> = options.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(nul)?;
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = OwnedProgram { api: &self.api, program: null_mut() };
        // SAFETY: the strings outlive the calls.
        let status = unsafe {
            let create = self.api.create;
            self.api.check(create(&mut program.program, text.as_ptr(), name.as_ptr(), 0, null(), null()))?;
            (self.api.compile)(program.program, options.len() as c_int, options.as_ptr())
        };
        let log = program.bytes(self.api.log_size, self.api.log)?;
        let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
        self.api.check(status).map_err(|e| {
            let needs_headers = self.headers.is_none() && log.contains(".h\"");
            let error = Error::device(format!("kernel {} does not compile for {arch}: {e}\n{log}", module.name));
            if needs_headers { error.with_hint(Library::Cudart.install_hint(None)) } else { error }
        })?;
        let cubin = program.bytes(self.api.cubin_size, self.api.cubin)?;
        Ok(Compiled { cubin, usage: resource_usage(&log), log })
    }
}

/// Options but for the folder of headers.
fn options(arch: &Arch) -> Vec<String> {
    vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".into(),
        "--device-as-default-execution-space".into(),
        // Profilers and sanitizers name lines by it; the code is the same.
        "--generate-line-info".into(),
        "--ptxas-options=-v".into(),
    ]
}

/// The prelude, then the module's text.
fn text(module: &ModuleSource) -> String {
    let prelude = PRELUDE.map(|(name, text)| format!("#line 1 \"kernels/include/{name}\"\n{text}\n"));
    format!("{}{}", prelude.concat(), module.text)
}

impl Api {
    fn check(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: any number is answered with a static string.
        let name = unsafe { CStr::from_ptr((self.error)(status)) };
        Err(Error::device(name.to_string_lossy()))
    }
}

/// A program that is destroyed at the end.
struct OwnedProgram<'a> {
    api: &'a Api,
    program: Program,
}

impl OwnedProgram<'_> {
    /// One of the program's results: its size, then its bytes.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program lives; `get` writes as many bytes as `size` says.
        unsafe {
            self.api.check(size(self.program, &mut len))?;
            let mut bytes = vec![0u8; len];
            self.api.check(get(self.program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created, and destroyed once. That it fails would help nobody here.
            unsafe { (self.api.destroy)(&mut self.program) };
        }
    }
}
