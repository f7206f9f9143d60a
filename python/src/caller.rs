//! The side of a call that belongs to Python: its signals, its callback, its standard error.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::log::Messages;
use engine::train::Caller;
use engine::train::step::StepReport;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How often Python is asked for signals at most.
const EVERY: Duration = Duration::from_millis(20);

/// What was raised while the engine worked, to be raised again when it has stopped.
#[derive(Clone, Default)]
pub(crate) struct Listener {
    raised: Arc<Mutex<Option<PyErr>>>,
    asked: Arc<Mutex<Option<Instant>>>,
}

impl Listener {
    fn keep(&self, error: PyErr) {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Whether a signal's handler, as that of Ctrl-C, has raised an exception. Handlers run here, if this is the main
    /// thread.
    pub(crate) fn is_interrupted(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|at| at.elapsed() < EVERY) {
            return false;
        }
        let result = Python::attach(|py| py.check_signals());
        *asked = Some(Instant::now());
        result.map_err(|e| self.keep(e)).is_err()
    }

    /// Raises what was raised.
    pub(crate) fn raise(&self) -> PyResult<()> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// What a run is called by. `on_step(index, phase, committed, metrics)` stops it by returning true.
    pub(crate) fn caller(&self, on_step: Option<Py<PyAny>>, stderr: Option<Py<PyAny>>) -> Caller {
        let (steps, signals) = (self.clone(), self.clone());
        Caller {
            on_step: Arc::new(move |step, report| match &on_step {
                Some(call) => steps.goes_on(call, step, report),
                None => true,
            }),
            wants_stop: Arc::new(move || signals.is_interrupted()),
            messages: messages(stderr),
        }
    }

    /// Calls back; whether the run goes on.
    fn goes_on(&self, call: &Py<PyAny>, step: u64, report: &StepReport) -> bool {
        let stops = Python::attach(|py| {
            let metrics = PyDict::new(py);
            for (metric, value) in &report.values {
                metrics.set_item(metric.name(), value)?;
            }
            call.bind(py).call1((step, report.phase.name(), report.committed, metrics))?.is_truthy()
        });
        stops.map_or_else(
            |e| {
                self.keep(e);
                false
            },
            |stops| !stops,
        )
    }
}

/// Messages to the process's standard error, with bars on a terminal, or to a file of Python's.
pub(crate) fn messages(stderr: Option<Py<PyAny>>) -> Messages {
    stderr.map_or_else(Messages::stderr, |file| Messages::plain(TextFile(file)))
}

/// A text file of Python's.
struct TextFile(Py<PyAny>);

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let written = Python::attach(|py| self.0.bind(py).call_method1("write", (text,)).map(|_| ()));
        written.map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = Python::attach(|py| self.0.bind(py).call_method0("flush").map(|_| ()));
        flushed.map_err(io::Error::other)
    }
}
