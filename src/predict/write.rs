//! A finished map becomes a file, under a temporary name until it is whole.

use std::fs::{self, File};
use std::path::Path;

use super::cog::{self, Image, Watch};
use super::finished::Finished;
use super::job::Form;
use super::npy;
use super::work::failed;
use crate::Result;
use crate::data::source;
use crate::files::{sync_folder, temporary_name};

/// TIFF's tag for the program that made a file.
const SOFTWARE: u16 = 305;

/// What a map says of its maker: the program, and the job.
pub(super) fn software(digest: &str) -> String {
    format!("srgan {} (job {digest})", env!("CARGO_PKG_VERSION"))
}

/// What the file at `path` says of its maker, if it is a TIFF file.
pub(super) fn maker(path: &Path) -> Option<String> {
    source::tiff_text(path, SOFTWARE)
}

/// Writes the map to `path`.
///
/// # Errors
/// If it cannot be read or written, or `watch` says so; what was at `path` is then unchanged.
pub(super) fn write(finished: &Finished, path: &Path, threads: usize, watch: &Watch) -> Result<()> {
    let temporary = temporary_name(path);
    let written = fill(finished, &temporary, threads, watch)
        .and_then(|()| fs::rename(&temporary, path).map_err(|e| failed("write", path, e)));
    if written.is_err() {
        // The first error is the one worth reporting.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(path))
}

fn fill(finished: &Finished, path: &Path, threads: usize, watch: &Watch) -> Result<()> {
    let job = finished.job();
    let file = File::create(path).map_err(|e| failed("create", path, e))?;
    match job.form {
        Form::Tiff => {
            let (height, width) = job.size();
            let software = software(&job.digest()?);
            let image = Image {
                height,
                width,
                bands: job.bands.len(),
                values: &job.values,
                has_mask: job.has_mask,
                tags: &job.tags,
                software: &software,
                compression: job.compression,
            };
            cog::write(&image, finished, (&file, path), threads, watch)?;
        }
        Form::NpyHwc { .. } | Form::NpyChw => npy::write(job, finished, (&file, path), watch)?,
    }
    file.sync_all().map_err(|e| failed("write", path, e))
}
