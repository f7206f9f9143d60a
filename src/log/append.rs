//! A file that grows by whole records.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files::{advice, temporary_name};
use crate::{Error, Result};

/// A file written at its end. An append that fails (a full disk) takes its partial record back, so that the
/// file always ends with a whole one.
#[derive(Debug)]
pub(super) struct AppendFile {
    file: File,
    path: PathBuf,
    end: u64,
}

impl AppendFile {
    /// Opens or makes the file and goes to its end.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let end = file.metadata()?.len();
            Ok((file, end))
        };
        let (file, end) = open().map_err(|e| Error::io("open", path, e))?;
        Ok(AppendFile { file, path: path.into(), end })
    }

    /// Length of the whole records in bytes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds a record.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<()> {
        self.replace_last(self.end, &[], record)
    }

    /// Replaces the last record `old`, which begins at `start`, by `new`; on an error `old` is put back.
    pub(super) fn replace_last(&mut self, start: u64, old: &[u8], new: &[u8]) -> Result<()> {
        let end = start + new.len() as u64;
        let written = self.write_at(start, new).and_then(|()| match end < self.end {
            true => self.file.set_len(end),
            false => Ok(()),
        });
        if let Err(e) = written {
            // The space of the old record is still allocated, so this succeeds even where the disk is full;
            // if it does not, the first error is still the one to report.
            let _ = self.write_at(start, old).and_then(|()| self.file.set_len(self.end));
            return Err(self.error("write", &e));
        }
        self.end = end;
        Ok(())
    }

    /// Makes everything written so far survive a power cut. Whether it had to be put back first: somebody has removed or
    /// replaced the file while it was written.
    pub(super) fn sync(&mut self) -> Result<bool> {
        let restored = self.restore().map_err(|e| self.error("restore", &e))?;
        self.file.sync_data().map_err(|e| self.error("sync", &e))?;
        Ok(restored)
    }

    /// Writes the file anew where its path no longer names it. The open file still holds everything.
    fn restore(&mut self) -> io::Result<bool> {
        let identity = |meta: &Metadata| (meta.dev(), meta.ino());
        match fs::metadata(&self.path) {
            Ok(named) if identity(&named) == identity(&self.file.metadata()?) => return Ok(false),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let temporary = temporary_name(&self.path);
        fs::copy(open, &temporary)?;
        fs::rename(&temporary, &self.path)?;
        self.file = OpenOptions::new().write(true).open(&self.path)?;
        Ok(true)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }

    fn error(&self, action: &'static str, e: &io::Error) -> Error {
        let text = format!("{e}; what was written before is kept{}", advice(e.kind()));
        Error::io(action, &self.path, io::Error::new(e.kind(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{limit_file_size, run_child, task};

    /// Writes two records to the file of its task, and meets a full disk in the middle of the next one; run
    /// by the test below in a process of its own.
    #[test]
    #[ignore = "a part of another test"]
    fn child() {
        let Some(path) = task() else { return };
        limit_file_size(10);
        let mut file = AppendFile::open(Path::new(&path)).unwrap();
        file.append(b"one\n").unwrap();
        file.append(b"two\n").unwrap();
        file.append(b"three\n").unwrap_err();
        file.replace_last(4, b"two\n", b"changed\n").unwrap_err();
        file.append(b"4\n").unwrap();
    }

    #[test]
    fn a_disk_full_within_a_record_leaves_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (code, text) = run_child("log::append::tests::child", path.to_str().unwrap());
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n4\n");
    }

    #[test]
    fn records_are_added_and_the_last_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = AppendFile::open(&path).unwrap();
        file.append(b"one\n").unwrap();
        file.append(b"second\n").unwrap();
        file.replace_last(4, b"second\n", b"two\n").unwrap();
        assert_eq!(file.end(), 8);
        drop(file);
        AppendFile::open(&path).unwrap().append(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_removed_or_replaced_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = AppendFile::open(&path).unwrap();
        file.append(b"one\n").unwrap();
        assert!(!file.sync().unwrap());
        fs::remove_file(&path).unwrap();
        file.append(b"two\n").unwrap();
        assert!(file.sync().unwrap());
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, b"another's").unwrap();
        file.append(b"three\n").unwrap();
        assert!(file.sync().unwrap());
        file.append(b"four\n").unwrap();
        assert!(!file.sync().unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_says_what_to_do() {
        let mut file = AppendFile::open(Path::new("/dev/full")).unwrap();
        let error = file.append(b"row").unwrap_err().to_string();
        for part in ["/dev/full", "No space left", "is kept", "free some space"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
