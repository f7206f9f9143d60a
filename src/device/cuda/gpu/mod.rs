//! The driver of a real GPU: NVRTC, then one stream of the driver API, in whose order everything is done.

mod failure;
mod found;
mod gpus;
mod limits;
mod readback;
mod ring;
mod staging;
mod tensor_map;
mod timing;
mod work;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result::{free_sync, malloc_sync, memcpy_dtoh_async, memcpy_htod_async};
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaStream, DriverError};
use cudarc::nvrtc::Ptx;

use super::compile::machine_code;
use super::driver::{DevicePtr, Driver, FunctionId, GraphId, Launch, ModuleSource, ReadId, Work, time_one_by_one};
use super::libraries::Version;
use crate::device::Compiling;
use crate::device::cuda::compile::cache::Cache;
use crate::device::cuda::compile::module::all_kernels;
use crate::device::cuda::compile::nvrtc::{Arch, Nvrtc};
use crate::device::cuda::launch::library::{LibraryLaunch, LibraryOp};
use crate::device::cuda::libraries::math::{Math, WORKSPACE_BYTES};
use crate::device::cuda::libraries::search::{Env, SearchPath};
use crate::{Error, Result};
use failure::failure;
pub use found::FoundGpu;
pub use gpus::{Gpu, gpus};
use readback::Readback;
use staging::Staging;
use tensor_map::Encoder;
use timing::{REPEATS, Timer};
use work::title;

/// Which GPU, and what it is used with.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Its number among those that the driver shows.
    pub ordinal: usize,
    /// Wait after each kernel, so that an error names the kernel that caused it. Slow.
    pub sync_kernels: bool,
    /// Whether NVIDIA's libraries of convolutions and matrix products may be used.
    pub libraries: bool,
    /// Where libraries are looked for.
    pub search: SearchPath,
    /// Where compiled kernels are kept.
    pub cache: Cache,
}

impl GpuOptions {
    /// The first GPU, with what the environment names.
    pub fn new(env: Env) -> GpuOptions {
        let (search, cache) = (SearchPath::new(env), Cache::of_user(env));
        GpuOptions { ordinal: 0, sync_kernels: false, libraries: true, search, cache }
    }
}

/// A GPU.
pub struct GpuDriver {
    name: String,
    arch: Arch,
    nvrtc: Nvrtc,
    cache: Cache,
    sync_kernels: bool,
    /// Whether kernels may use what is Hopper's alone.
    warpgroups: bool,
    keeps_choices: bool,
    /// `None` where a graph was forgotten.
    graphs: Vec<Option<Recorded>>,
    functions: Vec<Function>,
    /// Bytes by address.
    allocations: HashMap<u64, usize>,
    /// None where the system gives no page-locked memory.
    staging: Option<Staging>,
    math: Math,
    /// Calls that were made before.
    warm: HashSet<(LibraryOp, Arc<str>)>,
    driver: Version,
    timer: Timer,
    encoder: Encoder,
    readback: Readback,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

struct Function {
    function: CudaFunction,
    name: String,
    /// Bytes of dynamic shared memory that a launch may ask for.
    shared_limit: u32,
}

struct Recorded {
    /// None for no launches.
    graph: Option<CudaGraph>,
    /// What the graph was made of, to be started one by one with `sync_kernels`.
    work: Vec<Work>,
}

impl GpuDriver {
    /// Opens a GPU.
    ///
    /// # Errors
    /// Fails if there is no driver, no compiler or no such GPU; says what is missing, and what to do.
    pub fn new(options: GpuOptions) -> Result<GpuDriver> {
        FoundGpu::new(options)?.open()
    }

    fn open(found: FoundGpu) -> Result<GpuDriver> {
        let FoundGpu { options, gpu, arch, nvrtc, library, .. } = found;
        let GpuOptions { ordinal, sync_kernels, libraries, search, cache } = options;
        let (driver, timer, encoder) = (library.version, Timer::new(&library)?, Encoder::new(&library)?);
        let (context, stream) = open(ordinal).map_err(|e| failure(&format!("GPU {ordinal} does not open"), e))?;
        let (staging, readback) = (Staging::new(&context).ok(), Readback::new(&context));
        let math = match libraries {
            // SAFETY: the context that was just opened is current, and its stream is held beside the libraries.
            true => unsafe { Math::open(&search, driver, stream.cu_stream().cast()) },
            false => Math::none(),
        };
        let name = gpu.name;
        let (warpgroups, graphs) = (arch.has_warpgroups(), Vec::new());
        let (functions, allocations) = (Vec::new(), HashMap::new());
        let mut this = GpuDriver {
            name,
            arch,
            nvrtc,
            cache,
            sync_kernels,
            warpgroups,
            keeps_choices: true,
            graphs,
            functions,
            allocations,
            staging,
            math,
            warm: HashSet::new(),
            driver,
            timer,
            encoder,
            readback,
            stream,
            context,
        };
        if !this.math.is_empty() {
            let workspace = this.alloc(WORKSPACE_BYTES)?;
            this.math.use_workspace(workspace);
        }
        Ok(this)
    }

