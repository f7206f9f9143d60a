//! A value that lives on a thread of its own, which does one call after the other on it. A GPU's context belongs to a thread,
//! and callers come from any.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Result};

/// How often a caller that waits is asked whether it still wants to.
const POLL: Duration = Duration::from_millis(50);

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A thread with a value.
pub(super) struct Worker<T> {
    /// Dropped first, which ends the thread.
    jobs: Option<Sender<Job<T>>>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl<T: 'static> Worker<T> {
    /// Starts a thread on which `make` makes the value, and something else that is given back.
    ///
    /// # Errors
    /// Those of `make`; [`Error::Internal`] if it panics, or there is no thread to be had.
    pub fn start<R: Send + 'static>(make: impl FnOnce() -> Result<(T, R)> + Send + 'static) -> Result<(Self, R)> {
        let (jobs, queue) = mpsc::channel::<Job<T>>();
        let (made, result) = mpsc::channel();
        let body = move || {
            let (mut value, rest) = match caught(make) {
                Ok(parts) => parts,
                Err(e) => return drop(made.send(Err(e))),
            };
            if made.send(Ok(rest)).is_ok() {
                queue.iter().for_each(|job| job(&mut value));
            }
        };
        let thread = std::thread::Builder::new().name("srgan-generator".into()).spawn(body);
        let thread = Some(thread.map_err(|e| Error::Internal(format!("no thread could be started: {e}")))?);
        let worker = Worker { jobs: Some(jobs), thread, process: std::process::id() };
        let rest = result.recv().map_err(|_| ended())??;
        Ok((worker, rest))
    }

    /// Does `work` on the value and waits for it; `wait` is called now and then meanwhile.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Internal`] if it panics; [`Error::Usage`] in a process that was forked off the value's.
    pub fn call<R: Send + 'static>(
        &self,
        wait: &mut dyn FnMut(),
        work: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if self.process != std::process::id() {
            return Err(Error::usage(
                "this generator was opened before the process forked, and its thread is not here",
            )
            .with_hint("open it in the new process, or start processes by `spawn`"));
        }
        let (done, result) = mpsc::channel();
        let job = move |value: &mut T| drop(done.send(caught(|| work(value))));
        self.jobs.as_ref().and_then(|jobs| jobs.send(Box::new(job)).ok()).ok_or_else(ended)?;
        received(&result, wait)
    }
}

/// Waits for a result.
fn received<R>(result: &Receiver<Result<R>>, wait: &mut dyn FnMut()) -> Result<R> {
    loop {
        match result.recv_timeout(POLL) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => wait(),
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
        }
    }
}

fn ended() -> Error {
    Error::Internal("the generator's thread has ended".into())
}

/// What `body` gives; a panic becomes an error.
pub(super) fn caught<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Error::Internal(text(payload.as_ref()))))
}

/// What a panic says.
fn text(payload: &(dyn Any + Send)) -> String {
    let known = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    known.unwrap_or("a panic").to_owned()
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.jobs = None;
        // In a process that was forked off there is nothing to wait for.
        if let Some(thread) = self.thread.take().filter(|_| self.process == std::process::id()) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_from_any_thread_and_a_panic_is_an_error() {
        let (worker, made) = Worker::start(|| Ok((1, "made"))).unwrap();
        assert_eq!(made, "made");
        std::thread::scope(|scope| {
            let add = || {
                let add = |value: &mut i32| {
                    *value += 1;
                    Ok(())
                };
                worker.call(&mut || (), add).unwrap();
            };
            (0..4).map(|_| scope.spawn(add)).collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap());
        });
        let error = worker.call::<()>(&mut || (), |_| panic!("on purpose")).unwrap_err();
        assert!(error.to_string().contains("on purpose"), "{error}");
        assert_eq!(worker.call(&mut || (), |value| Ok(*value)).unwrap(), 5);
    }

    #[test]
    fn a_waiting_caller_is_asked() {
        let (worker, ()) = Worker::start(|| Ok((mpsc::channel::<()>(), ()))).unwrap();
        let (go, waits) = mpsc::channel();
        let mut asked = 0;
        let mut wait = || {
            asked += 1;
            let _ = go.send(());
        };
        worker.call(&mut wait, move |_| waits.recv().map_err(|e| Error::Internal(e.to_string()))).unwrap();
        assert!(asked >= 1);
    }

    #[test]
    fn what_cannot_be_made_is_told() {
        let error = Worker::<()>::start(|| Err::<((), ()), _>(Error::usage("no"))).err().unwrap();
        assert_eq!(error.to_string(), "no");
        assert!(Worker::<()>::start(|| -> Result<((), ())> { panic!("never") }).is_err());
    }
}
