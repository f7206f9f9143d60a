//! Builds of the host: the system's C++ compiler, and a folder of what it has built.
//!
//! The folder's name has the hash of everything that all builds share: compiler, flags, headers. In it lie the
//! headers, the runtime as one library, and a library for each module, named by the hash of its text. Files appear
//! under their names when they are complete, so that several processes may fill one folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;

use super::{HostOptions, cpus};
use crate::device::Compiling;
use crate::device::cuda::driver::ModuleSource;
use crate::device::cuda::sources::{host, include};
use crate::{Error, Result};

/// What modules and the runtime are built from, by name.
const HEADERS: [(&str, &str); 9] = [
    host::CUDA_HOST_H,
    host::INTRINSICS_H,
    host::RUNTIME_H,
    host::BLOCK_H,
    host::FIBER_H,
    include::MMA_CUH,
    include::ASYNC_CUH,
    include::BULK_CUH,
    include::WGMMA_CUH,
];
const RUNTIME: [(&str, &str); 5] =
    [host::RUNTIME_CPP, host::BLOCK_CPP, host::COLLECTIVES_CPP, host::HOPPER_CPP, host::FIBER_CPP];
const PRELUDE: &str = "#include \"cuda_host.h\"\n#include \"mma.cuh\"\n#include \"async.cuh\"\n#include \"bulk.cuh\"\n\
                       #include \"wgmma.cuh\"\n";

/// Kernels read floats as vectors and vectors as floats (strict aliasing), and no product is fused with a sum where
/// the kernel does not say so. -O2 costs a quarter more than -O1 to build (0.2 s for the convolutions) and runs them in
/// less than two thirds of the time. Warnings are silenced: the text has `#pragma once`, which is for headers.
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-w",
    "-Wl,-z,defs",
];
/// Beside AddressSanitizer's checks, vectors must be aligned, as on the GPU.
const SANITIZE_FLAGS: [&str; 3] = ["-g", "-fsanitize=address,alignment", "-fno-sanitize-recover=alignment"];

/// A C++ compiler that answers.
#[derive(Debug, Hash)]
struct Compiler {
    program: OsString,
    version: String,
}

impl Compiler {
    /// `$CXX`, or the first of the usual names that can be run. It is looked for once.
    fn find() -> Result<&'static Compiler> {
        static FOUND: OnceLock<Compiler> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let candidates = match std::env::var_os("CXX") {
            Some(program) => vec![program],
            None => ["g++", "clang++", "c++"].map(OsString::from).to_vec(),
        };
        let found = Compiler::first_of(&candidates)?;
        Ok(FOUND.get_or_init(|| found))
    }

    fn first_of(candidates: &[OsString]) -> Result<Compiler> {
        for program in candidates {
            if let Ok(output) = Command::new(program).arg("--version").output()
                && output.status.success()
            {
                let version = String::from_utf8_lossy(&output.stdout).into_owned();
                return Ok(Compiler { program: program.clone(), version });
            }
        }
        let names: Vec<_> = candidates.iter().map(|c| c.to_string_lossy()).collect();
        Err(Error::device(format!("no C++ compiler for kernels on the host: cannot run {}", names.join(", ")))
            .with_hint("install g++ or clang++, or name one that can be run in the environment variable CXX"))
    }

    fn is_clang(&self) -> bool {
        self.version.contains("clang")
    }

    /// AddressSanitizer's library, which a process that runs sanitized kernels preloads.
    fn sanitizer_library(&self) -> Result<PathBuf> {
        let name = match self.is_clang() {
            true => format!("libclang_rt.asan-{}.so", std::env::consts::ARCH),
            false => "libasan.so".to_owned(),
        };
        let output = Command::new(&self.program).arg(format!("-print-file-name={name}")).output();
        let output = output.map_err(|e| Error::io("run", &self.program, e))?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        // The compiler gives the bare name back where it has no such file.
        if path.is_absolute() {
            return Ok(path);
        }
        Err(Error::device(format!("{} has no {name}", self.program.to_string_lossy()))
            .with_hint("install the compiler's AddressSanitizer library"))
    }
}

/// Path of AddressSanitizer's library: a process that is to run sanitized kernels is started with it in
/// `LD_PRELOAD`.
///
/// # Errors
/// If there is no compiler, or it has no such library.
pub fn sanitizer_library() -> Result<PathBuf> {
    Compiler::find()?.sanitizer_library()
}

/// A compiler with its flags, and the folder that holds what it has built.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: &'static Compiler,
    flags: Vec<&'static str>,
    folder: PathBuf,
    runtime: PathBuf,
}

