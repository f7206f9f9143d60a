//! The metrics of a run, written on a thread of its own.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::csv::{CsvFile, parse_record};
use super::events::EventFile;
use super::wandb::WandbRun;
use super::{Messages, Panels, write_run};
use crate::files::write_atomic;
use crate::{Error, Result};

/// Rows that may wait for a slow disk before the trainer waits too.
const QUEUE: usize = 256;

/// The time between two writings of the page, in times that it takes.
const PAGE_SHARE: u32 = 100;
/// Longer than any run.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A metric's value; each is written with as many digits as its type needs to be read back exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
}

impl From<f32> for Scalar {
    fn from(value: f32) -> Self {
        Scalar::F32(value)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Scalar::F64(value)
    }
}

impl Scalar {
    fn to_f32(self) -> f32 {
        match self {
            Scalar::F32(value) => value,
            Scalar::F64(value) => value as f32,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            // Debug is the shortest text that reads back as the same number, with an exponent where needed.
            Scalar::F32(v) if v.is_nan() => f.write_str("nan"),
            Scalar::F64(v) if v.is_nan() => f.write_str("nan"),
            Scalar::F32(v) => write!(f, "{v:?}"),
            Scalar::F64(v) => write!(f, "{v:?}"),
        }
    }
}

/// Rows that may wait for the disk to confirm them.
const UNCONFIRMED: usize = 4096;

/// The values of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The step.
    pub step: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Metrics by name.
    pub values: Vec<(String, Scalar)>,
}

/// `metrics.csv`, TensorBoard events and validation pictures of a run folder.
///
/// Calls return at once; the files are written by a thread. When that fails, the next call returns the error,
/// and whatever was written before is intact.
pub struct MetricsLog {
    sender: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Error>>>,
    numbers: HashMap<String, usize>,
    folder: PathBuf,
    /// Rows since the last flush: of them it is not certain that they are on the disk.
    unconfirmed: Vec<Row>,
    /// Whether nothing is to be written.
    discards: bool,
}

enum Job {
    Row {
        step: u64,
        epoch: u64,
        values: Vec<(usize, Scalar)>,
    },
    Panels {
        step: u64,
        panels: Panels,
    },
    /// Bring the run's page up to date.
    Page,
    /// Sync the files, then answer.
    Flush(SyncSender<()>),
    /// The run has ended.
    End,
}

impl MetricsLog {
    /// Opens the log of a run that has these `metrics` (without `step` and `epoch`, which every row has) and
    /// whose next step is `from_step`.
    ///
    /// Rows of `metrics.csv` from that step on are cut, and TensorBoard drops them too: a resumed run does
    /// these steps again. Metrics that are new become new columns; old columns stay. All goes to `wandb`, too. What goes wrong with the files but
    /// stops nothing is told to `messages`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] if the folder holds a `metrics.csv` that cannot be continued.
    pub fn open(
        folder: &Path,
        metrics: &[&str],
        from_step: u64,
        mut wandb: Option<WandbRun>,
        messages: &Messages,
    ) -> Result<Self> {
        let names: Vec<String> = metrics.iter().map(|s| s.to_string()).collect();
        let path = folder.join("metrics.csv");
        let resumed = path.exists();
        if !resumed && from_step > 0 {
            messages.warn(&format!("the run's metrics.csv is gone: rows of its steps before {from_step} are missing"));
        }
        let csv = CsvFile::open(&path, &names, from_step)?;
        if let Some(wandb) = &mut wandb {
            backfill(wandb, &path)?;
        }
        let events = EventFile::create(folder, resumed.then_some(from_step))?;
        let numbers = names.iter().cloned().zip(0..).collect();
        let failure = Arc::new(Mutex::new(None));
        let (sender, jobs) = sync_channel(QUEUE);
        let (folder, messages, text) = (folder.to_owned(), messages.clone(), Vec::new());
        let writer =
            Writer { csv, events, wandb, names, folder: folder.clone(), messages, text, last_step: None, page: None };
        let failed = Arc::clone(&failure);
        let thread = std::thread::Builder::new().name("metrics".into());
        let writer = thread.spawn(move || {
            if let Err(e) = writer.run(&jobs) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        });
        let writer = writer.map_err(|e| Error::io("start the writer of", &path, e))?;
        Ok(MetricsLog {
            sender: Some(sender),
            writer: Some(writer),
            failure,
            numbers,
            folder,
            unconfirmed: Vec::new(),
            discards: false,
        })
    }

