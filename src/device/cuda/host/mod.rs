//! The host driver: runs the project's CUDA kernels on the CPU, one fiber per CUDA thread, for tests.
//!
//! Not a training device. It finds what a GPU would hide: reads of memory that nothing has written (all of it is
//! NaN at first), missing barriers (three orders of threads), barriers that not all threads reach, accesses out of
//! bounds (with [`HostOptions::sanitize`]). The C++ side lies in `kernels/host`.

mod compile;
mod library;
#[cfg(test)]
mod tests;

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use libloading::Library;

use compile::Toolchain;
pub use compile::sanitizer_library;

use super::driver::{DevicePtr, Driver, FunctionId, GraphId, Launch, ModuleSource, ReadId, Work};
use crate::device::Compiling;
use crate::device::cuda::launch::library::{LibraryLaunch, LibraryOp};
use crate::{Error, Result};

/// What `alloc` promises, and what vector accesses of kernels rely on.
const ALIGN: usize = 256;
/// A NaN in every float format.
const POISON: u8 = 0xff;

/// In which order a block's threads run between two barriers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadOrder {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first.
    Reverse,
    /// Another order at every barrier; the same seed gives the same orders.
    Random(u64),
}

/// How kernels run on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// The order of threads. A missing barrier shows in at least one of the three.
    pub order: ThreadOrder,
    /// OS threads that the blocks of a grid are spread over.
    pub os_threads: usize,
    /// Builds with AddressSanitizer. The process must have been started with [`sanitizer_library`] in `LD_PRELOAD`.
    pub sanitize: bool,
    /// Switches fibers by the C library's contexts, as on processors other than x86-64.
    pub portable_fibers: bool,
    /// What stands in for libraries.
    pub libraries: Libraries,
    /// Whether kernels for Hopper alone are used wherever there is one, in place of the own ones.
    pub warpgroups: bool,
    /// Writes sizes into the source as constants, as on a GPU: every size costs a build.
    pub specialise: bool,
}

/// What stands in for NVIDIA's libraries: plain loops. There is no timing; what a candidate takes is laid down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Libraries {
    /// There are none.
    #[default]
    None,
    /// They take longer than kernels.
    Slower,
    /// They take less time than kernels.
    Faster,
    /// They take less time than kernels, and those that compute something else take the least.
    Faulty,
    /// One loses the device.
    Fatal,
    /// One gives other bits at each call.
    Unsteady,
}

impl Default for HostOptions {
    fn default() -> Self {
        HostOptions {
            order: ThreadOrder::Forward,
            os_threads: cpus(),
            sanitize: false,
            portable_fibers: false,
            libraries: Libraries::None,
            warpgroups: false,
            specialise: false,
        }
    }
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// `cuda_host::Request` of `kernels/host/runtime.h`.
#[repr(C)]
struct Request {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    order: u32,
    seed: u64,
    os_threads: u32,
    args: *const c_void,
    args_bytes: usize,
    message: *mut c_char,
    message_bytes: usize,
}

/// What `ENTRY` declares.
type Entry = unsafe extern "C" fn(*const Request) -> bool;

/// Kernels on the host. Launches are done when the call returns.
pub struct HostDriver {
    options: HostOptions,
    toolchain: Toolchain,
    functions: Vec<Entry>,
    /// `None` where a graph was forgotten.
    graphs: Vec<Option<Vec<Work>>>,
    choices_file: PathBuf,
    allocations: HashMap<u64, Layout>,
    /// What copies that are not collected have brought.
    reads: HashMap<usize, Vec<u8>>,
    next_read: usize,
    // Holds the code of `functions`.
    libraries: Vec<Library>,
}

impl HostDriver {
    /// A driver that keeps what it builds in the folder `cache`.
    ///
    /// # Errors
    /// Fails if there is no C++ compiler, the folder cannot be written, or a sanitized process was not started as one.
    pub fn new(cache: &Path, options: HostOptions) -> Result<HostDriver> {
        if options.sanitize {
            check_sanitizer()?;
        }
        let toolchain = Toolchain::new(cache, &options)?;
        Ok(HostDriver {
            options,
            toolchain,
            functions: Vec::new(),
            graphs: Vec::new(),
            choices_file: cache.join("algorithms.json"),
            allocations: HashMap::new(),
            reads: HashMap::new(),
            next_read: 0,
            libraries: Vec::new(),
        })
    }

