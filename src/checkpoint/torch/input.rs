//! A bounded stretch of a file, read in order.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::{Error, Result};

/// Bytes from one place of a file to another; nothing beyond is read, nothing larger is allocated.
pub struct Input<'a> {
    path: &'a Path,
    file: &'a mut BufReader<File>,
    at: u64,
    end: u64,
    what: &'static str,
}

impl<'a> Input<'a> {
    /// The bytes `start..end` of a file, called `what` in errors.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(
        path: &'a Path,
        file: &'a mut BufReader<File>,
        (start, end): (u64, u64),
        what: &'static str,
    ) -> Result<Self> {
        file.seek(SeekFrom::Start(start)).map_err(|e| Error::io("read", path, e))?;
        Ok(Input { path, file, at: start, end, what })
    }

    /// Where in the file the next byte is.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|e| Error::io("read", self.path, e))?;
        Ok(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.take(len)?;
        let mut bytes = vec![0; len as usize];
        self.file.read_exact(&mut bytes).map_err(|e| Error::io("read", self.path, e))?;
        Ok(bytes)
    }

    /// Passes over `len` bytes.
    pub fn skip(&mut self, len: u64) -> Result<()> {
        self.take(len)?;
        // What was taken lies within the file, whose length fits.
        self.file.seek_relative(len as i64).map_err(|e| Error::io("read", self.path, e))
    }

    /// The bytes before the next line feed, which is passed over.
    pub fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                byte => line.push(byte),
            }
        }
    }

    /// The error that something before the present position makes no sense.
    pub fn damaged(&self, why: &str) -> Error {
        damaged(self.path, format!("{} before byte {}: {why}", self.what, self.at))
    }

    fn take(&mut self, len: u64) -> Result<()> {
        if len > self.end.saturating_sub(self.at) {
            return Err(damaged(self.path, format!("{} does not end before byte {}", self.what, self.end)));
        }
        self.at += len;
        Ok(())
    }
}

/// The error that a file is incomplete or makes no sense.
pub fn damaged(path: &Path, detail: impl std::fmt::Display) -> Error {
    Error::checkpoint(path, format!("the file is cut short or damaged ({detail})")).with_hint("copy it again")
}
