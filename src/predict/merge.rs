//! `srgan merge`: the parts of a job array become one map.

use std::path::{Path, PathBuf};

use super::finished::Finished;
use super::job::Form;
use super::work::Work;
use super::write;
use crate::files::check_folder_of;
use crate::log::{MapProgress, Messages};
use crate::train::signals::StopSignal;
use crate::{Error, Result};

/// What is asked of a merge.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions {
    /// Replace what is there.
    pub overwrite: bool,
    /// Threads that compress; `None` is all.
    pub threads: Option<usize>,
}

/// Joins the files of all parts of a map to the file `out`. The parts stay.
///
/// # Errors
/// If a part is missing, unfinished, damaged or of another map, or `out` cannot be written.
pub fn merge(parts: &[PathBuf], out: &Path, options: MergeOptions, messages: &Messages) -> Result<()> {
    if out.exists() && !options.overwrite {
        return Err(Error::data(out, "this file exists").with_hint("--overwrite replaces it"));
    }
    if let Some(part) = parts.iter().find(|part| part.canonicalize().is_ok_and(|p| out.canonicalize().ok() == Some(p)))
    {
        return Err(Error::usage(format!("the map would replace its part {}", part.display()))
            .with_hint("name another file with -o"));
    }
    check_folder_of(out)?;
    let stop = StopSignal::install()?;
    let mut works: Vec<Work> = Vec::new();
    for path in parts {
        let mut work = Work::open(path, false)?;
        if let Some(first) = works.first()
            && let Some(what) = first.job.difference(&work.job)
        {
            let message = format!("a part of another map than {}: {what} differ", first.path().display());
            return Err(Error::data(path, message));
        }
        work.check_complete()?;
        works.push(work);
    }
    let finished = Finished::new(works)?;
    let kinds: &[&str] = if matches!(finished.job().form, Form::Tiff) { &["tif", "tiff"] } else { &["npy"] };
    let kind = out.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if !kinds.contains(&kind.as_str()) {
        return Err(Error::usage(format!("these are parts of a .{} file, not of {}", kinds[0], out.display()))
            .with_hint(format!("name a .{} file with -o", kinds[0])));
    }
    let progress = MapProgress::new(messages, 0, 0.0);
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let written = write::write(&finished, out, threads, &|share| {
        progress.writing(share);
        match stop.received() {
            Some(by) => Err(Error::Stopped { by, checkpoint: parts[0].clone() }),
            None => Ok(()),
        }
    });
    progress.finish();
    written?;
    let (height, width) = finished.job().size();
    messages.info(&format!("{}: {height} × {width} of {} parts", out.display(), parts.len()));
    Ok(())
}
