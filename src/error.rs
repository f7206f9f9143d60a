//! The project's one error type. Context is added on the way up; a hint says what the user can do.

use std::io;
use std::path::{Path, PathBuf};

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, by who has to act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong; the user edits the YAML or the override.
    #[error("{}{key}: {message}{}", location(.file, *.line), with_hint(.hint))]
    Config {
        /// The configuration file, if there is one.
        file: Option<PathBuf>,
        /// Line in it, from 1.
        line: Option<usize>,
        /// Path of the key: `Data.hr_size`.
        key: String,
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// An input file or folder cannot be used.
    #[error("{}: {message}{}", .path.display(), with_hint(.hint))]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// A checkpoint cannot be read or does not fit the configuration.
    #[error("checkpoint {}: {message}{}", .path.display(), with_hint(.hint))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// An operation was given shapes it cannot work on; raised while the plan is built.
    #[error("{node} ({op}): {message}")]
    Shape {
        /// Path of the node: `generator.body.0.conv1`.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The command line asks for something that does not exist here.
    #[error("{message}{}", with_hint(.hint))]
    Usage {
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// Reading or writing failed in the operating system.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Training no longer produces finite numbers.
    #[error("training diverged: {message}")]
    Diverged {
        /// What is wrong.
        message: String,
    },
    /// A signal, or the program that trains by a call of this library, ended the run after its state was saved.
    #[error("stopped by {by}; the state is saved in {}", .checkpoint.display())]
    Stopped {
        /// Name of the signal, or of who asked.
        by: &'static str,
        /// The file with the state.
        checkpoint: PathBuf,
    },
    /// The same before the run's first step.
    #[error("stopped by {by} before the first step: nothing is lost, the same command starts again")]
    StoppedEarly {
        /// Name of the signal, or of who asked.
        by: &'static str,
    },
    /// The system has no such block of memory.
    #[error("the system has no {} MiB of memory left", .bytes >> 20)]
    Memory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// A device, its driver or a library of it cannot be used, or failed.
    #[error("{message}{}", with_hint(.hint))]
    Device {
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// A GPU has not as much memory as is needed.
    #[error("{message}")]
    DeviceMemory {
        /// What is wrong.
        message: String,
    },
    /// A GPU failed for good, by a fault of its own or of a kernel: what it held is gone.
    #[error(
        "the GPU is lost: {message}\n  hint: continue from the last checkpoint with --resume auto; if it happens again, \
         --sync-kernels names the kernel"
    )]
    DeviceLost {
        /// What is wrong.
        message: String,
    },
    /// A fault of this program.
    #[error("internal error: {0} (please report this)")]
    Internal(String),
}

impl Error {
    /// An error about the file or folder `path`.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().into(), message: message.into(), hint: None }
    }

    /// An error about the checkpoint `path`.
    pub fn checkpoint(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.as_ref().into(), message: message.into(), hint: None }
    }

    /// An operating-system error met while trying to `action` ("read", "write", …) `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { action, path: path.as_ref().into(), source }
    }

    /// A configuration error that no line of the file can be named for.
    pub fn config(key: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { file: None, line: None, key: key.into(), message: message.into(), hint: None }
    }

    /// A command-line error.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage { message: message.into(), hint: None }
    }

    /// An error of a device or of what it needs.
    pub fn device(message: impl Into<String>) -> Self {
        Error::Device { message: message.into(), hint: None }
    }

    /// Adds what the user can do about it, where the kind of error carries a hint.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Error::Config { hint, .. }
        | Error::Data { hint, .. }
        | Error::Checkpoint { hint, .. }
        | Error::Usage { hint, .. }
        | Error::Device { hint, .. } = &mut self
        {
            *hint = Some(text.into());
        }
        self
    }

    /// The process exit code: 2 wrong config, data or checkpoint; 3 diverged; 75 stopped by a signal with
    /// its state saved; 1 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. }
            | Error::Data { .. }
            | Error::Checkpoint { .. }
            | Error::Usage { .. }
            | Error::Shape { .. } => 2,
            Error::Io { source, .. } if names_something_else(source) => 2,
            Error::Diverged { .. } => 3,
            Error::Stopped { .. } | Error::StoppedEarly { .. } => 75,
            Error::Io { .. }
            | Error::Memory { .. }
            | Error::Device { .. }
            | Error::DeviceMemory { .. }
            | Error::DeviceLost { .. }
            | Error::Internal(_) => 1,
        }
    }
}

/// Whether a path that the user gave cannot be what it is needed for: a file where a folder is needed, a name too long.
fn names_something_else(e: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidFilename, IsADirectory, NotADirectory};
    matches!(e.kind(), AlreadyExists | InvalidFilename | IsADirectory | NotADirectory)
}

fn location(file: &Option<PathBuf>, line: Option<usize>) -> String {
    match (file, line) {
        (Some(f), Some(l)) => format!("{}:{l}: ", f.display()),
        (Some(f), None) => format!("{}: ", f.display()),
        _ => String::new(),
    }
}

fn with_hint(hint: &Option<String>) -> String {
    hint.as_ref().map(|h| format!("\n  hint: {h}")).unwrap_or_default()
}
