//! Messages to the user: printed to standard error and kept in the run's log file.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;

use super::local_time;
use crate::{Error, Result};

/// `train.log`: every message of a run with the time of day, appended to over resumes.
#[derive(Debug)]
pub struct RunLogFile {
    file: File,
}

impl RunLogFile {
    /// Opens or makes the file and goes to its end.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(RunLogFile { file })
    }

    /// Writes a message; each of its lines carries the time and the level.
    pub fn write(&mut self, level: &str, text: &str) -> io::Result<()> {
        let now = local_time().strftime("%Y-%m-%d %H:%M:%S%.3f");
        let lines: String = text.lines().map(|line| format!("{now} {level:<4} {line}\n")).collect();
        self.file.write_all(lines.as_bytes())
    }
}

/// Where messages go; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Messages {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    target: Target,
    log: Log,
}

/// The log file, or what it will hold once the run's folder is known.
enum Log {
    Waiting(Vec<(&'static str, String)>),
    Open(RunLogFile),
    Lost,
}

enum Target {
    /// Messages appear above the progress bars.
    Terminal(MultiProgress),
    /// One line after the other.
    Plain(Box<dyn Write + Send>),
}

impl Messages {
    /// Prints to standard error, with bars if that is a terminal.
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        if stderr.is_terminal() { Self::new(Target::Terminal(MultiProgress::new())) } else { Self::plain(stderr) }
    }

    /// Prints plain lines to `out`.
    pub fn plain(out: impl Write + Send + 'static) -> Self {
        Self::new(Target::Plain(Box::new(out)))
    }

    /// A terminal that shows nothing.
    #[cfg(test)]
    pub(super) fn hidden_bars() -> Self {
        Self::new(Target::Terminal(MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden())))
    }

    fn new(target: Target) -> Self {
        Messages { inner: Arc::new(Mutex::new(Inner { target, log: Log::Waiting(Vec::new()) })) }
    }

    /// Every message also goes to `log`, those up to now too.
    pub fn set_log(&self, log: RunLogFile) {
        let mut inner = self.lock();
        if let Log::Waiting(earlier) = std::mem::replace(&mut inner.log, Log::Open(log)) {
            earlier.into_iter().for_each(|(level, text)| inner.keep(level, &text));
        }
    }

    /// Keeps the error that ends a run in the log file; the program's end prints it.
    pub fn keep_error(&self, text: &str) {
        self.lock().keep("error", text);
    }

    /// Tells the user something.
    pub fn info(&self, text: &str) {
        self.lock().message("info", text);
    }

    /// Warns the user.
    pub fn warn(&self, text: &str) {
        self.lock().message("warn", text);
    }

    /// Prints a line that does not belong in the log file, as progress.
    pub(super) fn transient(&self, text: &str) {
        self.lock().print(text);
    }

    /// The terminal's bars, or `None` where lines are printed.
    pub(super) fn bars(&self) -> Option<MultiProgress> {
        match &self.lock().target {
            Target::Terminal(bars) => Some(bars.clone()),
            Target::Plain(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere while printing leaves nothing inconsistent here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn message(&mut self, level: &'static str, text: &str) {
        match level {
            "warn" => self.print(&format!("warning: {text}")),
            _ => self.print(text),
        }
        self.keep(level, text);
    }

    fn keep(&mut self, level: &'static str, text: &str) {
        let written = match &mut self.log {
            Log::Waiting(earlier) => {
                earlier.push((level, text.to_owned()));
                Ok(())
            }
            Log::Open(log) => log.write(level, text),
            Log::Lost => Ok(()),
        };
        if let Err(e) = written {
            // Training is worth more than its log; what was written stays.
            self.log = Log::Lost;
            self.print(&format!("warning: cannot write train.log, further messages are only printed: {e}"));
        }
    }

    fn print(&mut self, text: &str) {
        // Nobody can be told that standard error is gone.
        let _ = match &mut self.target {
            Target::Terminal(bars) => bars.println(text),
            Target::Plain(out) => writeln!(out, "{text}").and_then(|()| out.flush()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Shared;

    #[test]
    fn messages_are_printed_and_kept_with_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.log");
        let out = Shared::default();
        let messages = Messages::plain(out.clone());
        messages.info("before the folder exists");
        messages.set_log(RunLogFile::open(&path).unwrap());
        messages.info("two\nlines");
        messages.warn("careful");
        messages.transient("12 %");
        assert_eq!(out.text(), "before the folder exists\ntwo\nlines\nwarning: careful\n12 %\n");
        let log = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = log.lines().map(|l| l.split_at(24)).collect();
        let want = ["info before the folder exists", "info two", "info lines", "warn careful"];
        assert_eq!(lines.iter().map(|l| l.1).collect::<Vec<_>>(), want);
        let time = lines[0].0;
        assert!(jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S%.3f ", time).is_ok(), "{time:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_ends_the_log_file_with_one_warning() {
        let out = Shared::default();
        let messages = Messages::plain(out.clone());
        messages.set_log(RunLogFile::open(Path::new("/dev/full")).unwrap());
        messages.info("one");
        messages.info("two");
        let text = out.text();
        assert_eq!(text.matches("cannot write train.log").count(), 1, "{text}");
        assert!(text.ends_with("two\n"));
    }
}
