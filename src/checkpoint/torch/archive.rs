//! Where the members of a zip archive lie: its central directory, with the 64-bit fields that torch writes beyond
//! 4 GiB. Members are not unpacked, as torch stores them as they are.
//!
//! The reader is our own because that of the `zip` crate reserves memory for as many entries as the end record claims,
//! up to one for each byte of the file, and reads a directory of any length. A hostile file must cost neither: here the
//! directory is refused beyond [`MAX_DESCRIPTION`] bytes before any of it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::MAX_DESCRIPTION;
use super::input::{Input, damaged};
use crate::Result;

/// Signature of the record that ends an archive, and its length without the comment.
const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: u64 = 22;
/// Lengths of the records that lead to the 64-bit end record.
const LOCATOR_LEN: u64 = 20;
const END_64_LEN: u64 = 56;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: u64 = 30;

/// A member of an archive.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Neither compressed nor encrypted.
    pub stored: bool,
    /// Bytes in the archive.
    pub len: u64,
    /// CRC-32 of its data; 0 where the writer has left it out, as torch can.
    pub crc: u32,
    /// Where the header lies that precedes the data.
    header: u64,
}

/// The central directory of an archive.
#[derive(Debug)]
pub struct Archive {
    members: HashMap<String, Member>,
    /// Names in the order of the directory.
    names: Vec<String>,
}

impl Archive {
    /// Reads the directory of a file of `size` bytes.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if there is none, or it makes no sense.
    pub fn open(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<Self> {
        let (start, len) = directory(path, file, size)?;
        let end = start.checked_add(len).filter(|end| *end <= size);
        let end = end.ok_or_else(|| damaged(path, "the archive's directory lies outside of the file"))?;
        if len > MAX_DESCRIPTION {
            return Err(damaged(path, format!("the archive's directory has {len} bytes")));
        }
        let bytes = Input::new(path, file, (start, end), "the archive's directory")?.bytes(len)?;
        let mut archive = Archive { members: HashMap::new(), names: Vec::new() };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (name, member, length) =
                entry(rest).ok_or_else(|| damaged(path, "the archive's directory makes no sense"))?;
            rest = &rest[length..];
            if archive.members.insert(name.clone(), member).is_none() {
                archive.names.push(name);
            }
        }
        Ok(archive)
    }

    /// The member `name`.
    pub fn get(&self, name: &str) -> Option<Member> {
        self.members.get(name).copied()
    }

    /// The folder in which `name` lies, with its slash: torch names it as the file, or `archive`.
    pub fn folder_of(&self, name: &str) -> Option<&str> {
        self.names.iter().find_map(|full| {
            let (folder, last) = full.split_at(full.rfind('/').map_or(0, |i| i + 1));
            (last == name && folder.matches('/').count() <= 1).then_some(folder)
        })
    }
}

impl Member {
    /// Where the data begin, and where they end.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if they do not lie within the file.
    pub fn locate(&self, path: &Path, file: &mut BufReader<File>, size: u64) -> Result<(u64, u64)> {
        let wrong = || damaged(path, format!("at byte {} there is no member of the archive", self.header));
        let end = self.header.checked_add(LOCAL_LEN).filter(|end| *end <= size).ok_or_else(wrong)?;
        let header: [u8; LOCAL_LEN as usize] = Input::new(path, file, (self.header, end), "the archive")?.array()?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(wrong());
        }
        let start = end + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let end = start.checked_add(self.len).filter(|end| *end <= size).ok_or_else(wrong)?;
        Ok((start, end))
    }
}

/// Start and length of the central directory.
fn directory(path: &Path, file: &mut BufReader<File>, size: u64) -> Result<(u64, u64)> {
    let none = || damaged(path, "the zip archive has no end record");
    // The end record is followed by a comment of up to 65535 bytes.
    let tail_start = size.saturating_sub(END_LEN + u64::from(u16::MAX));
    let tail = Input::new(path, file, (tail_start, size), "the archive")?.bytes(size - tail_start)?;
    let last = tail.len().checked_sub(END_LEN as usize).ok_or_else(none)?;
    let at = (0..=last).rev().find(|&i| tail[i..].starts_with(END)).ok_or_else(none)?;
    let end = &tail[at..];
    let (len, start) = (u32_at(end, 12), u32_at(end, 16));
    if len != u32::MAX && start != u32::MAX && u16_at(end, 10) != u16::MAX {
        return Ok((start.into(), len.into()));
    }
    let locator = (tail_start + at as u64).checked_sub(LOCATOR_LEN).ok_or_else(none)?;
    let locator: [u8; LOCATOR_LEN as usize] =
        Input::new(path, file, (locator, locator + LOCATOR_LEN), "the archive")?.array()?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok((start.into(), len.into()));
    }
    let start = u64_at(&locator, 8);
    let end = start.checked_add(END_64_LEN).filter(|end| *end <= size).ok_or_else(none)?;
    let end: [u8; END_64_LEN as usize] = Input::new(path, file, (start, end), "the archive")?.array()?;
    if !end.starts_with(b"PK\x06\x06") {
        return Err(none());
    }
    Ok((u64_at(&end, 48), u64_at(&end, 40)))
}

/// The first entry of a central directory, and its length; `None` if there is none.
fn entry(bytes: &[u8]) -> Option<(String, Member, usize)> {
    if bytes.len() < ENTRY_LEN || !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(bytes, at)));
    let name = bytes.get(ENTRY_LEN..ENTRY_LEN + name_len)?;
    let extra = bytes.get(ENTRY_LEN + name_len..ENTRY_LEN + name_len + extra_len)?;
    let (compressed, len, header) = (u32_at(bytes, 20), u32_at(bytes, 24), u32_at(bytes, 42));
    // Fields that are too small stand in the extra field 1, in this order.
    let mut wide = extra_field(extra, 1).unwrap_or_default().chunks_exact(8).map(|b| u64_at(b, 0));
    let mut widened = |field: u32| if field == u32::MAX { wide.next() } else { Some(field.into()) };
    let (len, compressed, header) = (widened(len)?, widened(compressed)?, widened(header)?);
    // Method 0 is none; flag 0 is encryption.
    let stored = u16_at(bytes, 10) == 0 && u16_at(bytes, 8) & 1 == 0 && len == compressed;
    let total = ENTRY_LEN + name_len + extra_len + comment_len;
    let member = Member { stored, len, crc: u32_at(bytes, 16), header };
    (total <= bytes.len()).then(|| (String::from_utf8_lossy(name).into_owned(), member, total))
}

/// The content of the extra field `id`.
fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let content = extra.get(4..4 + usize::from(u16_at(extra, 2)))?;
        if u16_at(extra, 0) == id {
            return Some(content);
        }
        extra = &extra[4 + content.len()..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}
