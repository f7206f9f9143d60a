//! Weights & Biases: a run in the format that its own client keeps offline, so that it works on nodes without a network
//! and `wandb sync` uploads it.
//!
//! A run is a folder `offline-run-<time>-<id>` with `run-<id>.wandb`, a file of records that only grows, and with the
//! pictures under `files/`. A run that is continued goes on in its file, less the steps that it does again; if that has been
//! uploaded, in a new one under the same id.

mod proto;
mod records;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::proto::{
    ConfigRecord, FilesItem, FilesRecord, HeaderRecord, HistoryRecord, HistoryStep, Item, MEDIA, Record, RecordType,
    RunExitRecord, RunRecord, SummaryRecord, Timestamp, VersionInfo,
};
use self::records::RecordFile;
use super::picture::Picture;
use super::{Scalar, local_time};
use crate::files::write_atomic;
use crate::{Error, Result};

/// The name of the panels in opensr-srgan's runs.
const PANELS: &str = "Val SR";
/// The oldest client that reads the file, as wandb 0.31 states it.
const MIN_CONSUMER: &str = "0.70.0";

/// What Weights & Biases is told of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WandbInfo {
    /// The run's id, unique in its project; of letters, digits, `-` and `_`.
    pub id: String,
    /// The account or team; the user's default if empty.
    pub entity: String,
    /// The project.
    pub project: String,
    /// The run's name.
    pub name: String,
    /// Remarks.
    pub notes: String,
    /// Labels.
    pub tags: Vec<String>,
    /// The group of runs that it belongs to.
    pub group: String,
    /// What kind of job it is.
    pub job_type: String,
    /// The configuration: an object with an entry a section.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// A run's `.wandb` file while the run goes on.
#[derive(Debug)]
pub struct WandbRun {
    file: RecordFile,
    folder: PathBuf,
    /// Number of the next record.
    num: i64,
    started: SystemTime,
    /// The values of the last step, until the next one or the end: a step's values are one record, or the service would
    /// count them as two steps.
    pending: Option<Step>,
    /// The last step of which the run has values.
    last: Option<u64>,
    /// The latest value of each metric, as JSON, and whether the file has it.
    summary: BTreeMap<String, (String, bool)>,
}

#[derive(Debug)]
struct Step {
    step: u64,
    items: Vec<Item>,
}

