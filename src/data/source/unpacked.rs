//! A member of an archive as a file of its own: unpacked into an unnamed temporary file and mapped, so that what lies in
//! memory is what is being read.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{Error, Result};

/// A member's bytes.
#[derive(Debug)]
pub(super) struct Unpacked(Mmap);

impl Unpacked {
    /// Unpacks `member`, which has at most `most` bytes; `path` names it in messages.
    ///
    /// # Errors
    /// If it is damaged or larger, or the folder for temporary files has no room for it.
    pub fn of(path: &Path, mut member: impl Read, most: u64) -> Result<Unpacked> {
        let folder = std::env::temp_dir();
        let failed = |e| Error::io("unpack into the folder TMPDIR", &folder, e);
        let file = tempfile::tempfile().map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 18, &file);
        let (mut block, mut len) = (vec![0; 1 << 18], 0);
        loop {
            let read = member.read(&mut block).map_err(|e| Error::data(path, format!("it cannot be read: {e}")))?;
            len += read as u64;
            if len > most {
                return Err(too_large(path, most));
            }
            if read == 0 {
                break;
            }
            out.write_all(&block[..read]).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        drop(out);
        // SAFETY: the file has no name, so that no other program changes it or cuts it off.
        Ok(Unpacked(unsafe { Mmap::map(&file) }.map_err(failed)?))
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives back the memory of what was read; it is read from the file again where it is needed again.
    pub fn release(&self) {
        // SAFETY: the mapping is of a file and never written, so that its bytes stay what they are. Advice may fail.
        let _ = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// The error about a member that claims more than such a file can have.
pub(super) fn too_large(path: &Path, most: u64) -> Error {
    Error::data(path, format!("more than {most} bytes, which no such file has"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_when_their_memory_is_given_back() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let unpacked = Unpacked::of(Path::new("a.zip/b"), bytes.as_slice(), 1_000_000).unwrap();
        for _ in 0..2 {
            assert!(unpacked.bytes() == bytes);
            unpacked.release();
        }
        let empty = Unpacked::of(Path::new("a.zip/b"), std::io::empty(), 10).unwrap();
        assert_eq!(empty.bytes(), b"");
    }

    #[test]
    fn a_member_without_end_is_refused() {
        let error = Unpacked::of(Path::new("a.zip/b"), std::io::repeat(7), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("a.zip/b: more than 1048576 bytes"), "{error}");
    }
}
