//! What holds for all calls: where messages go, and the program that checks GPUs.

use std::ffi::{c_char, c_void};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::log::Messages;

use crate::arguments::optional_path;
use crate::errors::{Status, c_text, guarded};

/// Takes a line of text without its end; called from threads of the library too, one call after the other.
pub type OnMessage = Option<unsafe extern "C" fn(line: *const c_char, user: *mut c_void)>;

/// A function of the program, and what it is called with.
#[derive(Clone, Copy)]
struct Callback {
    call: unsafe extern "C" fn(line: *const c_char, user: *mut c_void),
    user: *mut c_void,
}

// SAFETY: the pointer is handed back and never looked at; who sets the function promises that it may be called from any
// thread.
unsafe impl Send for Callback {}

#[derive(Default)]
struct Settings {
    messages: Option<Callback>,
    program: Option<PathBuf>,
}

static SETTINGS: Mutex<Settings> = Mutex::new(Settings { messages: None, program: None });

fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends messages of calls from now on, those of training and of maps among them, to `on_message`. Null is how it starts:
/// training and maps write to standard error, and the rest is silent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_set_messages(on_message: OnMessage, user: *mut c_void) -> Status {
    guarded(|| {
        settings().messages = on_message.map(|call| Callback { call, user });
        Ok(())
    })
}

/// Names the program `srgan`, which is started to check a GPU before it is trusted. Without one (null) `auto` is the CPU,
/// and `cuda` goes without kernels that only Hopper has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_set_program(path: *const c_char) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        settings().program = unsafe { optional_path(path) };
        Ok(())
    })
}

/// The program that checks GPUs.
pub(crate) fn program() -> Option<PathBuf> {
    settings().program.clone()
}

/// Messages to the program's function, if it has set one.
pub(crate) fn messages() -> Option<Messages> {
    let callback = settings().messages?;
    Some(Messages::plain(Lines { callback, begun: Vec::new() }))
}

/// Cuts text into lines.
struct Lines {
    callback: Callback,
    begun: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.begun.push(*byte);
                continue;
            }
            let line = c_text(&String::from_utf8_lossy(&self.begun));
            self.begun.clear();
            // SAFETY: the text lives until the call is over; the rest is the promise of who has set the function.
            unsafe { (self.callback.call)(line.as_ptr(), self.callback.user) };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
