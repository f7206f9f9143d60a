//! Directories of a TIFF file, little-endian: their length is known before the values of their tags are.

use crate::data::source::RawTag;

/// TIFF's types "32-bit unsigned" and "64-bit unsigned".
const LONG: u16 = 4;
const LONG8: u16 = 16;

/// How numbers are written: a classic file, or a BigTIFF file, which may be longer than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub big: bool,
}

impl Format {
    /// The first bytes of a file whose first directory is at `first`.
    pub fn header(self, first: u64) -> Vec<u8> {
        let mut bytes = b"II".to_vec();
        if self.big {
            bytes.extend([43, 0, 8, 0, 0, 0]);
        } else {
            bytes.extend([42, 0]);
        }
        bytes.extend(self.offset(first));
        bytes
    }

    /// An offset or a count.
    fn offset(self, value: u64) -> Vec<u8> {
        if self.big { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() }
    }

    /// A tag of offsets or lengths in the file.
    pub fn offsets(self, code: u16, values: &[u64]) -> RawTag {
        let bytes = values.iter().flat_map(|v| self.offset(*v)).collect();
        RawTag { code, kind: if self.big { LONG8 } else { LONG }, count: values.len() as u64, bytes }
    }

    /// Bytes of an entry's value that has room in the entry.
    fn inline(self) -> usize {
        if self.big { 8 } else { 4 }
    }

    /// Bytes of a directory of these tags and of their values.
    pub fn directory_len(self, tags: &[RawTag]) -> u64 {
        let head = if self.big { 8 + 20 * tags.len() + 8 } else { 2 + 12 * tags.len() + 4 };
        let outside = tags.iter().map(|tag| tag.bytes.len()).filter(|len| *len > self.inline());
        (head.next_multiple_of(8) + outside.map(|len| len.next_multiple_of(8)).sum::<usize>()) as u64
    }

    /// The directory at `at`, whose tags are in ascending order, with the values that have no room in it behind; the next
    /// one is at `next`, or there is none if that is 0.
    pub fn directory(self, tags: &[RawTag], at: u64, next: u64) -> Vec<u8> {
        let head = if self.big { 8 + 20 * tags.len() + 8 } else { 2 + 12 * tags.len() + 4 };
        let mut bytes = if self.big {
            (tags.len() as u64).to_le_bytes().to_vec()
        } else {
            (tags.len() as u16).to_le_bytes().to_vec()
        };
        let mut outside = Vec::new();
        for tag in tags {
            bytes.extend(tag.code.to_le_bytes());
            bytes.extend(tag.kind.to_le_bytes());
            bytes.extend(self.offset(tag.count));
            if tag.bytes.len() <= self.inline() {
                let mut value = tag.bytes.clone();
                value.resize(self.inline(), 0);
                bytes.extend(value);
            } else {
                bytes.extend(self.offset(at + (head.next_multiple_of(8) + outside.len()) as u64));
                outside.extend(&tag.bytes);
                outside.resize(outside.len().next_multiple_of(8), 0);
            }
        }
        bytes.extend(self.offset(next));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(outside);
        bytes
    }
}
