//! MPI by its standard binary interface (MPI 5.0), opened at run time: one binary for MPICH, Intel MPI and Open MPI. Names
//! and values are those of the standard's `mpi_abi.h`.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libloading::Library;

use super::Collective;
use crate::{Error, Result};

/// Name of the library under the standard binary interface.
const LIBRARY: &str = "libmpi_abi.so.1";

type Handle = *mut c_void;

const COMM_WORLD: usize = 0x101;
const SUM: usize = 0x21;
const MAX: usize = 0x23;
const FLOAT: usize = 0x210;
const DOUBLE: usize = 0x214;
const UINT64: usize = 0x259;
const ERRORS_RETURN: usize = 0x143;
const IN_PLACE: usize = 1;
const THREAD_FUNNELED: c_int = 1024;
const MAX_ERROR: usize = 512;
const MAX_VERSION: usize = 8192;
/// Elements of one call: counts are 32-bit.
const PIECE: usize = 1 << 30;
/// What a launcher needs to pass on what a rank has written: what it holds when a rank aborts, it drops.
const FORWARD: Duration = Duration::from_secs(1);

type AllReduce = unsafe extern "C" fn(*const c_void, *mut c_void, c_int, Handle, Handle, Handle) -> c_int;

/// MPI, initialised by this process. Calls come from one thread at a time.
pub struct Mpi {
    all_reduce: AllReduce,
    error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(Handle, c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    index: usize,
    count: usize,
    version: String,
    watch: Watch,
    /// Keeps the functions in memory.
    _library: Library,
}

impl Mpi {
    /// Opens the library and joins the ranks that a launcher has started, as `who` among them. A call that the other ranks
    /// do not answer within `timeout` ends this process, and with it the launcher's others, with exit code 1.
    ///
    /// # Errors
    /// If there is no such library, or it cannot start: what is missing and where it was looked for.
    pub fn start(timeout: Duration, who: String, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Mpi> {
        let library = open(env)?;
        let watch = Watch::start(timeout, who);
        // SAFETY: the types are those of the standard's binary interface.
        unsafe {
            let init: unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int =
                symbol(&library, "MPI_Init_thread")?;
            let number: [unsafe extern "C" fn(Handle, *mut c_int) -> c_int; 2] =
                [symbol(&library, "MPI_Comm_rank")?, symbol(&library, "MPI_Comm_size")?];
            let set_handler: unsafe extern "C" fn(Handle, Handle) -> c_int =
                symbol(&library, "MPI_Comm_set_errhandler")?;
            let get_version: unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int =
                symbol(&library, "MPI_Get_library_version")?;
            let mut provided = 0;
            let waiting = watch.over("the start of all ranks");
            let code = init(std::ptr::null_mut(), std::ptr::null_mut(), THREAD_FUNNELED, &raw mut provided);
            drop(waiting);
            if code != 0 {
                return Err(Error::device(format!("MPI does not start (MPI_Init_thread: error {code})")));
            }
            set_handler(handle(COMM_WORLD), handle(ERRORS_RETURN));
            let [mut index, mut count] = [0, 0];
            number[0](handle(COMM_WORLD), &raw mut index);
            number[1](handle(COMM_WORLD), &raw mut count);
            let version = text(MAX_VERSION, |at, len| get_version(at, len));
            let (index, count) = (index.max(0) as usize, count.max(1) as usize);
            Ok(Mpi {
                all_reduce: symbol(&library, "MPI_Allreduce")?,
                error_string: symbol(&library, "MPI_Error_string")?,
                abort: symbol(&library, "MPI_Abort")?,
                finalize: symbol(&library, "MPI_Finalize")?,
                index,
                count,
                version: version.lines().next().unwrap_or("MPI").trim().to_owned(),
                watch,
                _library: library,
            })
        }
    }

    /// An all-reduce in place.
    fn reduce<T>(&self, values: &mut [T], (kind, op): (usize, usize), what: &'static str) -> Result<()> {
        let _waiting = self.watch.over(what);
        for piece in values.chunks_mut(PIECE) {
            // SAFETY: the piece is as long as is said, of the type that is said, and this call's alone.
            let code = unsafe {
                let (to, len) = (piece.as_mut_ptr().cast(), piece.len() as c_int);
                (self.all_reduce)(handle(IN_PLACE), to, len, handle(kind), handle(op), handle(COMM_WORLD))
            };
            if code != 0 {
                // SAFETY: the library writes at most as many bytes as the standard names.
                let why = unsafe { text(MAX_ERROR, |at, len| (self.error_string)(code, at, len)) };
                return Err(Error::device(format!("rank {}: {what} failed in MPI: {why}", self.index))
                    .with_hint("a rank or its node is gone; continue from the last checkpoint with --resume auto"));
            }
        }
        Ok(())
    }
}

impl Collective for Mpi {
    fn index(&self) -> usize {
        self.index
    }

