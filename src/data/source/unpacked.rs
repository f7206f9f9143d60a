//! A member of an archive as a file of its own: unpacked into an unnamed temporary file, which no kill leaves behind.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};

/// A member's bytes.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Holds the file, whose path goes through its descriptor.
    _file: File,
    /// Holds a link to the file.
    _folder: TempDir,
    path: PathBuf,
}

impl Unpacked {
    /// Unpacks `member`, which has at most `most` bytes; `path` names it in messages.
    ///
    /// # Errors
    /// If it is damaged or larger, or the folder for temporary files has no room for it.
    pub fn of(path: &Path, mut member: impl Read, most: u64) -> Result<Unpacked> {
        let temporary = std::env::temp_dir();
        let failed = |e| Error::io("unpack into the folder TMPDIR", &temporary, e);
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
        let folder = TempDir::new().map_err(failed)?;
        // Decoders go by the ending of a name, which an unnamed file has in a link alone.
        let mut link = folder.path().join("member");
        link.set_extension(path.extension().unwrap_or_default());
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &link).map_err(failed)?;
        Ok(Unpacked { _file: file, _folder: folder, path: link })
    }

    /// Where the file can be opened while this value lives, with the ending of the member's name.
    pub fn path(&self) -> &Path {
        &self.path
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
    fn a_member_is_a_file_with_its_ending() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let member = Path::new("a.zip/b.jp2");
        let unpacked = Unpacked::of(member, bytes.as_slice(), 1_000_000).unwrap();
        let path = unpacked.path().to_owned();
        assert_eq!(path.extension().unwrap(), "jp2");
        for _ in 0..2 {
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
        drop(unpacked);
        assert!(!path.parent().unwrap().exists());
        let empty = Unpacked::of(Path::new("a.zip/b"), std::io::empty(), 10).unwrap();
        assert_eq!(std::fs::read(empty.path()).unwrap(), b"");
    }

    #[test]
    fn a_member_without_end_is_refused() {
        let error = Unpacked::of(Path::new("a.zip/b"), std::io::repeat(7), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("a.zip/b: more than 1048576 bytes"), "{error}");
    }
}
