//! A stand-in for a GPU's driver: kernels run on the host, and, as on a GPU, nothing of what is queued happens before
//! somebody waits for it. It can fail as a GPU does, and says what it was asked for.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use srgan::device::Compiling;
use srgan::device::cuda::driver::{self, DevicePtr, Driver, FunctionId, GraphId, Launch, ModuleSource, ReadId};
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::runtime::{Cuda, Device};
use srgan::{Error, Result};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The GPU is lost in this launch, counted from 0.
    pub lost_at: Option<usize>,
    /// This launch asks for more threads than its kernel is made for.
    pub wrong_at: Option<usize>,
    /// Bytes of memory that are free at first, instead of the system's.
    pub free: Option<usize>,
}

/// What the driver was asked for.
#[derive(Debug, Default)]
pub struct Seen {
    /// Kernels that ran.
    pub launches: usize,
    /// Graphs that were started.
    pub replays: usize,
    /// Waits for a read: how many graphs had been started behind it.
    pub behind: Vec<usize>,
    /// Waits of every other kind.
    pub other_waits: usize,
    /// Allocations.
    pub allocations: usize,
    /// Bytes that were taken at once, at most.
    pub peak: usize,
    /// Path of the launch that was made wrong.
    pub wrong_path: String,
}

/// A CUDA device on such a driver, and what the driver sees.
pub fn late_device(faults: Faults) -> (Box<dyn Device>, Rc<RefCell<Seen>>) {
    let seen = Rc::new(RefCell::new(Seen::default()));
    // The folder that tests of the ops fill too.
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    let host = HostDriver::new(&cache, HostOptions::default()).unwrap();
    let driver = LateDriver {
        host,
        faults,
        seen: Rc::clone(&seen),
        queue: VecDeque::new(),
        graphs: Vec::new(),
        reads: HashMap::new(),
        next_read: 0,
        allocated: HashMap::new(),
        lost: false,
    };
    (Box::new(Cuda::new(Box::new(driver))), seen)
}

#[derive(Debug)]
enum Work {
    Upload(DevicePtr, Vec<u8>),
    Launch(Launch),
    Read(ReadId, DevicePtr, usize),
}

#[derive(Debug)]
struct LateDriver {
    host: HostDriver,
    faults: Faults,
    seen: Rc<RefCell<Seen>>,
    queue: VecDeque<Work>,
    graphs: Vec<Vec<Launch>>,
    /// What reads have brought, and how many graphs had been started by then.
    reads: HashMap<ReadId, (usize, Option<Vec<u8>>)>,
    next_read: usize,
    allocated: HashMap<DevicePtr, usize>,
    lost: bool,
}

impl LateDriver {
    fn check(&self) -> Result<()> {
        let message = "waiting for the GPU: an uncorrectable error (CUDA_ERROR_ECC_UNCORRECTABLE)".to_owned();
        if self.lost { Err(Error::DeviceLost { message }) } else { Ok(()) }
    }

    fn push(&mut self, work: Work) -> Result<()> {
        self.check()?;
        self.queue.push_back(work);
        Ok(())
    }

    /// Does what is queued, up to a read.
    fn work_until(&mut self, last: Option<ReadId>) -> Result<()> {
        while let Some(work) = self.queue.pop_front() {
            let is_last = matches!(work, Work::Read(id, ..) if Some(id) == last);
            self.execute(work)?;
            if is_last {
                break;
            }
        }
        self.check()
    }

    fn execute(&mut self, work: Work) -> Result<()> {
        self.check()?;
        // SAFETY: those who queued it promised what the calls need.
        unsafe {
            match work {
                Work::Upload(to, bytes) => self.host.upload(to, &bytes),
                Work::Launch(launch) => self.execute_launch(launch),
                Work::Read(id, from, bytes) => {
                    let mut copy = vec![0; bytes];
                    self.host.download(&mut copy, from)?;
                    self.reads.get_mut(&id).expect("a read that was started").1 = Some(copy);
                    Ok(())
                }
            }
        }
    }

