//! How a call ended, and the text of the last error of each thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use engine::{Error, Result};

/// How a call ended. Of anything but OK, srgan_last_error() has the text.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// An argument is wrong: a null pointer, an extent, an option.
    Argument = 1,
    /// A configuration is wrong.
    Config = 2,
    /// A scene or another input file is wrong.
    Data = 3,
    /// A checkpoint cannot be read, or is none.
    Checkpoint = 4,
    /// A file could not be read or written.
    Io = 5,
    /// There is not enough memory, of the machine or of the GPU.
    Memory = 6,
    /// A device cannot be used, or failed.
    Device = 7,
    /// Training no longer gives finite numbers.
    Diverged = 8,
    /// The callback stopped the run before there was anything to save.
    Stopped = 9,
    /// A fault of the library.
    Internal = 10,
}

impl Status {
    fn of(error: &Error) -> Status {
        match error {
            Error::Config { .. } => Status::Config,
            Error::Data { .. } => Status::Data,
            Error::Checkpoint { .. } => Status::Checkpoint,
            Error::Usage { .. } | Error::Shape { .. } => Status::Argument,
            Error::Io { .. } => Status::Io,
            Error::Memory { .. } | Error::DeviceMemory { .. } => Status::Memory,
            Error::Device { .. } | Error::DeviceLost { .. } => Status::Device,
            Error::Diverged { .. } => Status::Diverged,
            Error::Stopped { .. } | Error::StoppedEarly { .. } => Status::Stopped,
            Error::Internal(_) => Status::Internal,
        }
    }
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// A text for C; what stands behind a NUL is cut off.
pub(crate) fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// Runs the body of a call; keeps the text of its error.
pub(crate) fn guarded(body: impl FnOnce() -> Result<()>) -> Status {
    let result = catch_unwind(AssertUnwindSafe(body));
    let error = match result {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(error)) => error,
        Err(_) => Error::Internal("a panic; its place is on standard error".into()),
    };
    LAST.with(|last| *last.borrow_mut() = Some(c_text(&error.to_string())));
    Status::of(&error)
}

/// Text of this thread's last error, with what is wrong, where, and what to do; null before the first. It is valid until
/// the next call that fails on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn srgan_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ref().map_or(ptr::null(), |text| text.as_ptr()))
}
