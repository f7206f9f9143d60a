//! The frame of a `.wandb` file: a header of seven bytes, then records in the log format of LevelDB. Blocks have 32 KiB; a
//! record that does not fit into what is left of one goes on in the next, and each part has a checksum of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::Path;

use prost::Message;

use super::proto::Record;
use crate::log::append::AppendFile;
use crate::{Error, Result};

/// `:W&B`, 0xBEE1 in little endian, version 0.
const HEADER: [u8; 7] = *b":W&B\xe1\xbe\x00";
const BLOCK: u64 = 32 << 10;
/// Checksum, length and kind of a part.
const PART_HEADER: usize = 7;
/// Records that a reader takes for damage rather than for what somebody wrote.
const LARGEST: usize = 256 << 20;

/// Kinds of a part: the whole of a record, its first, one in the middle, its last.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// A `.wandb` file that grows.
#[derive(Debug)]
pub(super) struct RecordFile {
    file: AppendFile,
}

impl RecordFile {
    /// Begins a file.
    pub fn create(path: &Path) -> Result<RecordFile> {
        let mut file = AppendFile::open(path)?;
        file.append(&HEADER)?;
        Ok(RecordFile { file })
    }

    /// Goes on with a file whose records satisfy `keep`; the first that does not, and what a kill has left unfinished, is
    /// cut off with all that follows. Calls `keep` once a record.
    ///
    /// # Errors
    /// If the file cannot be read or does not begin as a `.wandb` file does.
    pub fn resume(path: &Path, mut keep: impl FnMut(&Record) -> bool) -> Result<RecordFile> {
        let end = RecordFile::read(path, &mut keep)?;
        let file = OpenOptions::new().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        file.set_len(end).map_err(|e| Error::io("shorten", path, e))?;
        Ok(RecordFile { file: AppendFile::open(path)? })
    }

    /// Calls `keep` with each record up to the first that does not satisfy it; where that begins, or what is unfinished.
    ///
    /// # Errors
    /// As [`RecordFile::resume`].
    pub fn read(path: &Path, keep: &mut dyn FnMut(&Record) -> bool) -> Result<u64> {
        let failed = |action| move |e| Error::io(action, path, e);
        let file = File::open(path).map_err(failed("open"))?;
        let mut reader = Reader::open(BufReader::new(file)).map_err(failed("read"))?;
        let mut end = reader.position;
        while reader.next().map_err(failed("read"))?.is_some_and(|record| keep(&record)) {
            end = reader.position;
        }
        Ok(end)
    }

    /// Adds a record.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let mut bytes = Vec::new();
        frame(&record.encode_to_vec(), self.file.end(), &mut bytes);
        self.file.append(&bytes)
    }

    /// See [`AppendFile::sync`].
    pub fn sync(&mut self) -> Result<bool> {
        self.file.sync()
    }
}

/// Appends `data` to `out` as the parts of a record that begins at byte `position` of a file.
fn frame(mut data: &[u8], mut position: u64, out: &mut Vec<u8>) {
    let mut first = true;
    loop {
        let left = (BLOCK - position % BLOCK) as usize;
        if left < PART_HEADER {
            out.resize(out.len() + left, 0);
            position += left as u64;
            continue;
        }
        let (part, rest) = data.split_at(data.len().min(left - PART_HEADER));
        let kind = match (first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        out.extend_from_slice(&checksum(kind, part).to_le_bytes());
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(part);
        if rest.is_empty() {
            return;
        }
        position += (PART_HEADER + part.len()) as u64;
        (data, first) = (rest, false);
    }
}

fn checksum(kind: u8, part: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(part);
    hasher.finalize()
}

/// Reads records up to the file's end, or up to what is damaged.
struct Reader<R> {
    input: R,
    position: u64,
}

impl<R: Read> Reader<R> {
    fn open(mut input: R) -> io::Result<Reader<R>> {
        let mut header = [0; HEADER.len()];
        input.read_exact(&mut header)?;
        if header != HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no .wandb file"));
        }
        Ok(Reader { input, position: HEADER.len() as u64 })
    }

    /// The next record; none at the end, or where the file is cut or damaged.
    fn next(&mut self) -> io::Result<Option<Record>> {
        let (mut data, mut begun) = (Vec::new(), false);
        loop {
            let left = BLOCK - self.position % BLOCK;
            if left < PART_HEADER as u64 {
                self.fill(&mut vec![0; left as usize])?;
                continue;
            }
            let mut header = [0; PART_HEADER];
            if !self.fill(&mut header)? {
                return Ok(None);
            }
            let [a, b, c, d, low, high, kind] = header;
            let mut part = vec![0; u16::from_le_bytes([low, high]).into()];
            let whole = self.fill(&mut part)? && u32::from_le_bytes([a, b, c, d]) == checksum(kind, &part);
            let begins = matches!(kind, FULL | FIRST);
            if !whole || begins == begun || data.len() + part.len() > LARGEST {
                return Ok(None);
            }
            data.append(&mut part);
            begun = true;
            if matches!(kind, FULL | LAST) {
                return Ok(Record::decode(data.as_slice()).ok());
            }
        }
    }

    /// Whether so many bytes were there.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        self.position += bytes.len() as u64;
        match self.input.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{HistoryRecord, Item, RecordType};
    use super::*;

    fn record(num: i64, len: usize) -> Record {
        let item = vec![Item::of("a", "7".repeat(len))];
        Record { num, record_type: Some(RecordType::History(HistoryRecord { item, step: None })) }
    }

    fn records(path: &Path) -> Vec<Record> {
        let mut reader = Reader::open(File::open(path).unwrap()).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn records_of_any_length_cross_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.wandb");
        let mut file = RecordFile::create(&path).unwrap();
        // Some end in the last bytes of a block, where no header of a part has room.
        let lens = [10, 32_700, 1, 40_000, 100_000].into_iter().chain(32_690..32_760);
        let want: Vec<Record> = (1..).zip(lens).map(|(num, len)| record(num, len)).collect();
        want.iter().for_each(|record| file.append(record).unwrap());
        assert_eq!(records(&path), want);
    }

    #[test]
    fn a_file_goes_on_before_what_is_cut_or_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.wandb");
        let mut file = RecordFile::create(&path).unwrap();
        (1..=4).for_each(|num| file.append(&record(num, 20_000)).unwrap());
        drop(file);
        let len = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
        let mut file = RecordFile::resume(&path, |_| true).unwrap();
        file.append(&record(9, 5)).unwrap();
        assert_eq!(records(&path).iter().map(|r| r.num).collect::<Vec<_>>(), [1, 2, 3, 9]);
        let mut file = RecordFile::resume(&path, |record| record.num < 3).unwrap();
        file.append(&record(10, 70_000)).unwrap();
        assert_eq!(records(&path).iter().map(|r| r.num).collect::<Vec<_>>(), [1, 2, 10]);
        std::fs::write(&path, "step,epoch\n").unwrap();
        let error = RecordFile::resume(&path, |_| true).unwrap_err().to_string();
        assert!(error.contains("no .wandb file"), "{error}");
    }
}
