//! What this machine offers: processor, GPUs, libraries, cache of compiled kernels; and what to install.

mod ranks;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use crate::Error;
use crate::data::unused_stores;
use crate::device::cpu::Isa;
use crate::device::cuda::GpuOptions;
use crate::device::cuda::compile::cache::Cache;
use crate::device::cuda::compile::nvrtc::{Arch, Nvrtc};
use crate::device::cuda::gpu::gpus;
use crate::device::cuda::libraries::search::{Env, SearchPath};
use crate::device::cuda::libraries::{Library, Version};
use crate::table::Table;
use crate::train::launch::Launched;
use crate::train::self_check;
use crate::train::self_check::{Trust, Verdict, check_gpu};

pub use ranks::take_part;

/// How long the driver may take to say which GPUs there are: seconds for many of them.
const ANSWER: Duration = Duration::from_secs(60);

/// A report: what was found, then what can be done about the rest.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
    needed: Vec<String>,
    optional: Vec<String>,
    removable: Vec<String>,
    /// How many the driver shows.
    gpus: usize,
}

/// Where patch stores are, and after how many days without use one is named.
#[derive(Clone, Copy, Debug)]
pub struct StoreFolder<'a> {
    /// `Data.store_dir`.
    pub dir: &'a Path,
    /// `Data.store_days`.
    pub days: u64,
}

/// Looks at the machine, at the ranks that `launched` is one of, and at the patch stores of a config. `program` is a binary of this project, which checks GPUs;
/// without one they are not checked. `notice` is told what takes long.
pub fn examine(
    env: Env,
    launched: Option<Launched>,
    program: Option<&Path>,
    stores: StoreFolder,
    notice: fn(&str),
) -> Report {
    let mut report = Report::default();
    report.processor();
    let search = SearchPath::new(env);
    if has_nvidia_hardware(Path::new("/")) || Library::Driver.load(&search, None).is_ok() {
        report.cuda(&search);
        report.self_checks(env, program, notice);
        report.cache(&Cache::of_user(env));
    } else {
        report.row("GPU", "none", "there is no NVIDIA GPU here; training runs on the CPU");
    }
    report.ranks(launched, env);
    report.unused(stores);
    report
}

/// Whether something from NVIDIA is in the machine whose files are below `root`, with a driver or without.
fn has_nvidia_hardware(root: &Path) -> bool {
    const VENDOR: &str = "0x10de";
    let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    let mut vendors = devices.filter_map(|device| std::fs::read_to_string(device.path().join("vendor")).ok());
    // The second is that of Windows' subsystem for Linux.
    let has_driver = ["proc/driver/nvidia", "dev/dxg"].into_iter().any(|path| root.join(path).exists());
    has_driver || vendors.any(|vendor| vendor.trim() == VENDOR)
}

impl Report {
    fn row(&mut self, what: &str, state: impl Into<String>, more: impl Into<String>) {
        self.rows.push([what.to_owned(), state.into(), more.into()]);
    }

    fn processor(&mut self) {
        let threads = available_parallelism().map_or(1, usize::from);
        self.row("CPU", format!("{threads} threads"), Isa::detect().kind().name());
    }

    /// The driver, its GPUs, and the libraries.
    fn cuda(&mut self, search: &SearchPath) {
        let driver = self.driver(search);
        // Nothing uses NCCL yet.
        for library in Library::ALL.into_iter().skip(1).filter(|library| *library != Library::Nccl) {
            self.library(library, search, driver);
        }
        self.headers(search, driver);
    }

