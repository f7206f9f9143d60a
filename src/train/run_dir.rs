//! The folder of a run: its name, its lock, and how to find the newest one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::checkpoint::LAST;
use crate::files::advice;
use crate::log::local_time;
use crate::{Error, Result};

/// Name of the lock file in a run folder.
const LOCK: &str = ".lock";

/// A run folder, locked for this process until the value is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The open file is the lock; none where the file system has no locks.
    lock: Option<File>,
    /// Whether this process writes the folder.
    writes: bool,
}

impl RunDir {
    /// Makes `<logs_dir>/<project>/<timestamp>/`, with a number added if that exists.
    pub fn create(logs_dir: &Path, project: &str) -> Result<Self> {
        let parent = project_dir(logs_dir, project)?;
        fs::create_dir_all(&parent).map_err(|e| failed("make folder", &parent, &e))?;
        let name = local_time().strftime("%Y-%m-%d_%H-%M-%S").to_string();
        let mut path = parent.join(&name);
        let mut number = 1;
        loop {
            match fs::create_dir(&path) {
                Ok(()) => return Self::lock(path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    number += 1;
                    path = parent.join(format!("{name}-{number}"));
                }
                Err(e) => return Err(failed("make folder", &path, &e)),
            }
        }
    }

    /// Uses `path` for a new run and makes it if needed. A folder that already holds a checkpoint is refused,
    /// so that a run is never overwritten by mistake.
    pub fn create_at(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| failed("make folder", path, &e))?;
        let this = Self::lock(path.into())?;
        if this.path.join(LAST).exists() {
            return Err(Error::data(path, "this folder already holds a run").with_hint(format!(
                "continue it with --resume {}, or choose another folder with --run-dir",
                path.display()
            )));
        }
        Ok(this)
    }

    /// Locks the existing run folder `path`, to continue the run in it.
    pub fn reopen(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::data(path, "there is no such run folder"));
        }
        Self::lock(path.into())
    }

    /// The folder of a run whose first rank has locked it and writes it; the other ranks only name it.
    pub fn of_first_rank(path: PathBuf) -> Self {
        RunDir { path, lock: None, writes: false }
    }

    /// The newest run folder of the project that holds a `last.safetensors`: the one whose file was written
    /// last, of equals the last by name.
    pub fn newest(logs_dir: &Path, project: &str) -> Option<PathBuf> {
        let folders = fs::read_dir(project_dir(logs_dir, project).ok()?).ok()?;
        let dated = folders.filter_map(|entry| {
            let path = entry.ok()?.path();
            let written = fs::metadata(path.join(LAST)).ok()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Some((written, path))
        });
        dated.max().map(|(_, path)| path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Whether this process writes the folder, as the first rank does.
    pub fn is_written_here(&self) -> bool {
        self.writes
    }

    /// Whether the folder is really locked; some network file systems have no locks, and then two runs in one
    /// folder cannot be told apart.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let name = path.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
        let file = file.map_err(|e| failed("open", &name, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(RunDir { path, lock: Some(file), writes: true }),
            Err(TryLockError::WouldBlock) => Err(Error::data(path, "another run is working in this folder")
                .with_hint("wait for it or stop it, or choose another folder with --run-dir")),
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                Ok(RunDir { path, lock: None, writes: true })
            }
            Err(TryLockError::Error(e)) => Err(Error::io("lock", name, e)),
        }
    }
}

/// An error of the operating system, with what to do about it.
fn failed(action: &'static str, path: &Path, e: &io::Error) -> Error {
    Error::io(action, path, io::Error::new(e.kind(), format!("{e}{}", advice(e.kind()))))
}

/// `<logs_dir>/<project>`; the project must be the name of one folder.
fn project_dir(logs_dir: &Path, project: &str) -> Result<PathBuf> {
    let mut parts = Path::new(project).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) if !project.contains(char::is_control) => Ok(logs_dir.join(project)),
        _ => Err(Error::config("Logging.wandb.project", format!("{project:?} cannot be the name of one folder"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_runs_of_one_second_get_two_folders() {
        let logs = tempfile::tempdir().unwrap();
        let runs: Vec<_> = (0..4).map(|_| RunDir::create(logs.path(), "p").unwrap()).collect();
        let mut paths: Vec<_> = runs.iter().map(RunDir::path).collect();
        paths.dedup();
        assert_eq!(paths.len(), 4);
        let name = paths[0].file_name().unwrap().to_str().unwrap();
        assert_eq!((name.len(), &name[10..11]), (19, "_"), "{name}");
        assert!(paths[0].starts_with(logs.path().join("p")));
    }

    #[test]
    fn a_second_run_in_the_folder_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::create_at(dir.path()).unwrap();
        assert!(first.is_locked());
        let error = RunDir::reopen(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another run is working in this folder"), "{error}");
        assert_eq!(error.exit_code(), 2);
        drop(first);
        RunDir::reopen(dir.path()).unwrap();
    }

    #[test]
    fn a_new_run_does_not_overwrite_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LAST), b"x").unwrap();
        let error = RunDir::create_at(dir.path()).unwrap_err().to_string();
        assert!(error.contains("already holds a run") && error.contains("--resume"), "{error}");
        RunDir::reopen(dir.path()).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_cannot_be_made_is_refused_with_a_way_out() {
        // Not even the superuser can make a folder there.
        let at = RunDir::create_at(Path::new("/sys/srgan-run")).unwrap_err();
        let below = RunDir::create(Path::new("/sys/srgan-logs"), "p").unwrap_err();
        for error in [at, below] {
            let text = error.to_string();
            assert!(text.contains("/sys/srgan-") && text.contains("with --run-dir"), "{text}");
        }
    }

    #[test]
    fn the_newest_run_is_the_one_with_the_latest_checkpoint() {
        let logs = tempfile::tempdir().unwrap();
        assert_eq!(RunDir::newest(logs.path(), "p"), None);
        for (name, age) in [("a", 10), ("b", 100), ("c", 1000)] {
            let dir = logs.path().join("p").join(name);
            fs::create_dir_all(&dir).unwrap();
            let file = File::create(dir.join(LAST)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        fs::create_dir_all(logs.path().join("p/z_without_checkpoint")).unwrap();
        assert_eq!(RunDir::newest(logs.path(), "p"), Some(logs.path().join("p/a")));
        assert_eq!(RunDir::newest(logs.path(), "other"), None);
    }

    #[test]
    fn a_project_is_the_name_of_one_folder() {
        let logs = tempfile::tempdir().unwrap();
        for project in ["", ".", "..", "a/b", "/tmp", "a\nb"] {
            let error = RunDir::create(logs.path(), project).unwrap_err();
            assert!(error.to_string().contains("Logging.wandb.project"), "{error}");
        }
    }
}