impl Toolchain {
    /// Prepares a folder in `cache` and builds the runtime, if that has not been done.
    pub fn new(cache: &Path, options: &HostOptions) -> Result<Toolchain> {
        let compiler = Compiler::find()?;
        let mut flags = FLAGS.to_vec();
        // The same results as the C library's fmaf, without a call. Flags are part of the folder's name.
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("fma") {
            flags.push("-mfma");
        }
        if options.sanitize {
            flags.extend(SANITIZE_FLAGS);
            if compiler.is_clang() {
                flags.push("-shared-libasan");
            }
        }
        if options.portable_fibers {
            flags.push("-DCUDA_HOST_PORTABLE");
        }
        let hash = hash(&(compiler, &flags, HEADERS, RUNTIME, PRELUDE));
        let folder = cache.join(format!("host-{hash}"));
        // The loader tells libraries apart by their names alone.
        let runtime = folder.join(format!("libcuda_host-{hash}.so"));
        let toolchain = Toolchain { compiler, flags, folder, runtime };
        toolchain.prepare()?;
        Ok(toolchain)
    }

    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|e| Error::io("create", &self.folder, e))?;
        // The runtime takes seconds: drivers that are made at the same time wait for the first one's.
        let path = self.folder.join("lock");
        let lock = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        lock.lock().map_err(|e| Error::io("lock", &path, e))?;
        if self.runtime.exists() {
            return Ok(());
        }
        for (name, text) in HEADERS.iter().chain(&RUNTIME) {
            self.write(&self.folder.join(name), text)?;
        }
        let mut command = self.command();
        command.args(RUNTIME.map(|(name, _)| self.folder.join(name)));
        if let Some(name) = self.runtime.file_name() {
            command.arg("-pthread").arg(format!("-Wl,-soname,{}", name.to_string_lossy()));
        }
        self.build(command, &self.runtime, "the host runtime")
    }

    /// Where the library of a module lies.
    fn library(&self, module: &ModuleSource) -> PathBuf {
        self.folder.join(format!("{}-{}.so", module.name, hash(&module.text)))
    }

    /// The library of a module, if it has been built.
    fn built(&self, module: &ModuleSource) -> Option<PathBuf> {
        Some(self.library(module)).filter(|library| library.exists())
    }

    /// Builds the library of a module.
    ///
    /// # Errors
    /// The compiler's log.
    fn module(&self, module: &ModuleSource) -> Result<PathBuf> {
        let library = self.library(module);
        let source = library.with_extension("cpp");
        self.write(&source, &format!("{PRELUDE}#line 1 \"{}\"\n{}", module.name, module.text))?;
        let mut command = self.command();
        command.arg("-fvisibility=hidden").arg("-I").arg(&self.folder).arg(&source).arg(&self.runtime);
        command.arg("-Wl,-rpath,$ORIGIN");
        self.build(command, &library, &module.name)?;
        Ok(library)
    }

    /// Builds modules on all CPUs; the results are in the order of `modules`.
    pub fn modules(&self, modules: &[ModuleSource], progress: &mut dyn FnMut(Compiling)) -> Vec<Result<PathBuf>> {
        let mut built: Vec<_> = modules.iter().map(|module| self.built(module).map(Ok)).collect();
        let missing: Vec<usize> = (0..modules.len()).filter(|i| built[*i].is_none()).collect();
        let cached = modules.len() - missing.len();
        let mut compiling = Compiling { total: modules.len(), cached, done: cached };
        progress(compiling);
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..cpus().min(missing.len()) {
                let (sender, next, missing) = (sender.clone(), &next, &missing);
                scope.spawn(move || {
                    while let Some(i) = missing.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                        // The receiver lives until all senders are gone.
                        let _ = sender.send((i, self.module(&modules[i])));
                    }
                });
            }
            drop(sender);
            for (i, path) in receiver {
                built[i] = Some(path);
                compiling.done += 1;
                progress(compiling);
            }
        });
        built.into_iter().flatten().collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.compiler.program);
        // A sanitizer that is preloaded into this process would slow the compiler down.
        command.args(&self.flags).env_remove("LD_PRELOAD");
        command
    }

    fn build(&self, mut command: Command, library: &Path, what: &str) -> Result<()> {
        let scratch =
            tempfile::tempdir_in(&self.folder).map_err(|e| Error::io("create a folder in", &self.folder, e))?;
        let unfinished = scratch.path().join("library.so");
        command.arg("-o").arg(&unfinished);
        let output = command.output().map_err(|e| Error::io("run", &self.compiler.program, e))?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr);
            return Err(Error::device(format!("{what} does not compile:\n{}", log.trim_end())));
        }
        fs::rename(&unfinished, library).map_err(|e| Error::io("write", library, e))
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let scratch =
            tempfile::tempdir_in(&self.folder).map_err(|e| Error::io("create a folder in", &self.folder, e))?;
        let unfinished = scratch.path().join("text");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, path))
            .map_err(|e| Error::io("write", path, e))
    }
}

/// 16 hexadecimal digits that stand for a value.
fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::Compiler;

    #[test]
    fn a_missing_compiler_is_an_error_with_a_hint() {
        let error = Compiler::first_of(&["no-such-compiler".into()]).unwrap_err().to_string();
        assert!(error.contains("cannot run no-such-compiler"), "{error}");
        assert!(error.contains("hint: install g++"), "{error}");
    }
}