impl WandbRun {
    /// Begins or continues a run among those in `parent`; `from_step` is its next step, 0 for a new one.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(parent: &Path, info: &WandbInfo, from_step: u64) -> Result<WandbRun> {
        let earlier = if from_step > 0 { newest(parent, &info.id) } else { None };
        match earlier {
            Some(folder) if !was_uploaded(&folder, &info.id) => WandbRun::resume(folder, info, from_step),
            Some(folder) => {
                let mut last = None;
                RecordFile::read(&file_of(&folder, &info.id), &mut |record| {
                    last = step_of(record).max(last);
                    true
                })?;
                WandbRun::create(parent, info, last)
            }
            None => WandbRun::create(parent, info, None),
        }
    }

    fn create(parent: &Path, info: &WandbInfo, last: Option<u64>) -> Result<WandbRun> {
        let folder = new_folder(parent, &info.id)?;
        let file = RecordFile::create(&file_of(&folder, &info.id))?;
        let started = SystemTime::now();
        let (num, pending, summary) = (1, None, BTreeMap::new());
        let mut run = WandbRun { file, folder, num, started, pending, last, summary };
        let version_info = VersionInfo {
            producer: format!("srgan {}", env!("CARGO_PKG_VERSION")),
            min_consumer: MIN_CONSUMER.to_owned(),
        };
        run.append(RecordType::Header(HeaderRecord { version_info: Some(version_info) }))?;
        run.append(RecordType::Run(Box::new(run_record(info, started, last))))?;
        Ok(run)
    }

    /// Goes on in the file, after its steps before `from_step`.
    fn resume(folder: PathBuf, info: &WandbInfo, from_step: u64) -> Result<WandbRun> {
        let (mut num, mut last, mut started, mut summary) = (1, None, SystemTime::now(), BTreeMap::new());
        let file = RecordFile::resume(&file_of(&folder, &info.id), |record| {
            match &record.record_type {
                Some(RecordType::Run(run)) => started = run.start_time.as_ref().map_or(started, time_of),
                Some(RecordType::History(history)) => {
                    if step_of(record).is_some_and(|step| step >= from_step) {
                        return false;
                    }
                    last = step_of(record);
                    let one = |item: &Item| Some((item.nested_key.first()?.clone(), (item.value_json.clone(), false)));
                    summary.extend(history.item.iter().filter(|item| item.nested_key.len() == 1).filter_map(one));
                }
                Some(RecordType::Exit(_)) => return false,
                _ => {}
            }
            num = record.num + 1;
            true
        })?;
        Ok(WandbRun { file, folder, num, started, pending: None, last, summary })
    }

    /// The last step of which the run has values.
    pub(super) fn last_step(&self) -> Option<u64> {
        self.last
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds the values of a step.
    pub(super) fn row<'a>(
        &mut self,
        step: u64,
        epoch: u64,
        values: impl Iterator<Item = (&'a str, Scalar)>,
    ) -> Result<()> {
        let values: Vec<(&str, String)> = values.map(|(name, value)| (name, json(value))).collect();
        let values = values.into_iter().chain([("epoch", epoch.to_string())]);
        let items: Vec<Item> = values.map(|(name, value)| Item::below(&[name], value)).collect();
        self.add(step, items)
    }

    /// Adds the panels of a validation, a picture an image.
    pub(super) fn panels(&mut self, step: u64, rows: &[Picture]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let media = self.folder.join("files").join("media").join("images");
        fs::create_dir_all(&media).map_err(|e| Error::io("make folder", &media, e))?;
        let mut names = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().enumerate() {
            let png = row.to_png()?;
            let name = format!("{PANELS}_{step}_{number}_{:08x}.png", crc32fast::hash(&png));
            write_atomic(&media.join(&name), |out| out.write_all(&png))?;
            names.push(format!("media/images/{name}"));
        }
        let files = names.iter().map(|path| FilesItem { path: path.clone(), file_type: MEDIA }).collect();
        self.append(RecordType::Files(FilesRecord { files }))?;
        let entries = [
            ("_type", serde_json::json!("images/separated")),
            ("format", serde_json::json!("png")),
            ("count", serde_json::json!(names.len())),
            ("width", serde_json::json!(first.width())),
            ("height", serde_json::json!(first.height())),
            ("filenames", serde_json::json!(names)),
        ];
        self.add(step, entries.map(|(key, value)| Item::below(&[PANELS, key], value.to_string())).into())
    }

    fn add(&mut self, step: u64, items: Vec<Item>) -> Result<()> {
        if self.pending.as_ref().is_none_or(|pending| pending.step != step) {
            if self.last.is_some_and(|last| step <= last) {
                // A run that continues repeats what may be missing; this is there.
                return Ok(());
            }
            self.write_pending()?;
        }
        self.last = Some(step);
        let pending = self.pending.get_or_insert_with(|| Step { step, items: Vec::new() });
        for item in items {
            if let [name] = item.nested_key.as_slice() {
                self.summary.insert(name.clone(), (item.value_json.clone(), false));
            }
            pending.items.retain(|known| known.nested_key != item.nested_key);
            pending.items.push(item);
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        let Some(Step { step, mut items }) = self.pending.take() else { return Ok(()) };
        let now = SystemTime::now();
        let seconds = |since: SystemTime| now.duration_since(since).unwrap_or_default().as_secs_f64();
        items.push(Item::below(&["_timestamp"], format!("{:?}", seconds(UNIX_EPOCH))));
        items.push(Item::below(&["_runtime"], format!("{:?}", seconds(self.started))));
        items.push(Item::below(&["_step"], step.to_string()));
        let step = HistoryStep { num: step as i64 };
        self.append(RecordType::History(HistoryRecord { item: items, step: Some(step) }))
    }

    /// Waits until all steps but the last are on the disk; whether the file had to be put back first. That one is taken
    /// from `metrics.csv` if the run ends without its end.
    pub(super) fn sync(&mut self) -> Result<bool> {
        let changed = |(name, (value, written)): (&String, &mut (String, bool))| {
            (!std::mem::replace(written, true)).then(|| Item::of(name, value.clone()))
        };
        let update: Vec<Item> = self.summary.iter_mut().filter_map(changed).collect();
        if !update.is_empty() {
            self.append(RecordType::Summary(SummaryRecord { update }))?;
        }
        self.file.sync()
    }

    /// Says that the run has ended.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.write_pending()?;
        self.sync()?;
        let runtime = self.started.elapsed().unwrap_or_default().as_secs().try_into().unwrap_or(i32::MAX);
        self.append(RecordType::Exit(RunExitRecord { exit_code: 0, runtime }))?;
        self.file.sync().map(|_| ())
    }

    fn append(&mut self, record_type: RecordType) -> Result<()> {
        self.file.append(&Record { num: self.num, record_type: Some(record_type) })?;
        self.num += 1;
        Ok(())
    }
}

