//! TensorBoard event files: TFRecord framing around hand-encoded `Event` protocol buffers.
//!
//! A record is: length (u64), its masked CRC, the bytes, their masked CRC, all little-endian
//! (tensorflow/core/lib/io/record_writer). The field numbers are those of `event.proto` and `summary.proto`.
//!
//! Our own because the crates for it bring a protocol-buffer compiler for half a dozen fields, and neither tell readers
//! where a resumed run begins nor take back a record that a full disk cut.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::append::AppendFile;
use crate::{Error, Result};

/// What all event files are named by.
const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.SessionStatus.START`; readers then drop all earlier events of this step and later.
const SESSION_START: u64 = 1;

/// An open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    file: AppendFile,
}

impl EventFile {
    /// Starts a new event file in `folder`; with `resume_at`, readers drop what older files say of this step
    /// and later ones.
    pub(super) fn create(folder: &Path, resume_at: Option<u64>) -> Result<Self> {
        let name = format!("{PREFIX}{:010}.srgan.{}", next_stamp(folder)?, std::process::id());
        let mut this = EventFile { file: AppendFile::open(&folder.join(name))? };
        this.event(0, |event| event.bytes(3, b"brain.Event:2"))?;
        if let Some(step) = resume_at {
            this.event(step, |event| event.message(7, |log| log.varint(1, SESSION_START)))?;
        }
        Ok(this)
    }

    /// Adds the scalars of a step.
    pub(super) fn scalars<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, f32)>) -> Result<()> {
        self.event(step, |event| {
            event.message(5, |summary| {
                for (tag, value) in values {
                    summary.message(1, |entry| {
                        entry.bytes(1, tag.as_bytes());
                        entry.float(2, value);
                    });
                }
            });
        })
    }

    /// Adds an image: its PNG file, size, and number of channels (1 or 3).
    pub(super) fn image(
        &mut self,
        step: u64,
        tag: &str,
        size: (usize, usize),
        channels: usize,
        png: &[u8],
    ) -> Result<()> {
        self.event(step, |event| {
            event.message(5, |summary| {
                summary.message(1, |entry| {
                    entry.bytes(1, tag.as_bytes());
                    entry.message(4, |image| {
                        image.varint(1, size.0 as u64);
                        image.varint(2, size.1 as u64);
                        image.varint(3, channels as u64);
                        image.bytes(4, png);
                    });
                });
            });
        })
    }

    /// See [`AppendFile::sync`].
    pub(super) fn sync(&mut self) -> Result<bool> {
        self.file.sync()
    }

    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut event = Message::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        event.double(1, now.as_secs_f64());
        event.varint(2, step);
        fill(&mut event);
        self.file.append(&record(&event.0))
    }
}

/// Seconds since 1970, but later than those of every event file in the folder: readers take the files in the
/// order of their names.
fn next_stamp(folder: &Path) -> Result<u64> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let stamps = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(stamps.max().map_or(now, |last| now.max(last.saturating_add(1))))
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&masked_crc(&length).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&masked_crc(data).to_le_bytes());
    bytes
}

/// CRC-32C, rotated and offset so that the CRC of data that hold CRCs stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u64, value: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// Seven bits a byte, the lowest first; the high bit says that more follow.
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_known_answers() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending; and the usual check string.
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c::crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        // The masked CRC of the length 24, as it stands at the head of every event file whose first record is
        // the version with a step of 0 left out.
        assert_eq!(masked_crc(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn messages_are_encoded_as_the_format_says() {
        let mut message = Message::default();
        message.varint(2, 300);
        message.bytes(3, b"ab");
        message.float(2, 1.0);
        message.message(1, |inner| inner.varint(1, 1));
        let want = [0x10, 0xac, 0x02, 0x1a, 2, b'a', b'b', 0x15, 0, 0, 0x80, 0x3f, 0x0a, 2, 0x08, 1];
        assert_eq!(message.0, want);
    }

    #[test]
    fn a_later_file_sorts_behind_the_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let last = dir.path().join(format!("{PREFIX}9000000000.host"));
        fs::write(&last, b"").unwrap();
        for _ in 0..3 {
            EventFile::create(dir.path(), Some(3)).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0], last.file_name().unwrap());
        assert!(names[3].to_str().unwrap().contains("9000000003"), "{names:?}");
    }
}
