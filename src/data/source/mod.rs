//! Source files, each read once from top to bottom in bounded pieces.

mod array;
pub(crate) mod npy_header;
mod tiff;

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::{Layout, PixelType};
use crate::error::{Error, Result};

/// File name endings that can be read.
pub(crate) const EXTENSIONS: [&str; 5] = ["npy", "npz", "tif", "tiff", "png"];

/// What a source file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceInfo {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Bands in the file, chosen or not.
    pub bands: usize,
    /// Type of a value.
    pub dtype: PixelType,
    /// The value of pixels without data that the file states.
    pub nodata: Option<f64>,
    /// Bytes before the first value, if the file is a plain array: rows, columns, bands, native byte order.
    pub plain_at: Option<u64>,
    /// The shape as the file states it, for messages.
    pub shape: String,
    /// Whether `Data.layout` decided what the axes mean.
    pub layout_applied: bool,
}

/// A file open for one pass.
pub(crate) trait Source {
    /// What the file holds.
    fn info(&self) -> &SourceInfo;

    /// Appends the next full-width rows to `out` (rows, columns, `bands`; native byte order) and returns their
    /// number, 0 at the end.
    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize>;
}

/// Whether `path`'s ending is one that [`open`] knows.
pub(crate) fn is_supported(path: &Path) -> bool {
    extension(path).is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Opens a source file by its ending. `layout` says what the axes of `.npy` and `.npz` mean.
pub(crate) fn open(path: &Path, layout: Layout) -> Result<Box<dyn Source>> {
    let source: Box<dyn Source> = match extension(path).as_deref() {
        Some("npy") => Box::new(array::open_npy(path, layout)?),
        Some("npz") => Box::new(array::open_npz(path, layout)?),
        Some("png") => Box::new(array::open_png(path)?),
        Some("tif" | "tiff") => tiff::open(path)?,
        _ => {
            let message = format!("unknown kind of file; known are {}", EXTENSIONS.map(|e| format!(".{e}")).join(" "));
            return Err(Error::data(path, message));
        }
    };
    let info = source.info();
    if info.height == 0 || info.width == 0 || info.bands == 0 {
        return Err(Error::data(path, format!("the image is empty: {}", info.shape)));
    }
    Ok(source)
}

/// The bands of `info` to use, checked against `in_bands` of the networks.
pub(crate) fn choose_bands(
    path: &Path,
    info: &SourceInfo,
    bands: Option<&[usize]>,
    in_bands: usize,
) -> Result<Vec<usize>> {
    let chosen = bands.map_or_else(|| (0..info.bands).collect(), <[usize]>::to_vec);
    let too_high = chosen.iter().find(|&&b| b >= info.bands);
    if too_high.is_none() && chosen.len() == in_bands {
        return Ok(chosen);
    }
    let message = match too_high {
        Some(b) => {
            format!("Data.bands asks for band {b} (counted from 0), the file has {}: {}", info.bands, info.shape)
        }
        None => format!("{} bands, but Model.in_bands is {in_bands}: {}", chosen.len(), info.shape),
    };
    let hint = if info.layout_applied {
        "set Data.layout to HWC (rows, columns, bands) or CHW (bands, rows, columns), whichever the file is, or choose bands with Data.bands"
    } else {
        "choose bands with Data.bands, or change Model.in_bands"
    };
    Err(Error::data(path, message).with_hint(hint))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Reverses the bytes of each value.
fn swap_bytes(bytes: &mut [u8], dtype: PixelType) {
    if dtype.bytes() > 1 {
        bytes.chunks_exact_mut(dtype.bytes()).for_each(<[u8]>::reverse);
    }
}

/// Opens a file that the user named: one that is not there or not readable is an error about the data.
fn open_file(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::data(path, "there is no such file"),
        ErrorKind::PermissionDenied => Error::data(path, "the file may not be read"),
        _ => Error::io("open", path, e),
    })
}

/// A zeroed buffer whose length comes from a file's header: an absurd one is an error, not an abort.
fn zeroed(path: &Path, len: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let too_large = |_| Error::data(path, format!("a piece of {len} bytes does not fit into memory"));
    buffer.try_reserve_exact(len).map_err(too_large)?;
    buffer.resize(len, 0);
    Ok(buffer)
}