    /// The driver and its GPUs; the driver's CUDA version.
    fn driver(&mut self, search: &SearchPath) -> Option<Version> {
        let Ok(driver) = Library::Driver.load(search, None) else {
            self.row("GPU", "none", "there is no NVIDIA driver; training runs on the CPU");
            self.row(Library::Driver.name(), "not found", "");
            self.needed.push(Library::Driver.install_hint(None));
            return None;
        };
        match within(ANSWER, gpus).unwrap_or_else(|| Err(no_answer())) {
            Ok(found) if found.is_empty() => {
                self.row("GPU", "none", "the driver shows no GPU; training runs on the CPU")
            }
            Ok(found) => found.iter().enumerate().for_each(|(i, gpu)| {
                self.gpus += 1;
                let gpu = match gpu {
                    Ok(gpu) => gpu,
                    Err(e) => return self.row(&format!("GPU {i}"), "no answer", first_line(&e.to_string())),
                };
                let (major, minor) = gpu.capability;
                let more = match Arch::of(major, minor) {
                    Ok(arch) => arch.to_string(),
                    Err(e) => format!("cannot be used: {}", first_line(&e.to_string())),
                };
                let (gib, cores) = (gpu.memory_bytes as f64 / f64::from(1 << 30), gpu.multiprocessors);
                let more = format!("{gib:.1} GiB, {cores} multiprocessors, compute capability {major}.{minor}, {more}");
                self.row(&format!("GPU {i}"), gpu.name.clone(), more);
            }),
            Err(e) => self.row("GPU", "none", e.to_string()),
        }
        let kernel_module = kernel_module().map_or(String::new(), |v| format!("{v}, "));
        let more = format!("{kernel_module}{}", driver.path.display());
        self.row(Library::Driver.name(), format!("CUDA {}", driver.version), more);
        Some(driver.version)
    }

    fn library(&mut self, library: Library, search: &SearchPath, driver: Option<Version>) {
        match library.load(search, driver) {
            Ok(found) => self.row(library.name(), found.version.to_string(), found.path.display().to_string()),
            Err(_) => {
                self.row(library.name(), "not found", if library.is_required() { "" } else { "optional" });
                self.advise(library, driver);
            }
        }
    }

    /// Headers are looked for beside the compiler.
    fn headers(&mut self, search: &SearchPath, driver: Option<Version>) {
        let Ok(nvrtc) = Nvrtc::load(search, driver) else { return };
        match nvrtc.headers() {
            Some(folder) => self.row("CUDA headers", "found", folder.display().to_string()),
            None => {
                self.row("CUDA headers", "not found", "optional");
                self.advise(Library::Cudart, driver);
            }
        }
    }

    /// Whether each GPU trains as the CPU does. One that had not passed is checked again.
    fn self_checks(&mut self, env: Env, program: Option<&Path>, notice: fn(&str)) {
        let Some(program) = program else { return };
        for ordinal in 0..self.gpus {
            let (what, options) = (format!("GPU {ordinal} check"), GpuOptions { ordinal, ..GpuOptions::new(env) });
            let program = program.to_owned();
            let mut notice = move |text: &str| notice(&format!("GPU {ordinal}: {text}"));
            let check = move || Ok(check_gpu(&options, &program, Trust::Passed, &mut notice)?.report);
            match within(self_check::LONGEST, check).unwrap_or_else(|| Err(no_answer())) {
                Ok(report) => self.self_check(&what, &report),
                Err(e) => self.row(&what, "not made", first_line(&e.to_string()).trim_end_matches(':')),
            }
        }
    }

    fn self_check(&mut self, what: &str, report: &self_check::Report) {
        let state = |verdict: &Verdict, good: &str, consequence: &str| match verdict {
            Verdict::Passed => ("passed", good.to_owned()),
            Verdict::Failed(text) => ("failed", format!("{text}; {consequence}")),
            Verdict::Unable(text) => ("not made", format!("{text}; {consequence}")),
        };
        let good = "trains as the CPU does, in f32, tf32 and bf16";
        let (result, more) = state(&report.ordinary, good, "`--device auto` is the CPU");
        self.row(what, result, more);
        if let Some(verdict) = &report.warpgroups {
            let (result, more) = state(verdict, "so do its own kernels (wgmma)", "these kernels are not used");
            self.row("  for Hopper", result, more);
        }
    }

    fn advise(&mut self, library: Library, driver: Option<Version>) {
        let list = if library.is_required() { &mut self.needed } else { &mut self.optional };
        let hint = library.install_hint(driver);
        if !list.contains(&hint) {
            list.push(hint);
        }
    }

    /// Stores that nobody seems to need, with the command that removes them.
    fn unused(&mut self, StoreFolder { dir, days }: StoreFolder) {
        for store in unused_stores(dir, days) {
            let mib = store.bytes >> 20;
            self.row("Patch store", format!("unused for {} days", store.days), format!("{mib} MiB"));
            let files: Vec<String> = store.files.iter().map(|file| format!("'{}'", file.display())).collect();
            self.removable.push(format!("rm {}", files.join(" ")));
        }
    }