    /// A log that writes nothing, for ranks whose first one writes.
    pub fn discarding() -> Self {
        let (numbers, folder) = (HashMap::new(), PathBuf::new());
        let unconfirmed = Vec::new();
        MetricsLog { sender: None, writer: None, failure: Arc::default(), numbers, folder, unconfirmed, discards: true }
    }

    /// Writes values of a step. Steps never go back; two rows of one step become one.
    ///
    /// # Errors
    /// An error of the writer met since the last call; [`Error::Internal`] for a metric not named at opening.
    pub fn row(&mut self, step: u64, epoch: u64, values: &[(&str, Scalar)]) -> Result<()> {
        if self.discards {
            return Ok(());
        }
        let number = |&(name, value): &(&str, Scalar)| match self.numbers.get(name) {
            Some(&number) => Ok((number, value)),
            None => Err(Error::Internal(format!("metric {name} has no column"))),
        };
        let numbered = values.iter().map(number).collect::<Result<_>>()?;
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        self.unconfirmed.push(Row { step, epoch, values });
        self.send(Job::Row { step, epoch, values: numbered })?;
        if self.unconfirmed.len() < UNCONFIRMED { Ok(()) } else { self.flush() }
    }

    /// Writes the pictures of a validation: `val/step_<n>.png`, and each row as TensorBoard image
    /// `val/<index>`.
    pub fn panels(&mut self, step: u64, panels: Panels) -> Result<()> {
        self.send(Job::Panels { step, panels })
    }

    /// Brings the run's page up to date, unless that would take more than a hundredth of the time. A page that cannot be
    /// written is told of once.
    ///
    /// # Errors
    /// An error of the writer met since the last call.
    pub fn page(&mut self) -> Result<()> {
        self.send(Job::Page)
    }

    /// Waits until everything handed over so far is safely on the disk. Call it before a checkpoint, so that
    /// a resumed run finds all rows before its first step.
    pub fn flush(&mut self) -> Result<()> {
        if self.discards {
            return Ok(());
        }
        let (answer, done) = sync_channel(1);
        self.send(Job::Flush(answer))?;
        match done.recv() {
            Ok(()) => {
                self.unconfirmed.clear();
                Ok(())
            }
            Err(_) => Err(self.take_failure()),
        }
    }

    /// Rows since the last flush, or since it failed: a checkpoint keeps them, so that none is missing from a run that
    /// continues.
    pub fn unconfirmed(&self) -> &[Row] {
        &self.unconfirmed
    }

    /// Writes what is left, that the run has ended, and closes the files.
    pub fn finish(mut self) -> Result<()> {
        self.send(Job::End)?;
        self.flush()
    }

    fn send(&mut self, job: Job) -> Result<()> {
        if self.discards {
            return Ok(());
        }
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(job).is_ok());
        if sent { Ok(()) } else { Err(self.take_failure()) }
    }

    /// The error that ended the writer.
    fn take_failure(&mut self) -> Error {
        self.join();
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        let again = || io::Error::other("the writer of the metrics has stopped after an earlier error");
        failure.unwrap_or_else(|| Error::io("write to", &self.folder, again()))
    }

    fn join(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer is reported as its having stopped.
            let _ = writer.join();
        }
    }
}

impl Drop for MetricsLog {
    fn drop(&mut self) {
        self.join();
    }
}

