//! Files that appear whole or not at all, and files that are really files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::{Error, Result};

/// Opens a file to read any place of it. What is no regular file, such as a named pipe that nobody writes or a device that never
/// ends, is an error instead of a wait.
///
/// # Errors
/// The operating system's, or that it is neither a regular file nor a folder.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe is opened without waiting for its other end, and then refused.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "it is a pipe or a device, not a regular file"))
}

/// A file that is written and in which what was written can be found again.
pub trait Output: Write + Seek {}

impl<T: Write + Seek> Output for T {}

/// Writes `path` through a temporary file in the same folder: fill, sync, rename, sync the folder.
///
/// A crash or an error at any moment leaves the previous file as it was. The temporary file has a fixed
/// name, so what a killed run left behind is overwritten by the next attempt; callers hold the run folder's
/// lock, so nobody else writes it.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Output) -> io::Result<()>) -> Result<()> {
    let temporary = temporary_name(path);
    let written = write_synced(&temporary, fill).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first error is the one worth reporting; a temporary that cannot be removed harms nobody.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, explain(source, path)));
    }
    sync_folder(path)
}

/// The name under which `path` is written before it is renamed: `.<name>.tmp`.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

fn write_synced(path: &Path, fill: impl FnOnce(&mut dyn Output) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 18, File::create(path)?);
    fill(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a file that cannot be made, before work is done for it.
///
/// # Errors
/// [`Error::Data`] if its folder is not there, is none, or may not be written to.
pub(crate) fn check_folder_of(path: &Path) -> Result<()> {
    check_folder(folder_of(path))
}

/// Makes a folder and those that it lies in, and refuses one that may not be written to.
///
/// # Errors
/// The operating system's, or [`Error::Data`].
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    check_folder(folder)
}

fn check_folder(folder: &Path) -> Result<()> {
    let refused = |message: &str, hint: &str| Err(Error::data(folder, message).with_hint(hint));
    match fs::metadata(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            refused("there is no such folder", "make it, or name another output")
        }
        Err(e) => Err(Error::io("look into", folder, e)),
        Ok(found) if !found.is_dir() => refused("this is a file, not a folder", "name another output"),
        Ok(_) if access(folder, Access::WRITE_OK).is_err() => {
            refused("this folder may not be written to", "name another output")
        }
        Ok(_) => Ok(()),
    }
}

/// Makes the rename itself durable. Some network file systems cannot sync a folder; the data are safe there.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(Error::io("sync", folder, e))
        }
        _ => Ok(()),
    }
}

/// Adds to an error of the operating system what became of the old file and what the user can do.
fn explain(source: io::Error, path: &Path) -> io::Error {
    let kept = if path.exists() { "; the previous file is unchanged" } else { "" };
    io::Error::new(source.kind(), format!("{source}{kept}{}", advice(source.kind())))
}

/// What to do about an error met while writing a run's files.
pub(crate) fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "; free some space",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to with --run-dir"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_pipe_and_a_device_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.tif");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            let error = open_regular(path).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        let file = dir.path().join("file");
        fs::write(&file, b"text").unwrap();
        assert_eq!(io::read_to_string(open_regular(&file).unwrap()).unwrap(), "text");
    }

    #[test]
    fn an_error_keeps_the_old_file_and_removes_the_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let full = |w: &mut dyn Output| {
            w.write_all(&[0; 1 << 20])?;
            Err(io::Error::from(ErrorKind::StorageFull))
        };
        let error = write_atomic(&path, full).unwrap_err().to_string();
        assert!(error.contains("previous file is unchanged") && error.contains("free some space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn what_a_killed_run_left_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(temporary_name(&path), vec![7; 4096]).unwrap();
        write_atomic(&path, |w| w.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(!temporary_name(&path).exists());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |name: &str| check_folder_of(&dir.path().join(name)).map_err(|e| (e.exit_code(), e.to_string()));
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(refusal("map.tif"), Ok(()));
        let (code, text) = refusal("none/map.tif").unwrap_err();
        assert!(code == 2 && text.contains("none: there is no such folder"), "{text}");
        let (code, text) = refusal("file/map.tif").unwrap_err();
        assert!(code == 2 && text.contains("file: this is a file, not a folder"), "{text}");
        assert!(make_folder(&dir.path().join("file/deeper")).unwrap_err().to_string().contains("file/deeper"));
        make_folder(&dir.path().join("a/b")).unwrap();
        assert_eq!(refusal("a/b/map.tif"), Ok(()));
    }

    #[test]
    fn a_missing_folder_is_an_error_with_the_path() {
        let error = write_atomic(Path::new("/nowhere/at/all/file"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all/file"), "{error}");
    }
}
