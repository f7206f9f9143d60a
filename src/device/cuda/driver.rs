//! What the CUDA device needs from below: memory, compilation, launches. Two implementations: the GPU (NVRTC and
//! the driver API) and the host, which runs the same kernels with one fiber per CUDA thread, for tests.

use std::fmt;

use crate::Result;
use crate::device::Compiling;

/// An address in the driver's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    pub fn offset_by(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }
}

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

/// A recorded sequence of launches of one driver.
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
    /// The argument struct's bytes.
    pub args: Vec<u8>,
    /// Path of the node that it belongs to, for messages.
    pub path: std::sync::Arc<str>,
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
    /// The compiler's log with the lines of the kernel's file, or what is missing and how to install it.
    fn compile(
        &mut self,
        modules: &[ModuleSource],
        progress: &mut dyn FnMut(Compiling),
    ) -> Result<Vec<Vec<FunctionId>>>;

    /// Memory of `bytes` bytes, aligned to 256; what it holds is undefined (the host fills it with NaN).
    ///
    /// # Errors
    /// If there is not that much: how much was asked for and how much is free.
    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr>;

    /// Gives back memory of [`Driver::alloc`].
    ///
    /// # Safety
    /// Nothing launched later, nor any recorded graph that is replayed later, uses it.
    unsafe fn free(&mut self, ptr: DevicePtr);

    /// Copies `bytes` to the device. The slice may be reused when the call returns.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// `to` has as many bytes.
    unsafe fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, after all work before it is done.
    ///
    /// # Errors
    /// Those of the driver, those of earlier work included.
    ///
    /// # Safety
    /// `from` has as many bytes.
    unsafe fn download(&mut self, bytes: &mut [u8], from: DevicePtr) -> Result<()>;

    /// Starts a copy from the device after all work before it, to be collected by [`Driver::finish_read`]. It waits
    /// for nothing.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// `from` has as many bytes.
    unsafe fn start_read(&mut self, from: DevicePtr, bytes: usize) -> Result<ReadId>;

    /// Waits for a copy and takes what it has brought, as many bytes as were asked for.
    ///
    /// # Errors
    /// Those of the driver, those of the work before the copy included.
    fn finish_read(&mut self, read: ReadId, bytes: &mut [u8]) -> Result<()>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// Those of the driver, with the kernel's name and the node's path.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what it reads and writes is allocated.
    unsafe fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// Records launches as one graph that can be replayed.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// As for [`Driver::launch`], until the graph's last replay.
    unsafe fn record(&mut self, launches: &[Launch]) -> Result<GraphId>;

    /// Starts the launches of a graph.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    unsafe fn replay(&mut self, graph: GraphId) -> Result<()>;

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Those of the driver, those of earlier work included.
    fn synchronize(&mut self) -> Result<()>;

    /// Free and total memory in bytes.
    ///
    /// # Errors
    /// Those of the driver.
    fn memory(&self) -> Result<(usize, usize)>;
}
