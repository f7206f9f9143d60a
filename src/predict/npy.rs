//! A map as an array file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::cog::Watch;
use super::finished::Pixels;
use super::job::{Form, Job};
use super::work::failed;
use crate::Result;
use crate::data::source::npy_header::NpyHeader;

/// Writes the map of `job` to `file`, which is empty.
///
/// # Errors
/// If the pixels cannot be read, the file not be written, or `watch` says so.
pub(super) fn write(job: &Job, pixels: &dyn Pixels, (file, path): (&File, &Path), watch: &Watch) -> Result<()> {
    let failed = |e| failed("write", path, e);
    let ((height, width), bands) = (job.size(), job.bands.len());
    let planes = if job.form == Form::NpyChw { bands } else { 1 };
    let shape = match job.form {
        Form::NpyChw => vec![bands, height, width],
        Form::NpyHwc { bands: false } => vec![height, width],
        Form::NpyHwc { bands: true } | Form::Tiff => vec![height, width, bands],
    };
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&NpyHeader::to_bytes(job.values.dtype, &shape)).map_err(failed)?;
    let (mut values, mut valid) = (Vec::new(), Vec::new());
    let size = job.values.dtype.bytes();
    for plane in 0..planes {
        for row in 0..height {
            values.clear();
            valid.clear();
            pixels.read(row, 0..width, &mut values, &mut valid)?;
            if cfg!(target_endian = "big") {
                values.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            }
            if planes == 1 {
                out.write_all(&values).map_err(failed)?;
            } else {
                for pixel in values.chunks_exact(bands * size) {
                    out.write_all(&pixel[plane * size..][..size]).map_err(failed)?;
                }
            }
            watch((plane * height + row) as f64 / (planes * height) as f64)?;
        }
    }
    out.flush().map_err(failed)
}