/// Gives a run the rows of `metrics.csv` that it lacks: its last step after a kill, all where it was not asked for before.
fn backfill(wandb: &mut WandbRun, csv: &Path) -> Result<()> {
    let text = fs::read_to_string(csv).map_err(|e| Error::io("read", csv, e))?;
    let mut lines = text.lines().map(parse_record);
    let Some(header) = lines.next() else { return Ok(()) };
    for cells in lines {
        let number = |cell: usize| cells.get(cell).and_then(|text| text.parse::<u64>().ok());
        let (Some(step), Some(epoch)) = (number(0), number(1)) else { continue };
        if wandb.last_step().is_none_or(|last| last < step) {
            let values = header.iter().zip(&cells).skip(2);
            let values = values.filter_map(|(name, text)| Some((name.as_str(), Scalar::F64(text.parse().ok()?))));
            wandb.row(step, epoch, values)?;
        }
    }
    Ok(())
}

/// The thread's side.
struct Writer {
    csv: CsvFile,
    events: EventFile,
    wandb: Option<WandbRun>,
    names: Vec<String>,
    folder: PathBuf,
    messages: Messages,
    text: Vec<(usize, String)>,
    /// The step of the last row; its epoch is an event of its own that is written once.
    last_step: Option<u64>,
    /// When the page may be written again.
    page: Option<Instant>,
}

impl Writer {
    /// Works until the sender is gone or something fails; dropping the receiver tells the trainer.
    fn run(mut self, jobs: &Receiver<Job>) -> Result<()> {
        for job in jobs {
            match job {
                Job::Row { step, epoch, values } => self.row(step, epoch, &values)?,
                Job::Panels { step, panels } => self.panels(step, &panels)?,
                Job::Page => self.page(),
                Job::End => self.wandb.iter_mut().try_for_each(WandbRun::finish)?,
                Job::Flush(answer) => {
                    self.sync()?;
                    // Whoever asked may have given up waiting.
                    let _ = answer.send(());
                }
            }
        }
        self.sync()
    }

    fn sync(&mut self) -> Result<()> {
        if self.csv.sync()? {
            self.messages.warn("metrics.csv was removed or replaced during the run: it is written anew, with all rows");
        }
        if self.events.sync()? {
            self.messages.warn("the run's event file was removed or replaced: it is written anew");
        }
        if let Some(wandb) = &mut self.wandb
            && wandb.sync()?
        {
            self.messages.warn("the run's .wandb file was removed or replaced: it is written anew");
        }
        Ok(())
    }

    fn row(&mut self, step: u64, epoch: u64, values: &[(usize, Scalar)]) -> Result<()> {
        self.text.clear();
        self.text.extend(values.iter().map(|(number, value)| (*number, value.to_string())));
        self.csv.row(step, epoch, &self.text)?;
        if let Some(wandb) = &mut self.wandb {
            wandb.row(step, epoch, values.iter().map(|(number, value)| (self.names[*number].as_str(), *value)))?;
        }
        let scalars = values.iter().map(|(number, value)| (self.names[*number].as_str(), value.to_f32()));
        let epoch = (self.last_step.replace(step) != Some(step)).then_some(("epoch", epoch as f32));
        self.events.scalars(step, epoch.into_iter().chain(scalars))
    }

    fn page(&mut self) {
        let started = Instant::now();
        if self.page.is_some_and(|next| started < next) {
            return;
        }
        let written = write_run(&self.folder);
        let pause = match &written {
            Ok(()) => PAGE_SHARE * started.elapsed(),
            Err(_) => NEVER,
        };
        if let Err(e) = written {
            self.messages.warn(&format!("the run's page is not brought up to date: {e}"));
        }
        self.page = Some(Instant::now() + pause);
    }

    fn panels(&mut self, step: u64, panels: &Panels) -> Result<()> {
        let Some(sheet) = panels.sheet() else { return Ok(()) };
        let folder = self.folder.join("val");
        fs::create_dir_all(&folder).map_err(|e| Error::io("make folder", &folder, e))?;
        let png = sheet.to_png()?;
        write_atomic(&folder.join(format!("step_{step}.png")), |out| out.write_all(&png))?;
        if let Some(wandb) = &mut self.wandb {
            wandb.panels(step, panels.rows())?;
        }
        for (i, row) in panels.rows().iter().enumerate() {
            let size = (row.height(), row.width());
            self.events.image(step, &format!("val/{i}"), size, row.channels(), &row.to_png()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
