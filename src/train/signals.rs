//! Signals that ask a run to stop: it finishes its step, saves its state and exits with code 75.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::{Error, Result};

/// Exit code of a run ended by a second Ctrl-C: 128 + SIGINT, as a shell would say.
const INTERRUPTED: i32 = 130;

/// Remembers that the run was asked to stop.
#[derive(Clone, Debug)]
pub struct StopSignal {
    /// Number of the last signal; 0 before the first.
    received: Arc<AtomicUsize>,
}

impl StopSignal {
    /// From now on SIGINT, SIGTERM and SIGUSR1 (a batch system's warning) no longer end the process but are
    /// remembered. A second Ctrl-C ends it at once, with code 130.
    pub fn install() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let interrupted = Arc::new(AtomicBool::new(false));
        let install = || -> std::io::Result<()> {
            // Actions run in this order: the exit comes before the flag that arms it is set.
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))?;
            flag::register(SIGINT, interrupted)?;
            for signal in [SIGINT, SIGTERM, SIGUSR1] {
                flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
            }
            Ok(())
        };
        install().map_err(|e| Error::Internal(format!("cannot install signal handlers: {e}")))?;
        Ok(StopSignal { received })
    }

    /// The name of the signal that asked to stop, if one did.
    pub fn received(&self) -> Option<&'static str> {
        match self.received.load(Ordering::Relaxed) as i32 {
            0 => None,
            SIGINT => Some("Ctrl-C (SIGINT)"),
            SIGTERM => Some("SIGTERM"),
            _ => Some("SIGUSR1"),
        }
    }
}
