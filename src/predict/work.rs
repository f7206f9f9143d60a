//! The working file of a map: finished rows of windows, uncompressed, and a journal of them. A run that is killed at any
//! moment goes on behind the last finished row; the map is made of the file at the end. A shard of a job array is such a
//! file with some of the rows.
//!
//! ```text
//! "SRGANMAP" | length of the header | its CRC-32C | header (JSON) | journal: 8 bytes a unit | records, one a unit
//! ```
//! A unit is a row of windows. Its record holds a byte for each input pixel (0 if it has no value), then its rows of the
//! map from top to bottom: as they will be in the map, or as floats where they are not final, because they are blended
//! with those of the next unit or matched. A record is on the disk before its journal entry is written, which is its
//! CRC-32C and a checksum of both.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::axis::scaled;
use super::job::Job;
use crate::files::{advice, folder_of, open_regular};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"SRGANMAP";
/// Bytes before the header.
const HEAD: u64 = 16;
/// Longest header that is read.
const MAX_HEADER: u64 = 64 << 20;
/// Records start at multiples of this.
const ALIGN: u64 = 4096;

/// The first part of a working file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    job: Job,
    /// The units of the file.
    units: Range<usize>,
}

/// An open working file.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    file: File,
    /// What the map is made of.
    pub job: Job,
    /// The rows of windows in this file.
    pub units: Range<usize>,
    /// Where the journal starts.
    journal: u64,
    /// Where each record starts, and where the last ends.
    records: Vec<u64>,
    done: Vec<bool>,
}

/// What a record holds, and where.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Its input rows.
    pub input: Range<usize>,
    /// Its rows of the map.
    pub rows: Range<usize>,
    /// Those of them that are final.
    finals: Range<usize>,
    /// Bytes of the mask, of a row of floats and of a final row.
    mask: u64,
    floats: u64,
    values: u64,
}

impl Record {
    /// The record of unit `unit`.
    pub fn of(job: &Job, unit: usize) -> Record {
        let (input, scale) = (job.rows.span(unit), job.scale);
        let rows = scaled(&input, scale);
        let own = scaled(&(job.rows.zone_before(unit).end..job.rows.zone_after(unit).start), scale);
        let finals = if job.target.is_none() { own } else { rows.start..rows.start };
        let (_, width) = job.size();
        let mask = (input.len() * job.columns.len) as u64;
        let floats = (width * job.bands.len() * size_of::<f32>()) as u64;
        Record { input, rows, finals, mask, floats, values: (width * job.pixel_bytes()) as u64 }
    }

    /// Whether a row is as it will be in the map.
    pub fn is_final(&self, row: usize) -> bool {
        self.finals.contains(&row)
    }

    /// Where a row starts in the record.
    fn row_at(&self, row: usize) -> u64 {
        let before = (row - self.rows.start) as u64;
        let finals = (row.min(self.finals.end).saturating_sub(self.finals.start)) as u64;
        self.mask + (before - finals) * self.floats + finals * self.values
    }

    fn bytes(&self) -> u64 {
        self.row_at(self.rows.end)
    }
}