    fn cache(&mut self, cache: &Cache) {
        let Some(folder) = cache.folder() else {
            return self.row("Kernel cache", "none", "set SRGAN_CACHE_DIR or HOME to a folder");
        };
        let contents = cache.contents();
        let size = contents.bytes as f64 / f64::from(1 << 20);
        let state = match cache.check_writable() {
            Ok(()) => "writable".to_owned(),
            Err(e) => format!("cannot be written ({e}): kernels are compiled anew by every run"),
        };
        self.row(
            "Kernel cache",
            format!("{} kernels", contents.entries),
            format!("{size:.1} MiB, {}, {state}", folder.display()),
        );
    }
}

/// What `work` gives within `limit`. A driver that is broken may never answer.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Where nobody waits any more, nobody is told.
    thread::spawn(move || _ = sender.send(work()));
    receiver.recv_timeout(limit).ok()
}

fn no_answer() -> Error {
    Error::device("the driver does not answer; restart the machine, or ask those who run it")
}

/// The version of the driver's kernel module, as `nvidia-smi` names it.
fn kernel_module() -> Option<String> {
    let text = std::fs::read_to_string(PathBuf::from("/proc/driver/nvidia/version")).ok()?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["srgan", env!("CARGO_PKG_VERSION"), ""]).left_aligned(3);
        self.rows.iter().for_each(|row| table.row(row.iter().map(|cell| cell.replace('\n', " "))));
        write!(f, "{table}")?;
        for (title, commands) in [
            ("Needed for training on a GPU", &self.needed),
            ("Optional", &self.optional),
            ("Patch stores that no run has used for long", &self.removable),
        ] {
            if !commands.is_empty() {
                write!(f, "\n\n{title}:\n  {}", commands.join("\n  "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of the parts of CUDA with nothing in the environment but this variable.
    fn report(variable: &str, value: &Path) -> String {
        let mut report = Report::default();
        let env = |name: &str| (name == variable).then(|| value.as_os_str().to_owned());
        report.cuda(&SearchPath::new(&env));
        report.cache(&Cache::of_user(&env));
        report.to_string()
    }

    #[test]
    fn what_is_missing_is_named_with_how_to_install_it() {
        let dir = tempfile::tempdir().unwrap();
        let report = report("HOME", dir.path());
        let line = |what: &str| report.lines().find(|line| line.starts_with(what)).unwrap_or_default().to_owned();
        for (name, package) in [("NVRTC", "nvidia-cuda-nvrtc"), ("cuDNN", "nvidia-cudnn")] {
            let missing = line(name).contains("not found");
            assert_eq!(report.contains(&format!("pip install '{package}")), missing, "{name}:\n{report}");
        }
        assert!(!report.contains("NCCL"), "nothing uses it: {report}");
        let cache = line("Kernel cache");
        assert!(cache.contains("0 kernels") && cache.contains(".cache/srgan/kernels, writable"), "{cache}");
    }

    #[test]
    fn damaged_libraries_and_a_cache_that_cannot_be_written_are_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&lib).unwrap();
        for name in ["libnvrtc.so.13", "libcudart.so.13", "libcublas.so.13", "libcudnn.so.9"] {
            std::fs::write(lib.join(name), "not a library").unwrap();
        }
        // Another NVRTC may be installed in the system; the damaged file is not taken for one.
        let with_libraries = report("VIRTUAL_ENV", dir.path());
        assert!(!with_libraries.contains("site-packages"), "{with_libraries}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let with_cache = report("SRGAN_CACHE_DIR", &file);
        assert!(with_cache.contains("cannot be written"), "{with_cache}");
    }

    #[test]
    fn hardware_is_seen_without_a_driver() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_nvidia_hardware(root.path()));
        let device = |name: &str, vendor: &str| {
            let folder = root.path().join("sys/bus/pci/devices").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("vendor"), vendor).unwrap();
        };
        device("0000:00:02.0", "0x8086\n");
        assert!(!has_nvidia_hardware(root.path()));
        device("0000:01:00.0", "0x10de\n");
        assert!(has_nvidia_hardware(root.path()));
    }
}
