//! What the CUDA device needs from below: memory, compilation, launches. Two implementations: the GPU (NVRTC and
//! the driver API) and the host, which runs the same kernels with one fiber per CUDA thread, for tests.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::device::Compiling;
use crate::device::cuda::launch::args::ArgsContent;
use crate::device::cuda::launch::library::{LibraryLaunch, LibraryOp};
use crate::{Error, Result};

pub use crate::device::cuda::pointer::DevicePtr;

/// Blocks of a launch, threads of a block, and dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// The text of one module. The driver puts its prelude before it: `kernels/include/device.cuh` on the GPU,
/// `kernels/host/cuda_host.h` on the host.
///
/// Every kernel takes one struct by value and is declared by the line
/// `ENTRY(name, body, Args, threads)`, a macro of the prelude, where `body` is a function
/// `__device__ void body(const Args&)` and `threads` is the number of threads of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleSource {
    /// For messages and file names: the stem of the kernel's file.
    pub name: String,
    /// CUDA C++ with `#line` marks that name the files in `kernels/`.
    pub text: String,
    /// Names of its entries.
    pub kernels: Vec<String>,
}

/// A compiled kernel of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub usize);

/// A recorded sequence of work of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub usize);

/// A copy from the device of one driver, to be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadId(pub usize);

/// A kernel with all that a launch of it needs.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which kernel.
    pub function: FunctionId,
    /// Its extent.
    pub geometry: Geometry,
    /// What the argument struct holds.
    pub args: ArgsContent,
    /// Path of the node that it belongs to, for messages.
    pub path: std::sync::Arc<str>,
}

/// One entry of a plan's work.
#[derive(Clone, Debug)]
pub enum Work {
    /// A kernel of this program.
    Kernel(Launch),
    /// A library's.
    Library(LibraryLaunch),
}

impl From<Launch> for Work {
    fn from(launch: Launch) -> Work {
        Work::Kernel(launch)
    }
}

/// Memory, compilation and launches. Work is done in the order of the calls.
pub trait Driver: fmt::Debug {
    /// A short name for messages: `NVIDIA H200, sm_90a` or `host`.
    fn describe(&self) -> String;

    /// Whether sizes are written into the source as constants: worth it where compiled code is reused a million
    /// times, not where tests run every kernel at a hundred sizes.
    fn specialises(&self) -> bool;

    /// Compiles modules, in parallel and through a cache. The answer has the functions of each module in the
    /// order of its `kernels`. `progress` is called when it is known what the cache holds, then after each module
    /// that it does not.
    ///
    /// # Errors
    /// Fails if a module does not compile, with the compiler's log in lines of the kernel's file, or if the compiler is
    /// missing, with how to install it.
    fn compile(
        &mut self,
        modules: &[ModuleSource],
        progress: &mut dyn FnMut(Compiling),
    ) -> Result<Vec<Vec<FunctionId>>>;

    /// Memory of `bytes` bytes, aligned to 256; what it holds is undefined (the host fills it with NaN).
    ///
    /// # Errors
    /// Fails if there is not that much; says how much was asked for and how much is free.
    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr>;

    /// Gives back memory of [`Driver::alloc`].
    ///
    /// # Safety
    /// Nothing launched later, nor any recorded graph that is replayed later, uses it.
    unsafe fn free(&mut self, ptr: DevicePtr);

    /// Copies `bytes` to the device. The slice may be reused when the call returns.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    ///
    /// # Safety
    /// `to` has as many bytes.
    unsafe fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, after all work before it is done.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, also one of earlier work.
    ///
    /// # Safety
    /// `from` has as many bytes.
    unsafe fn download(&mut self, bytes: &mut [u8], from: DevicePtr) -> Result<()>;

    /// Starts a copy from the device after all work before it, to be collected by [`Driver::finish_read`]. It waits
    /// for nothing.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    ///
    /// # Safety
    /// `from` has as many bytes.
    unsafe fn start_read(&mut self, from: DevicePtr, bytes: usize) -> Result<ReadId>;

    /// Waits for a copy and takes what it has brought, as many bytes as were asked for.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, also one of the work before the copy.
    fn finish_read(&mut self, read: ReadId, bytes: &mut [u8]) -> Result<()>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// Fails if the GPU reports an error; names the kernel and the node's path.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what it reads and writes is allocated.
    unsafe fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// What the times of algorithms hold for: the device, and everything that times depend on.
    fn timed_on(&self) -> String {
        self.describe()
    }