/// A new id of eight letters and digits.
pub fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = (now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let digit = |place: u32| char::from_digit((mixed >> (8 * place)) as u32 % 36, 36).unwrap_or('0');
    (0..8).map(digit).collect()
}

fn run_record(info: &WandbInfo, started: SystemTime, last: Option<u64>) -> RunRecord {
    let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_time = Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 };
    let update = info.config.iter().map(|(key, value)| Item::of(key, value.to_string())).collect();
    RunRecord {
        run_id: info.id.clone(),
        entity: info.entity.clone(),
        project: info.project.clone(),
        config: Some(ConfigRecord { update }),
        run_group: info.group.clone(),
        job_type: info.job_type.clone(),
        display_name: info.name.clone(),
        notes: info.notes.clone(),
        tags: info.tags.clone(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        starting_step: last.map_or(0, |last| last as i64 + 1),
        start_time: Some(start_time),
        resumed: last.is_some(),
    }
}

/// The step of a history record.
fn step_of(record: &Record) -> Option<u64> {
    match &record.record_type {
        Some(RecordType::History(history)) => history.step.as_ref()?.num.try_into().ok(),
        _ => None,
    }
}

fn time_of(stamp: &Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::new(stamp.seconds.max(0) as u64, stamp.nanos.max(0) as u32)
}

/// A value as Python's JSON has it, which Weights & Biases reads.
fn json(value: Scalar) -> String {
    match value.to_string().as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("run-{id}.wandb"))
}

/// Whether `wandb sync` has uploaded the run: it leaves a mark.
fn was_uploaded(folder: &Path, id: &str) -> bool {
    folder.join(format!("run-{id}.wandb.synced")).exists()
}

/// The newest folder of the run, by its name.
fn newest(parent: &Path, id: &str) -> Option<PathBuf> {
    let ending = format!("-{id}");
    let names = fs::read_dir(parent).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let of_run = names.filter(|name| name.starts_with("offline-run-") && name.ends_with(&ending));
    of_run.map(|name| parent.join(name)).filter(|folder| file_of(folder, id).is_file()).max()
}

/// Makes the folder of a run that begins now.
fn new_folder(parent: &Path, id: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|e| Error::io("make folder", parent, e))?;
    let mut time = local_time();
    loop {
        let folder = parent.join(format!("offline-run-{}-{id}", time.strftime("%Y%m%d_%H%M%S")));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            // Two runs of one second: the name of the next one is free.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                time = time.saturating_add(jiff::SignedDuration::from_secs(1));
            }
            Err(e) => return Err(Error::io("make folder", &folder, e)),
        }
    }
}

#[cfg(test)]
mod tests;