    fn load(&mut self, module: &ModuleSource, path: &Path) -> Result<Vec<FunctionId>> {
        // SAFETY: a library that the project's own text was compiled to; its initialisers only construct locks.
        let library =
            unsafe { Library::new(path) }.map_err(|e| Error::device(format!("cannot load {}: {e}", path.display())))?;
        let mut ids = Vec::with_capacity(module.kernels.len());
        for kernel in &module.kernels {
            // SAFETY: ENTRY declares these symbols with this type. The library outlives the pointer.
            let entry = unsafe { library.get::<Entry>(format!("cuda_host_{kernel}")) };
            let entry = entry.map_err(|_| Error::device(format!("module {}: no ENTRY for {kernel}", module.name)))?;
            ids.push(FunctionId(self.functions.len()));
            self.functions.push(*entry);
        }
        self.libraries.push(library);
        Ok(ids)
    }

    fn function(&self, launch: &Launch) -> Result<Entry> {
        let found = self.functions.get(launch.function.0).copied();
        found.ok_or_else(|| Error::device(format!("{}: a kernel of another driver", launch.path)))
    }
}

/// Sanitized code in a process without the sanitizer would end it at once.
fn check_sanitizer() -> Result<()> {
    // SAFETY: looks a symbol up by a constant name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__asan_init".as_ptr()) };
    if !found.is_null() {
        return Ok(());
    }
    let library = sanitizer_library()?;
    Err(Error::device("kernels with AddressSanitizer need its library from the start of the process")
        .with_hint(format!("start it with LD_PRELOAD={}", library.display())))
}

impl fmt::Debug for HostDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (functions, graphs) = (self.functions.len(), self.graphs.iter().flatten().count());
        write!(f, "HostDriver({:?}, {functions} kernels, {graphs} graphs)", self.options)
    }
}

impl Driver for HostDriver {
    fn describe(&self) -> String {
        "host".to_owned()
    }

    fn specialises(&self) -> bool {
        self.options.specialise
    }