    /// # Safety
    /// As for [`Driver::launch`].
    unsafe fn execute_launch(&mut self, mut launch: Launch) -> Result<()> {
        let mut seen = self.seen.borrow_mut();
        let number = Some(seen.launches);
        seen.launches += 1;
        if number == self.faults.lost_at {
            self.lost = true;
            return Ok(());
        }
        if number == self.faults.wrong_at {
            seen.wrong_path = launch.path.to_string();
            launch.geometry.block[0] += 1;
        }
        // SAFETY: the caller's; the host refuses the wrong one.
        unsafe { self.host.launch(&launch) }
    }

    fn wait(&mut self) -> Result<()> {
        self.seen.borrow_mut().other_waits += 1;
        self.work_until(None)
    }
}

impl Driver for LateDriver {
    fn describe(&self) -> String {
        "late host".to_owned()
    }

    fn specialises(&self) -> bool {
        false
    }

    fn compile(
        &mut self,
        modules: &[ModuleSource],
        progress: &mut dyn FnMut(Compiling),
    ) -> Result<Vec<Vec<FunctionId>>> {
        self.host.compile(modules, progress)
    }

    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr> {
        self.check()?;
        self.seen.borrow_mut().allocations += 1;
        let (free, _) = self.memory()?;
        if bytes > free {
            return Err(Error::device(format!("the GPU has no {bytes} bytes of memory left")));
        }
        let ptr = self.host.alloc(bytes)?;
        self.allocated.insert(ptr, bytes);
        let mut seen = self.seen.borrow_mut();
        seen.peak = seen.peak.max(self.allocated.values().sum());
        Ok(ptr)
    }

    unsafe fn free(&mut self, ptr: DevicePtr) {
        // The memory is gone in any case.
        let _ = self.wait();
        self.allocated.remove(&ptr);
        // SAFETY: the caller's.
        unsafe { self.host.free(ptr) };
    }

    unsafe fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.push(Work::Upload(to, bytes.to_vec()))
    }

    unsafe fn download(&mut self, bytes: &mut [u8], from: DevicePtr) -> Result<()> {
        self.wait()?;
        // SAFETY: the caller's.
        unsafe { self.host.download(bytes, from) }
    }

    unsafe fn start_read(&mut self, from: DevicePtr, bytes: usize) -> Result<ReadId> {
        self.next_read += 1;
        let id = ReadId(self.next_read);
        self.push(Work::Read(id, from, bytes))?;
        self.reads.insert(id, (self.seen.borrow().replays, None));
        Ok(id)
    }

    fn finish_read(&mut self, read: ReadId, bytes: &mut [u8]) -> Result<()> {
        if self.reads[&read].1.is_none() {
            self.work_until(Some(read))?;
        }
        let (replays, copy) = self.reads.remove(&read).expect("a read that was started");
        let mut seen = self.seen.borrow_mut();
        let behind = seen.replays - replays;
        seen.behind.push(behind);
        bytes.copy_from_slice(&copy.expect("a read that was done"));
        Ok(())
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.push(Work::Launch(launch.clone()))
    }

    unsafe fn record(&mut self, work: &[driver::Work]) -> Result<GraphId> {
        self.check()?;
        let launches = work.iter().map(|entry| match entry {
            driver::Work::Kernel(launch) => launch.clone(),
            driver::Work::Library(call) => panic!("{call:?}: this driver has no libraries"),
        });
        self.graphs.push(launches.collect());
        Ok(GraphId(self.graphs.len() - 1))
    }

    unsafe fn replay(&mut self, graph: GraphId) -> Result<()> {
        self.check()?;
        self.seen.borrow_mut().replays += 1;
        self.queue.extend(self.graphs[graph.0].iter().cloned().map(Work::Launch));
        Ok(())
    }

    fn forget(&mut self, graph: GraphId) {
        self.graphs[graph.0].clear();
    }

    fn synchronize(&mut self) -> Result<()> {
        self.wait()
    }

    fn memory(&self) -> Result<(usize, usize)> {
        let (free, total) = self.host.memory()?;
        let left = |at_first: usize| at_first.saturating_sub(self.allocated.values().sum());
        Ok((self.faults.free.map_or(free, left), total))
    }

    fn allocated(&self) -> usize {
        self.allocated.values().sum()
    }
}