    /// Loads a module's machine code and finds its kernels.
    fn load(&mut self, module: &ModuleSource, cubin: Vec<u8>) -> Result<Vec<FunctionId>> {
        let failed = |e| failure(&format!("module {} does not load", module.name), e);
        let code = self.context.load_module(Ptx::from_binary(cubin)).map_err(failed)?;
        let mut found = Vec::new();
        for name in &module.kernels {
            let failed = |e| failure(&format!("kernel {name} of module {}", module.name), e);
            let function = code.load_function(name).map_err(failed)?;
            let limit = function.get_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
            let shared_limit = limit.map_err(failed)? as u32;
            found.push(FunctionId(self.functions.len()));
            self.functions.push(Function { function, name: name.clone(), shared_limit });
        }
        Ok(found)
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| failure("the GPU's context", e))
    }
}

fn open(ordinal: usize) -> Result<(Arc<CudaContext>, Arc<CudaStream>), DriverError> {
    let context = CudaContext::new(ordinal)?;
    // SAFETY: there is one stream, and no `CudaSlice`, whose uses the events would order.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    Ok((context, stream))
}

fn unknown(kind: &str, id: usize) -> Error {
    Error::Internal(format!("there is no {kind} {id}"))
}

impl fmt::Debug for GpuDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (functions, graphs) = (self.functions.len(), self.graphs.iter().flatten().count());
        write!(f, "GpuDriver({}, {functions} kernels, {graphs} graphs)", self.describe())
    }
}

impl Driver for GpuDriver {
    fn describe(&self) -> String {
        format!("{}, {}", self.name, self.arch)
    }

    fn specialises(&self) -> bool {
        true
    }

    fn compile(
        &mut self,
        modules: &[ModuleSource],
        progress: &mut dyn FnMut(Compiling),
    ) -> Result<Vec<Vec<FunctionId>>> {
        let codes = machine_code(&self.nvrtc, &self.cache, &self.arch, modules, progress)?;
        modules.iter().zip(codes).map(|(module, cubin)| self.load(module, cubin)).collect()
    }

    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr> {
        self.bind()?;
        // SAFETY: freed by `free` or on drop. The driver aligns to 256 bytes at least, and refuses 0 bytes.
        let ptr = unsafe { malloc_sync(bytes.max(1)) }.map_err(|e| match (e.0, self.context.mem_get_info()) {
            (CUresult::CUDA_ERROR_OUT_OF_MEMORY, Ok((free, total))) => Error::DeviceMemory {
                message: format!(
                    "the GPU has no {} MiB of memory left: {} of {} MiB are free",
                    bytes.div_ceil(1 << 20),
                    free >> 20,
                    total >> 20
                ),
            },
            _ => failure("allocating memory", e),
        })?;
        self.allocations.insert(ptr, bytes);
        Ok(DevicePtr(ptr))
    }

    unsafe fn free(&mut self, ptr: DevicePtr) {
        if self.allocations.remove(&ptr.0).is_some() {
            let bound = self.context.bind_to_thread();
            // SAFETY: allocated, and freed once. The driver waits for work that uses it.
            self.context.record_err(bound.and_then(|()| unsafe { free_sync(ptr.0) }));
        }
    }