    fn count(&self) -> usize {
        self.count
    }

    fn describe(&self) -> String {
        self.version.clone()
    }

    fn sum(&self, values: &mut [f32]) -> Result<()> {
        self.reduce(values, (FLOAT, SUM), "a sum over ranks")
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.reduce(values, (DOUBLE, SUM), "a sum over ranks")
    }

    fn max(&self, values: &mut [u64]) -> Result<()> {
        self.reduce(values, (UINT64, MAX), "an agreement of ranks")
    }

    fn abort(&self, code: u8) {
        std::thread::sleep(FORWARD);
        // SAFETY: MPI is initialised until this value is dropped.
        unsafe { (self.abort)(handle(COMM_WORLD), code.into()) };
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // SAFETY: initialised once, and finished once, here.
        unsafe { (self.finalize)() };
    }
}

/// Ends the process when a call takes too long: a blocking call cannot be taken back.
struct Watch {
    shared: Arc<(Mutex<Watched>, Condvar)>,
}

#[derive(Default)]
struct Watched {
    /// What is waited for, and since when.
    waiting: Option<(Instant, &'static str)>,
    ended: bool,
}

/// The end of a call that is watched.
struct Waiting<'a>(&'a Watch);

impl Watch {
    fn start(timeout: Duration, who: String) -> Watch {
        let shared = Arc::new((Mutex::new(Watched::default()), Condvar::new()));
        let watched = Arc::clone(&shared);
        // Without the thread a lost rank is noticed by the launcher alone.
        let _ = std::thread::Builder::new().name("ranks".into()).spawn(move || watch(&watched, timeout, &who));
        Watch { shared }
    }

    fn over(&self, what: &'static str) -> Waiting<'_> {
        self.set(Some((Instant::now(), what)));
        Waiting(self)
    }

    fn set(&self, waiting: Option<(Instant, &'static str)>) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).waiting = waiting;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (watched, changed) = &*self.shared;
        watched.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        changed.notify_all();
    }
}

fn watch((watched, changed): &(Mutex<Watched>, Condvar), timeout: Duration, who: &str) {
    let mut state = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let pause = (timeout / 10).min(Duration::from_secs(5));
    while !state.ended {
        if let Some((since, what)) = state.waiting.filter(|(since, _)| since.elapsed() > timeout) {
            let seconds = since.elapsed().as_secs();
            eprintln!(
                "error: {who} has waited {seconds} s for {what}: another rank has ended or hangs\n  hint: continue from \
                 the last checkpoint with --resume auto; Training.dist_timeout sets how long ranks wait"
            );
            // SAFETY: ends the process without running anything else; the main thread sits in a call for ever.
            unsafe { libc::_exit(1) };
        }
        state = changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn handle(value: usize) -> Handle {
    std::ptr::without_provenance_mut(value)
}

/// Text that a function writes into a buffer of `room` bytes.
///
/// # Safety
/// `write` writes at most `room` bytes.
unsafe fn text(room: usize, write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let mut buffer = vec![0_u8; room + 1];
    let mut len = 0;
    write(buffer.as_mut_ptr().cast(), &raw mut len);
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    text.to_string_lossy().trim().to_owned()
}

/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| Error::device(format!("{LIBRARY} has no {name}")))
}

/// Where the library may be: where the system looks, in a virtual environment (PyPI's `mpich`), and beside `mpiexec`.
fn places(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(LIBRARY)];
    places.extend(
        env("VIRTUAL_ENV").filter(|venv| !venv.is_empty()).map(|venv| PathBuf::from(venv).join("lib").join(LIBRARY)),
    );
    let path = env("PATH").unwrap_or_default();
    let beside = std::env::split_paths(&path).filter(|folder| folder.join("mpiexec").exists());
    places.extend(beside.filter_map(|folder| Some(folder.parent()?.join("lib").join(LIBRARY))));
    places
}

fn open(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Library> {
    let places = places(env);
    for place in &places {
        // SAFETY: running an MPI library's initialisers is what is asked for.
        if let Ok(library) = unsafe { Library::new(place) } {
            return Ok(library);
        }
    }
    let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    let message =
        format!("several ranks on the CPU need MPI, but there is no {LIBRARY} (looked for {})", looked.join(", "));
    Err(Error::device(message).with_hint(
        "load an MPI with the standard binary interface (MPICH 5, Intel MPI), put its folder on LD_LIBRARY_PATH, or \
         `pip install mpich`",
    ))
}
