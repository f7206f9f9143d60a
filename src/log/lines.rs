//! Lines on the standard streams. Nobody may be listening: a pipe that is closed, a terminal that is gone or a full disk
//! must not end the program in the middle of its work, nor change its exit code.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::{Error, Result};

/// Writes what the program was asked for to standard output. If its reader has gone, the rest is not wanted.
///
/// # Errors
/// Fails if the text cannot be written for another reason, such as a full disk.
pub fn say(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", "standard output", e)),
        _ => Ok(()),
    }
}

/// Writes a message to standard error; one that cannot be written is lost.
pub fn say_error(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