    unsafe fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's. The driver copies from pageable memory before it returns.
        unsafe {
            match &mut self.staging {
                Some(staging) => staging.upload(to.0, bytes, &self.stream),
                None if bytes.is_empty() => Ok(()),
                None => memcpy_htod_async(to.0, bytes, self.stream.cu_stream()),
            }
        }
        .map_err(|e| failure("copying to the GPU", e))
    }

    unsafe fn download(&mut self, bytes: &mut [u8], from: DevicePtr) -> Result<()> {
        self.bind()?;
        if !bytes.is_empty() {
            // SAFETY: the caller's; the slice is borrowed until the copy is done.
            let copied = unsafe { memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) };
            copied.map_err(|e| failure("copying from the GPU", e))?;
        }
        self.synchronize()
    }

    unsafe fn start_read(&mut self, from: DevicePtr, bytes: usize) -> Result<ReadId> {
        // SAFETY: the caller's.
        let started = unsafe { self.readback.start(from.0, bytes, &self.stream) };
        started.map(ReadId).map_err(|e| failure("copying from the GPU", e))
    }

    fn finish_read(&mut self, read: ReadId, bytes: &mut [u8]) -> Result<()> {
        let finished = self.readback.finish(read.0, bytes).map_err(|e| failure("waiting for the GPU", e))?;
        finished.ok_or_else(|| unknown("read", read.0))
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.bind()?;
        self.allow_shared(launch)?;
        // SAFETY: the caller's.
        unsafe { self.enqueue(launch)? };
        if self.sync_kernels {
            let name = &self.functions[launch.function.0].name;
            self.stream.synchronize().map_err(|e| failure(&title(name, launch), e))?;
        }
        Ok(())
    }

    fn timed_on(&self) -> String {
        let left_out = if self.warpgroups == self.arch.has_warpgroups() { "" } else { ", none for Hopper alone" };
        let kernels = crc32c::crc32c(self.nvrtc.key(&all_kernels(), &self.arch).as_bytes());
        format!("{}, CUDA {}{}, kernels {kernels:08x}{left_out}", self.describe(), self.driver, self.math)
    }

    fn choices_file(&self) -> Option<PathBuf> {
        self.cache.companion(&self.timed_on(), "json").filter(|_| self.keeps_choices)
    }

    fn has_warpgroups(&self) -> bool {
        self.warpgroups
    }

    fn has_libraries(&self) -> bool {
        !self.math.is_empty()
    }

    fn algorithms(&mut self, op: &LibraryOp) -> Vec<String> {
        match self.bind() {
            Ok(()) => self.math.algorithms(op),
            Err(_) => Vec::new(),
        }
    }

    fn prepare(&mut self, op: &LibraryOp, algorithm: &str) -> Result<()> {
        self.bind()?;
        self.math.prepare(op, algorithm)
    }

    unsafe fn call(&mut self, launch: &LibraryLaunch) -> Result<()> {
        self.prepare(&launch.call.op, &launch.algorithm)?;
        // SAFETY: the caller's.
        unsafe { self.math.call(launch)? };
        if self.sync_kernels {
            let what = format!("{} of {}", launch.algorithm, launch.path);
            self.stream.synchronize().map_err(|e| failure(&what, e))?;
        }
        Ok(())
    }

    unsafe fn time(&mut self, work: &[Work]) -> Result<Duration> {
        let repeated = [work; REPEATS].concat();
        // SAFETY: the caller's.
        let graph = unsafe { self.capture(&repeated)? };
        match graph {
            Some(graph) => {
                let best = self.timer.best(&self.context, &self.stream, &graph);
                best.map_err(|e| failure("timing a step", e))
            }
            None => Ok(Duration::ZERO),
        }
    }

    unsafe fn run_timed(&mut self, parts: &[&[Work]]) -> Result<Vec<Duration>> {
        // SAFETY: the caller's.
        unsafe { if self.sync_kernels { time_one_by_one(self, parts) } else { self.time_parts(parts) } }
    }

    unsafe fn record(&mut self, work: &[Work]) -> Result<GraphId> {
        // SAFETY: the caller's.
        let graph = unsafe { self.capture(work)? };
        let work = if self.sync_kernels { work.to_vec() } else { Vec::new() };
        self.graphs.push(Some(Recorded { graph, work }));
        Ok(GraphId(self.graphs.len() - 1))
    }

    unsafe fn replay(&mut self, graph: GraphId) -> Result<()> {
        let recorded = self.graphs.get_mut(graph.0).and_then(Option::take);
        let recorded = recorded.ok_or_else(|| unknown("graph", graph.0))?;
        let done = match &recorded.graph {
            // SAFETY: as recorded.
            _ if self.sync_kernels => recorded.work.iter().try_for_each(|entry| unsafe { self.start(entry) }),
            Some(graph) => graph.launch().map_err(|e| failure("launching a graph", e)),
            None => Ok(()),
        };
        self.graphs[graph.0] = Some(recorded);
        done
    }

    fn forget(&mut self, graph: GraphId) {
        // Errors of freeing it are met by the work that follows.
        if let Some(graph) = self.graphs.get_mut(graph.0) {
            *graph = None;
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        self.stream.synchronize().map_err(|e| failure("waiting for the GPU", e))
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| failure("asking for free memory", e))
    }

    fn allocated(&self) -> usize {
        self.allocations.values().sum()
    }

    fn cache_bytes(&self) -> usize {
        let bytes = self.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        bytes.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }
}

impl Drop for GpuDriver {
    fn drop(&mut self) {
        // Errors met here are those of work whose result nobody wants any more.
        let _ = self.stream.synchronize();
        for ptr in std::mem::take(&mut self.allocations).into_keys() {
            // SAFETY: allocated here, not freed yet, and nothing runs.
            let _ = unsafe { free_sync(ptr) };
        }
    }
}
