//! What asks a run to stop, signals and limits of time: it finishes its step, saves its state and exits with code 75. A
//! program that calls this library keeps its own handlers and asks by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::SIGXCPU;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

use crate::{Error, Result};

/// Exit code of a run ended by a second Ctrl-C: 128 + SIGINT, as a shell would say.
const INTERRUPTED: i32 = 130;

/// Signals that ask to stop, with their names: those of people and terminals, then those of batch systems.
const STOPPING: [(i32, &str); 6] = [
    (SIGINT, "Ctrl-C (SIGINT)"),
    (SIGTERM, "SIGTERM"),
    (SIGHUP, "SIGHUP"),
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
    (SIGXCPU, "SIGXCPU"),
];

/// A limit of a run's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// `Training.max_time`.
    Config,
    /// The end of its job.
    Job,
}

impl TimeLimit {
    const ALL: [TimeLimit; 2] = [TimeLimit::Config, TimeLimit::Job];

    /// A number that no signal has.
    fn number(self) -> u64 {
        1000 + self as u64
    }

    /// What has run out.
    fn name(self) -> &'static str {
        match self {
            TimeLimit::Config => "Training.max_time",
            TimeLimit::Job => "the job's time limit",
        }
    }
}

/// Whether what asked to stop, by its name, wants the run to go on later: the end of its time, and signals that batch
/// systems send ahead of it. Ctrl-C and SIGTERM, which `scancel` sends, do not.
pub fn wants_requeue(name: &str) -> bool {
    ["SIGUSR1", "SIGUSR2", "SIGXCPU"].contains(&name) || TimeLimit::ALL.iter().any(|limit| limit.name() == name)
}

/// Stands for the calling program among the numbers of signals, and its name.
const CALLER: (usize, &str) = (1 << 16, "the calling program");

/// Whether the calling program wants the run to stop. Asked after each step and batch, and while data are prepared; from
/// the thread that called.
pub type WantsStop = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether the process was started with this signal ignored, as `nohup` does with SIGHUP.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks for the old one, which is written to memory of its type.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } == 0;
    // SAFETY: written by the call; all zeros is a value of the type too.
    known && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Remembers that the run was asked to stop.
#[derive(Clone)]
pub struct StopSignal {
    /// Number of the last signal; 0 before the first.
    received: Arc<AtomicUsize>,
    limits: Vec<(TimeLimit, Instant)>,
    /// The calling program, where there is one.
    caller: Option<WantsStop>,
}