    fn compile(
        &mut self,
        modules: &[ModuleSource],
        progress: &mut dyn FnMut(Compiling),
    ) -> Result<Vec<Vec<FunctionId>>> {
        let paths = self.toolchain.modules(modules, progress);
        modules.iter().zip(paths).map(|(module, path)| self.load(module, &path?)).collect()
    }

    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr> {
        // Exactly so many bytes: a sanitizer sees the first access behind them.
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| Error::Memory { bytes })?;
        // SAFETY: the layout is not empty.
        let ptr = unsafe { alloc(layout) };
        if ptr.is_null() {
            return Err(Error::Memory { bytes });
        }
        // SAFETY: the block just allocated.
        unsafe { ptr.write_bytes(POISON, bytes) };
        self.allocations.insert(ptr as u64, layout);
        Ok(DevicePtr(ptr as u64))
    }

    unsafe fn free(&mut self, ptr: DevicePtr) {
        if let Some(layout) = self.allocations.remove(&ptr.0) {
            // SAFETY: allocated with this layout; the caller promises that nothing uses it any more.
            unsafe { dealloc(ptr.0 as *mut u8, layout) };
        }
    }

    unsafe fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn download(&mut self, bytes: &mut [u8], from: DevicePtr) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn start_read(&mut self, from: DevicePtr, bytes: usize) -> Result<ReadId> {
        let mut copy = vec![0; bytes];
        // SAFETY: the caller's promise.
        unsafe { self.download(&mut copy, from)? };
        self.next_read += 1;
        self.reads.insert(self.next_read, copy);
        Ok(ReadId(self.next_read))
    }

    fn finish_read(&mut self, read: ReadId, bytes: &mut [u8]) -> Result<()> {
        match self.reads.remove(&read.0) {
            Some(copy) if copy.len() == bytes.len() => bytes.copy_from_slice(&copy),
            _ => return Err(Error::Internal(format!("there is no read {} of {} bytes", read.0, bytes.len()))),
        }
        Ok(())
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        let entry = self.function(launch)?;
        let (order, seed) = match self.options.order {
            ThreadOrder::Forward => (0, 0),
            ThreadOrder::Reverse => (1, 0),
            ThreadOrder::Random(seed) => (2, seed),
        };
        let mut message = [0; 2048];
        let request = Request {
            grid: launch.geometry.grid,
            block: launch.geometry.block,
            shared_bytes: launch.geometry.shared_bytes,
            order,
            seed,
            os_threads: u32::try_from(self.options.os_threads).unwrap_or(u32::MAX),
            args: launch.args.bytes.as_ptr().cast(),
            args_bytes: launch.args.bytes.len(),
            message: message.as_mut_ptr(),
            message_bytes: message.len(),
        };
        // SAFETY: the entry checks geometry and the arguments' size; the caller promises the memory behind them.
        if unsafe { entry(&raw const request) } {
            return Ok(());
        }
        // SAFETY: a failed launch leaves a text that ends with 0.
        let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
        Err(Error::device(format!("{}: {message}", launch.path)))
    }

    fn timed_on(&self) -> String {
        format!("host, libraries {:?}, warpgroups {}", self.options.libraries, self.options.warpgroups)
    }

    fn choices_file(&self) -> Option<PathBuf> {
        Some(self.choices_file.clone())
    }

    fn has_warpgroups(&self) -> bool {
        self.options.warpgroups
    }

    fn has_libraries(&self) -> bool {
        self.options.libraries != Libraries::None
    }

    fn algorithms(&mut self, _op: &LibraryOp) -> Vec<String> {
        library::algorithms(self.options.libraries).iter().map(|name| (*name).to_owned()).collect()
    }

    fn prepare(&mut self, op: &LibraryOp, algorithm: &str) -> Result<()> {
        if library::algorithms(self.options.libraries).contains(&algorithm) {
            return Ok(());
        }
        Err(Error::device(format!("the host has no algorithm {algorithm} for {op}")))
    }

    unsafe fn call(&mut self, launch: &LibraryLaunch) -> Result<()> {
        self.prepare(&launch.call.op, &launch.algorithm)?;
        // SAFETY: the caller's promise.
        unsafe { library::run(launch) }
    }

    unsafe fn time(&mut self, work: &[Work]) -> Result<Duration> {
        // SAFETY: the caller's promise.
        work.iter().try_for_each(|entry| unsafe { self.start(entry) })?;
        Ok(library::pretended_time(work, self.options.libraries))
    }

    unsafe fn record(&mut self, work: &[Work]) -> Result<GraphId> {
        for entry in work {
            match entry {
                Work::Kernel(launch) => _ = self.function(launch)?,
                Work::Library(launch) => self.prepare(&launch.call.op, &launch.algorithm)?,
            }
        }
        self.graphs.push(Some(work.to_vec()));
        Ok(GraphId(self.graphs.len() - 1))
    }

    unsafe fn replay(&mut self, graph: GraphId) -> Result<()> {
        let work = self.graphs.get_mut(graph.0).and_then(Option::take);
        let work = work.ok_or_else(|| Error::Internal(format!("there is no graph {}", graph.0)))?;
        // SAFETY: the caller's promise holds for every entry of the graph.
        let result = work.iter().try_for_each(|entry| unsafe { self.start(entry) });
        self.graphs[graph.0] = Some(work);
        result
    }

    fn forget(&mut self, graph: GraphId) {
        if let Some(graph) = self.graphs.get_mut(graph.0) {
            *graph = None;
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<(usize, usize)> {
        // SAFETY: asks for numbers of the system.
        let pages = |name| usize::try_from(unsafe { libc::sysconf(name) }).unwrap_or(0);
        let page = pages(libc::_SC_PAGESIZE);
        Ok((pages(libc::_SC_AVPHYS_PAGES) * page, pages(libc::_SC_PHYS_PAGES) * page))
    }

    fn allocated(&self) -> usize {
        self.allocations.values().map(Layout::size).sum()
    }
}

impl Drop for HostDriver {
    fn drop(&mut self) {
        for (&ptr, &layout) in &self.allocations {
            // SAFETY: allocated with this layout. Launches are done when they return.
            unsafe { dealloc(ptr as *mut u8, layout) };
        }
    }
}
