//! Files of a store while they are written: under a temporary name, locked, renamed once their bytes are on the disk.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

const PREFIX: &str = ".building-";

/// A new temporary file in `dir`. Its lock says that its process lives.
pub(super) fn create(dir: &Path) -> Result<BufWriter<NamedTempFile>> {
    let failed = |e| Error::io("create a file in", dir, e);
    // A data set may be shared: everybody may read its store (less what the user's umask forbids).
    let readable = Permissions::from_mode(0o644);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).permissions(readable);
    loop {
        let file = builder.tempfile_in(dir).map_err(failed)?;
        // Without locks (some network file systems) nobody removes it either.
        let _ = file.as_file().lock();
        // Another process may have taken it for a leftover before it was locked.
        if file.as_file().metadata().map_err(failed)?.nlink() > 0 {
            return Ok(BufWriter::new(file));
        }
    }
}

/// Renames a finished file into place once its bytes are on the disk.
pub(super) fn persist(output: BufWriter<NamedTempFile>, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io("write", path, e);
    let file = output.into_inner().map_err(|e| failed(e.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    let kept: File = file.persist(path).map_err(|e| failed(e.error))?;
    drop(kept);
    Ok(())
}

/// Removes what killed builds have left in `dir`: temporary files that no process holds.
pub(super) fn remove_leftovers(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_temporary = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if let Some(file) = is_temporary.then(|| File::open(entry.path()).ok()).flatten()
            && file.try_lock().is_ok()
        {
            // It may be gone by now, or another user's.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Refuses to write `bytes` where the disk has no room for them, before an hour of unpacking shows it.
pub(super) fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    match free_bytes(dir) {
        Some(free) if free < bytes => {
            let mib = |bytes: u64| bytes >> 20;
            let message =
                format!("the patch store needs {} MiB here, and the disk has {} MiB free", mib(bytes), mib(free));
            Err(Error::data(dir, message).with_hint("free some, or set Data.store_dir to a folder on another disk"))
        }
        _ => Ok(()),
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(dir).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}