impl StopSignal {
    /// From now on signals that ask to stop no longer end the process but are remembered; SIGHUP stays ignored where
    /// it was (`nohup`). A second Ctrl-C ends the process at once, with code 130. A file that reaches the process's
    /// size limit is an error of writing from now on, not the end of the process (SIGXFSZ).
    ///
    /// # Errors
    /// Fails if the system does not take the handlers.
    pub fn install() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let interrupted = Arc::new(AtomicBool::new(false));
        let install = || -> std::io::Result<()> {
            // Actions run in this order: the exit comes before the flag that arms it is set.
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))?;
            flag::register(SIGINT, interrupted)?;
            flag::register(libc::SIGXFSZ, Arc::default())?;
            for (signal, _) in STOPPING.iter().filter(|(signal, _)| *signal != SIGHUP || !is_ignored(SIGHUP)) {
                let signal = *signal;
                flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
            }
            Ok(())
        };
        install().map_err(|e| Error::Internal(format!("cannot install signal handlers: {e}")))?;
        Ok(StopSignal { received, limits: vec![], caller: None })
    }

    /// Asks `wants_stop` instead; the process's signal handlers stay as they are.
    pub fn of_caller(wants_stop: WantsStop) -> Self {
        StopSignal { received: Arc::default(), limits: vec![], caller: Some(wants_stop) }
    }

    /// Stops the run in the calling program's name.
    pub fn stop(&self) {
        self.received.store(CALLER.0, Ordering::Relaxed);
    }

    /// The same, which also asks to stop after `time` from now.
    #[must_use]
    pub fn within(mut self, limit: TimeLimit, time: Duration) -> Self {
        self.limits.extend(Instant::now().checked_add(time).map(|end| (limit, end)));
        self
    }

    /// The number of the signal or limit that asked to stop; 0 if none did.
    pub fn number(&self) -> u64 {
        let received = self.received.load(Ordering::Relaxed) as u64;
        if received != 0 {
            return received;
        }
        if self.caller.as_ref().is_some_and(|wants_stop| wants_stop()) {
            self.stop();
            return CALLER.0 as u64;
        }
        let now = Instant::now();
        self.limits.iter().find(|(_, end)| *end <= now).map_or(0, |(limit, _)| limit.number())
    }

    /// The name of a signal or limit that asks to stop.
    pub fn name(number: u64) -> Option<&'static str> {
        let signals = STOPPING.iter().map(|(signal, name)| (*signal as u64, *name));
        let limits = TimeLimit::ALL.into_iter().map(|limit| (limit.number(), limit.name()));
        let mut all = signals.chain([(CALLER.0 as u64, CALLER.1)]).chain(limits);
        all.find(|(known, _)| *known == number).map(|(_, name)| name)
    }

    /// The name of the signal or limit that asked to stop, if one did.
    pub fn received(&self) -> Option<&'static str> {
        Self::name(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run_child, task};

    /// Sends itself the signals of its task, and prints what was remembered; run by the tests
    /// below in a process of its own, as handlers belong to the whole process.
    #[test]
    #[ignore = "a part of other tests"]
    fn child() {
        let Some(signals) = task() else { return };
        // nohup has it ignored, which children inherit.
        // SAFETY: no handler is given, and nothing else runs here that could set one.
        unsafe { libc::signal(SIGHUP, libc::SIG_DFL) };
        let stop = StopSignal::install().unwrap();
        assert_eq!(stop.received(), None);
        for signal in signals.split(' ') {
            signal_hook::low_level::raise(signal.parse().unwrap()).unwrap();
        }
        println!("received: {:?}", stop.received());
    }

    fn run(signals: &[i32]) -> (Option<i32>, String) {
        let signals = signals.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
        run_child("train::signals::tests::child", &signals)
    }

    #[test]
    fn the_first_signal_is_remembered() {
        for (signal, name) in STOPPING {
            let (code, text) = run(&[signal]);
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains(&format!("received: Some({name:?})")), "{text}");
        }
    }

    /// SLURM sends it before SIGTERM.
    #[test]
    fn a_signal_to_go_on_does_nothing() {
        let (code, text) = run(&[libc::SIGCONT]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("received: None"), "{text}");
    }

    #[test]
    fn the_end_of_its_time_stops_a_run() {
        let waits = || StopSignal { received: Arc::default(), limits: vec![], caller: None };
        let long = waits().within(TimeLimit::Config, Duration::from_secs(1 << 40));
        assert_eq!(long.received(), None);
        let over = long.within(TimeLimit::Job, Duration::ZERO);
        assert_eq!(over.received(), Some("the job's time limit"));
        over.received.store(SIGUSR1 as usize, Ordering::Relaxed);
        assert_eq!(over.received(), Some("SIGUSR1"));
        let both = waits().within(TimeLimit::Job, Duration::MAX).within(TimeLimit::Config, Duration::ZERO);
        assert_eq!(StopSignal::name(both.number()), Some("Training.max_time"));
        assert!(wants_requeue("Training.max_time") && wants_requeue("SIGUSR1"));
        assert!(!wants_requeue("SIGTERM") && !wants_requeue("Ctrl-C (SIGINT)"));
    }

    #[test]
    fn a_calling_program_is_asked_until_it_wants_to_stop() {
        let wants = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&wants);
        let stop = StopSignal::of_caller(Arc::new(move || asked.load(Ordering::Relaxed)));
        assert_eq!(stop.received(), None);
        wants.store(true, Ordering::Relaxed);
        assert_eq!(stop.received(), Some("the calling program"));
        wants.store(false, Ordering::Relaxed);
        assert_eq!(stop.clone().received(), Some("the calling program"), "a request is not taken back");
    }

    #[test]
    fn the_second_ctrl_c_ends_the_process_and_other_signals_do_not() {
        let (code, text) = run(&[SIGINT, SIGINT]);
        assert_eq!(code, Some(INTERRUPTED), "{text}");
        assert!(!text.contains("received"), "{text}");
        let (code, text) = run(&[SIGTERM, SIGUSR1, SIGINT, SIGTERM]);
        assert_eq!(code, Some(0), "{text}");
    }
}