    /// The file that keeps algorithms picked by timing from run to run, if there is one.
    fn choices_file(&self) -> Option<PathBuf> {
        None
    }

    /// Whether kernels may use Hopper's `wgmma` and bulk copies of tensors.
    fn has_warpgroups(&self) -> bool {
        false
    }

    /// Whether there is a library, so that there are algorithms to choose from.
    fn has_libraries(&self) -> bool {
        false
    }

    /// Algorithms of libraries that compute `op` and always give the same bits, the likely fastest first. They are
    /// names that mean the same in every run with the same libraries. A library that is missing has none.
    fn algorithms(&mut self, _op: &LibraryOp) -> Vec<String> {
        Vec::new()
    }

    /// Makes an algorithm ready to be called.
    ///
    /// # Errors
    /// Fails if it does not exist or does not compute `op`.
    fn prepare(&mut self, op: &LibraryOp, algorithm: &str) -> Result<()> {
        Err(Error::device(format!("there is no library for {op}, algorithm {algorithm}")))
    }

    /// Starts a library's call.
    ///
    /// # Errors
    /// Fails if the library cannot compute the call or the GPU reports an error; names the node's path.
    ///
    /// # Safety
    /// The operands are allocated, with the extents and layouts that the call says.
    unsafe fn call(&mut self, launch: &LibraryLaunch) -> Result<()> {
        self.prepare(&launch.call.op, &launch.algorithm)
    }

    /// Starts a kernel or a library's call.
    ///
    /// # Errors
    /// Fails if a library cannot compute its call or the GPU reports an error; names the node's path.
    ///
    /// # Safety
    /// As for [`Driver::launch`] and [`Driver::call`].
    unsafe fn start(&mut self, work: &Work) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            match work {
                Work::Kernel(launch) => self.launch(launch),
                Work::Library(launch) => self.call(launch),
            }
        }
    }

    /// How long the work takes: the best of a fixed number of runs after others that warm up.
    ///
    /// # Errors
    /// Fails if a library cannot compute its call or the GPU reports an error, also one of the work.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    unsafe fn time(&mut self, work: &[Work]) -> Result<Duration> {
        // SAFETY: the caller's.
        unsafe { time_one_by_one(self, &[work]) }.map(|times| times[0])
    }

    /// Runs parts of work one after the other and says how long each takes on the device; what it takes to launch them
    /// does not count.
    ///
    /// # Errors
    /// Fails if a library cannot compute its call or the GPU reports an error, also one of the work.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    unsafe fn run_timed(&mut self, parts: &[&[Work]]) -> Result<Vec<Duration>> {
        // SAFETY: the caller's.
        unsafe { time_one_by_one(self, parts) }
    }

    /// Records work as one graph that can be replayed. Calls of libraries may be made once for it, kernels are not run.
    ///
    /// # Errors
    /// Fails if a library cannot compute its call or the graph cannot be made.
    ///
    /// # Safety
    /// As for [`Driver::start`], until the graph's last replay.
    unsafe fn record(&mut self, work: &[Work]) -> Result<GraphId>;

    /// Starts the work of a graph.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    unsafe fn replay(&mut self, graph: GraphId) -> Result<()>;

    /// Frees a graph whose replays are done; it cannot be replayed any more.
    fn forget(&mut self, graph: GraphId);

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, also one of earlier work.
    fn synchronize(&mut self) -> Result<()>;

    /// Free and total memory in bytes.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    fn memory(&self) -> Result<(usize, usize)>;

    /// Bytes of memory that [`Driver::alloc`] has given and that were not given back.
    fn allocated(&self) -> usize;

    /// Bytes of the cache that lies before memory, 0 where there is none that is known.
    fn cache_bytes(&self) -> usize {
        0
    }
}

/// Starts parts of work and waits after each; what it takes to launch them counts.
///
/// # Errors
/// Fails if a library cannot compute its call or the GPU reports an error, also one of the work.
///
/// # Safety
/// As for [`Driver::start`].
pub(super) unsafe fn time_one_by_one<D: Driver + ?Sized>(driver: &mut D, parts: &[&[Work]]) -> Result<Vec<Duration>> {
    let time = |part: &&[Work]| {
        let start = Instant::now();
        // SAFETY: the caller's.
        part.iter().try_for_each(|entry| unsafe { driver.start(entry) })?;
        driver.synchronize()?;
        Ok(start.elapsed())
    };
    parts.iter().map(time).collect()
}