impl Work {
    /// Makes a working file for units of a job, or goes on with the one at `path` if `resume`.
    ///
    /// # Errors
    /// If there is one already and it is not to be resumed or belongs to something else; if another process uses it; if
    /// it cannot be written, or the disk has no room for it.
    pub fn create(path: &Path, job: Job, units: Range<usize>, resume: bool) -> Result<Work> {
        if path.exists() && resume {
            let mut work = Work::open(path, true)?;
            if let Some(what) = work.job.difference(&job) {
                let message = format!("an unfinished map is here that was made of other things: {what} differ");
                return Err(Error::data(path, message).with_hint("start over with --overwrite, or name another output"));
            }
            if work.units != units {
                return Err(Error::data(path, "an unfinished map is here with other parts")
                    .with_hint("start over with --overwrite"));
            }
            work.verify()?;
            return Ok(work);
        }
        if let Ok(before) = File::open(path) {
            lock(&before, path)?;
        }
        // Whole or not at all: a kill leaves no file that cannot be resumed.
        let new = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&new).map_err(|e| failed("create", &new, e))?;
        lock(&file, path)?;
        Work::begin(&new, file, path, Header { job, units }).inspect_err(|_| {
            // The first error is the one worth reporting.
            let _ = std::fs::remove_file(&new);
        })
    }

    /// Fills the empty working file `new`, which then is `path`.
    fn begin(new: &Path, file: File, path: &Path, header: Header) -> Result<Work> {
        let write = |e| failed("write", new, e);
        file.set_len(0).map_err(write)?;
        let text = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
        let mut head = MAGIC.to_vec();
        head.extend((text.len() as u32).to_le_bytes());
        head.extend(crc32c::crc32c(&text).to_le_bytes());
        head.extend(&text);
        let work = Work::of(path, file, header, text.len() as u64);
        work.check_room()?;
        work.file.write_all_at(&head, 0).map_err(write)?;
        work.file.set_len(work.records[work.units.len()]).map_err(write)?;
        work.file.sync_all().map_err(write)?;
        std::fs::rename(new, path).map_err(write)?;
        Ok(work)
    }

    /// Opens a working file, for writing if `change`.
    ///
    /// # Errors
    /// If it is none or damaged, or another process uses it.
    pub fn open(path: &Path, change: bool) -> Result<Work> {
        let broken = |what: &str| Error::data(path, format!("not a working file of srgan predict: {what}"));
        // A pipe would be waited for.
        let opened = open_regular(path).and_then(|_| OpenOptions::new().read(true).write(change).open(path));
        let file = opened.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::data(path, "there is no such file"),
            ErrorKind::InvalidInput => broken(&e.to_string()),
            _ => failed("open", path, e),
        })?;
        if change {
            lock(&file, path)?;
        }
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0).map_err(|_| broken("it is too short"))?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, crc) = (u64::from(number(8)), number(12));
        if &head[..8] != MAGIC || length > MAX_HEADER {
            return Err(broken("it begins otherwise"));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, HEAD).map_err(|_| broken("it is cut off"))?;
        if crc32c::crc32c(&text) != crc {
            return Err(broken("its header is damaged"));
        }
        let header: Header =
            serde_json::from_slice(&text).map_err(|e| broken(&format!("its header is of another version ({e})")))?;
        if header.job.rows.count() < header.units.end {
            return Err(broken("its header is damaged"));
        }
        let mut work = Work::of(path, file, header, length);
        let mut journal = vec![0; 8 * work.units.len()];
        work.file.read_exact_at(&mut journal, work.journal).map_err(|_| broken("it is cut off"))?;
        for (number, entry) in journal.chunks_exact(8).enumerate() {
            work.done[number] = entry == work.entry(work.units.start + number, crc_of(entry));
        }
        Ok(work)
    }

    fn of(path: &Path, file: File, Header { job, units }: Header, header_len: u64) -> Work {
        let journal = (HEAD + header_len).next_multiple_of(8);
        let mut records = vec![(journal + 8 * units.len() as u64).next_multiple_of(ALIGN)];
        for unit in units.clone() {
            let end = records[records.len() - 1] + Record::of(&job, unit).bytes();
            records.push(end.next_multiple_of(ALIGN));
        }
        let done = vec![false; units.len()];
        Work { path: path.into(), file, job, units, journal, records, done }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a unit is finished.
    pub fn is_done(&self, unit: usize) -> bool {
        self.done[unit - self.units.start]
    }

    /// Refuses what the disk has no room for: this file, and the overviews made of it.
    fn check_room(&self) -> Result<()> {
        let folder = folder_of(&self.path);
        let Ok(room) = rustix::fs::statvfs(folder) else { return Ok(()) };
        let (free, wanted) = (room.f_bavail.saturating_mul(room.f_frsize), self.records[self.units.len()]);
        let wanted = wanted + wanted / 3;
        if wanted <= free {
            return Ok(());
        }
        let [wanted, free] = [wanted, free].map(|bytes| bytes >> 20);
        let message = format!("the map needs {wanted} MiB of working space here, and the disk has {free} MiB free");
        Err(Error::data(folder, message).with_hint("free some, or name an output on another disk"))
    }

    /// Forgets finished units whose record is not what was written.
    fn verify(&mut self) -> Result<()> {
        for number in 0..self.units.len() {
            if self.done[number] {
                let unit = self.units.start + number;
                let mut entry = [0; 8];
                self.file
                    .read_exact_at(&mut entry, self.journal + 8 * number as u64)
                    .map_err(|e| failed("read", &self.path, e))?;
                self.done[number] = self.record_crc(unit).is_ok_and(|crc| crc == crc_of(&entry));
            }
        }
        Ok(())
    }

    /// Refuses a file in which a unit is unfinished or damaged.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check_complete(&mut self) -> Result<()> {
        if self.done.contains(&false) {
            return Err(Error::data(&self.path, "this part is not finished")
                .with_hint("finish it with the same command and --resume"));
        }
        self.verify()?;
        match self.done.contains(&false) {
            true => Err(Error::data(&self.path, "this part is damaged").with_hint("copy it again, or make it anew")),
            false => Ok(()),
        }
    }

    fn record_at(&self, unit: usize) -> u64 {
        self.records[unit - self.units.start]
    }

    /// Writes the mask of a unit: a byte for each of its input pixels.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_mask(&self, unit: usize, mask: &[u8]) -> Result<()> {
        self.write(self.record_at(unit), mask)
    }

    /// Writes a part of a row of the map, from `column` on: final values or floats, as the record has it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_row(&self, unit: usize, record: &Record, (row, column): (usize, usize), bytes: &[u8]) -> Result<()> {
        self.write(self.record_at(unit) + record.row_at(row) + self.column_at(record, row, column), bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| failed("write", &self.path, e))
    }

    fn column_at(&self, record: &Record, row: usize, column: usize) -> u64 {
        let pixel = if record.is_final(row) { self.job.pixel_bytes() } else { self.job.bands.len() * size_of::<f32>() };
        (column * pixel) as u64
    }

    /// Reads a part of a row of the map, from `column` on.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_row(
        &self,
        unit: usize,
        record: &Record,
        (row, column): (usize, usize),
        bytes: &mut [u8],
    ) -> Result<()> {
        let at = self.record_at(unit) + record.row_at(row) + self.column_at(record, row, column);
        self.file.read_exact_at(bytes, at).map_err(|e| failed("read", &self.path, e))
    }

    /// Reads a part of the mask, of input row `row` from input column `column` on.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_mask(
        &self,
        unit: usize,
        record: &Record,
        (row, column): (usize, usize),
        mask: &mut [u8],
    ) -> Result<()> {
        let at = self.record_at(unit) + ((row - record.input.start) * self.job.columns.len + column) as u64;
        self.file.read_exact_at(mask, at).map_err(|e| failed("read", &self.path, e))
    }

    /// Notes that a unit is finished, once it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&mut self, unit: usize) -> Result<()> {
        let failed = |e| failed("write", &self.path, e);
        let crc = self.record_crc(unit)?;
        self.file.sync_data().map_err(failed)?;
        let number = unit - self.units.start;
        self.file.write_all_at(&self.entry(unit, crc), self.journal + 8 * number as u64).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.done[number] = true;
        Ok(())
    }

    fn record_crc(&self, unit: usize) -> Result<u32> {
        let mut at = self.record_at(unit);
        let mut left = Record::of(&self.job, unit).bytes();
        let (mut block, mut crc) = (vec![0; 1 << 20], 0);
        while left > 0 {
            let part = &mut block[..left.min(1 << 20) as usize];
            self.file.read_exact_at(part, at).map_err(|e| failed("read", &self.path, e))?;
            crc = crc32c::crc32c_append(crc, part);
            (at, left) = (at + part.len() as u64, left - part.len() as u64);
        }
        Ok(crc)
    }

    /// A journal entry: never all zeros, which an entry is before it is written.
    fn entry(&self, unit: usize, crc: u32) -> [u8; 8] {
        let mut both = (unit as u64 + 1).to_le_bytes().to_vec();
        both.extend(crc.to_le_bytes());
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&crc.to_le_bytes());
        entry[4..].copy_from_slice(&crc32c::crc32c(&both).max(1).to_le_bytes());
        entry
    }
}

fn crc_of(entry: &[u8]) -> u32 {
    u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]])
}

/// An error of the operating system, with what to do about it.
pub(super) fn failed(action: &'static str, path: &Path, e: io::Error) -> Error {
    let advice = advice(e.kind());
    if advice.is_empty() {
        return Error::io(action, path, e);
    }
    Error::io(action, path, io::Error::new(e.kind(), format!("{e}; free some space or choose another folder")))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::data(path, "another process is making this map").with_hint("wait for it or stop it"))
        }
        // Some network file systems have no locks.
        Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => Err(failed("lock", path, e)),
        _ => Ok(()),
    }
}
