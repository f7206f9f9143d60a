//! The patch store: sources unpacked once into plain `.npy` files that are mapped or read at random.
//!
//! A store holds one scene, shape (rows, columns, bands), or all files of one side of a data set, shape
//! (pixels, bands), image after image. A small JSON index beside it names the images and the content key: a
//! hash of the sources' paths, sizes, times and samples of their bytes, and of everything that decides the pixels. Both
//! are built under temporary names and renamed, the index last; a store that does not fit its index, key or checksums
//! is built again. Masked pixels are runs in a third file, shape (runs, 3): row, first column, column after the last.

mod build;
mod checksums;
mod convert;
mod invalid;
mod key;
mod mapped;
mod temporary;
mod unused;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::source::npy_header::NpyHeader;
use super::{ImageFiles, Layout, PixelType, StoreMode};
use crate::error::{Error, Result};

use checksums::Comparison;
use mapped::Mapped;

pub(crate) use build::open_or_build;
pub(crate) use convert::{Converter, ValueRules};
pub use unused::{UnusedStore, unused_stores};

#[cfg(target_endian = "big")]
compile_error!("the patch store is little-endian and is used without conversion");

/// Version of the files; part of the content key.
const FORMAT: u32 = 3;

/// What to unpack and how.
#[derive(Clone, Debug)]
pub(crate) struct StoreRequest {
    /// Start of the store's file names.
    pub name: String,
    /// The files of each image, in order.
    pub files: Vec<ImageFiles>,
    /// Folder of the store.
    pub dir: PathBuf,
    /// Bands to keep.
    pub bands: Option<Vec<usize>>,
    /// Number of bands that must remain.
    pub in_bands: usize,
    /// Axes of `.npy` and `.npz` files.
    pub layout: Layout,
    /// What becomes of values.
    pub values: ValueRules,
    /// Mask pixels without a value (scenes), or else refuse the file.
    pub mask: bool,
    /// Pixel type of the store; `None`: the files' common type, or float32 if they differ.
    pub dtype: Option<PixelType>,
    /// How to read the store.
    pub mode: StoreMode,
}

/// Pixels `first..end` of a row that have no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaskedRun {
    pub row: u32,
    pub first: u32,
    pub end: u32,
}

/// The JSON beside a store.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: u32,
    key: String,
    /// The `.npy` file; the source itself if it can serve directly.
    data: PathBuf,
    /// Bytes before the first pixel, and the size of the whole file.
    data_at: u64,
    file_bytes: u64,
    /// When the file was written, in nanoseconds since 1970; 0 if the system does not say.
    written: u64,
    dtype: PixelType,
    bands: usize,
    images: Vec<StoredImage>,
    masked_runs: usize,
    /// What the user should know about the sources.
    notes: Vec<String>,
    /// Checksums of the pixels, of the masked runs, and of this index with 0 in place of this last one.
    block_sums: Vec<u32>,
    runs_sum: u32,
    index_sum: u32,
}

impl Index {
    /// Reads an index that was written for `key` and is whole.
    fn read(path: &Path, key: &str) -> Option<Index> {
        let index: Index = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (index.format == FORMAT && index.key == key && index.index_sum == index.sum().ok()?).then_some(index)
    }

    /// Writes the index to `path` in `dir`, with its checksum.
    fn write(mut self, dir: &Path, path: &Path) -> Result<Index> {
        self.index_sum = self.sum()?;
        let text = serde_json::to_vec_pretty(&self).map_err(|e| Error::Internal(e.to_string()))?;
        let mut output = temporary::create(dir)?;
        output.write_all(&text).map_err(|e| Error::io("write the patch store in", dir, e))?;
        temporary::persist(output, path)?;
        Ok(self)
    }

    fn sum(&self) -> Result<u32> {
        let mut value = serde_json::to_value(self).map_err(|e| Error::Internal(e.to_string()))?;
        value["index_sum"] = 0.into();
        Ok(crc32c::crc32c(value.to_string().as_bytes()))
    }
}

/// One image in a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredImage {
    /// The source.
    pub file: String,
    pub height: usize,
    pub width: usize,
    /// Pixels of the store before this image.
    pub first_pixel: u64,
}

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crop {
    pub row: usize,
    pub column: usize,
    pub height: usize,
    pub width: usize,
}

impl Crop {
    /// The same ground in an image `scale` times smaller.
    pub fn shrunk(self, scale: usize) -> Crop {
        let Crop { row, column, height, width } = self;
        Crop { row: row / scale, column: column / scale, height: height / scale, width: width / scale }
    }
}

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    pub dtype: PixelType,
    pub bands: usize,
    pub images: Vec<StoredImage>,
    /// What the user should know about the sources.
    pub notes: Vec<String>,
    /// A hash of the sources' sizes and of samples of their bytes.
    pub contents: u64,
    path: PathBuf,
    index_path: PathBuf,
    data_at: u64,
    masked: Option<MaskedFile>,
    file: File,
    /// Its size and time when it was last looked at: others may write to it.
    times: Mutex<Times>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    /// A file of our own, mapped or read, whose checksums are known.
    Mapped(Mapped, Comparison),
    File(Comparison),
    /// A source that serves directly.
    Source,
}

/// Size and time of change.
type Times = (u64, Option<SystemTime>);

fn times(file: &File) -> std::io::Result<Times> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.modified().ok()))
}

/// A time in nanoseconds since 1970; 0 if it is not known.
fn nanoseconds(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

impl Store {
    /// Opens the store that `index` describes, of sources whose hash is `contents`; the error says why it cannot be
    /// used.
    fn open(mut index: Index, index_path: &Path, mode: StoreMode, contents: u64) -> Result<Store> {
        let dir = index_path.parent().unwrap_or(Path::new(""));
        let path = dir.join(&index.data);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let there = file.metadata().map_err(|e| Error::io("read", &path, e))?.len();
        let pixels: u64 = index.images.iter().map(|i| (i.height * i.width) as u64).sum();
        let wanted = index.data_at + pixels * (index.bands * index.dtype.bytes()) as u64;
        if there != index.file_bytes || there < wanted {
            return Err(Error::data(&path, format!("{there} bytes long, {} expected", index.file_bytes)));
        }
        let times = times(&file).map_err(|e| Error::io("read", &path, e))?;
        let masked = (index.masked_runs > 0).then(|| MaskedFile {
            path: masked_path(index_path),
            runs: index.masked_runs,
            sum: index.runs_sum,
        });
        masked.iter().try_for_each(|masked| masked.read().map(drop))?;
        let backing = if index.data.is_absolute() {
            Backing::Source
        } else {
            let sums = std::mem::take(&mut index.block_sums);
            let comparison = Comparison::new(&path, (index.data_at, there), sums)?;
            comparison.begin(&file, &path, index.written == 0 || index.written != nanoseconds(times.1))?;
            // The rows of a scene's crop lie far apart: reading ahead would only fill the page cache.
            let random = index.images.len() == 1;
            let mapped = match mode {
                StoreMode::Mmap => Mapped::new(&file, random).map_err(|e| Error::io("map", &path, e))?,
                StoreMode::Read => None,
            };
            match mapped {
                Some(mapped) => Backing::Mapped(mapped, comparison),
                None => Backing::File(comparison),
            }
        };
        let Index { dtype, bands, images, notes, data_at, .. } = index;
        let (index_path, times) = (index_path.to_owned(), Mutex::new(times));
        Ok(Store { dtype, bands, images, notes, contents, path, index_path, data_at, masked, file, times, backing })
    }

    /// Copies a crop of image `image` to `out`: rows, columns, bands.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, was cut off, or is a source used where it is that was changed since it was
    /// opened.
    pub fn copy_crop(&self, image: usize, crop: Crop, out: &mut [u8]) -> Result<()> {
        let stored = &self.images[image];
        let pixel = self.bands * self.dtype.bytes();
        let inside = crop.row + crop.height <= stored.height && crop.column + crop.width <= stored.width;
        if !inside || out.len() != crop.height * crop.width * pixel {
            return Err(Error::Internal(format!("{crop:?} does not lie in {stored:?}")));
        }
        self.look_for_changes()?;
        for (y, line) in (crop.row..).zip(out.chunks_exact_mut(crop.width * pixel)) {
            let first = stored.first_pixel + (y * stored.width + crop.column) as u64;
            let at = self.data_at + first * pixel as u64;
            if let Backing::Mapped(_, comparison) | Backing::File(comparison) = &self.backing {
                let bytes = (at, at + line.len() as u64);
                // Another run finds it damaged when it opens it, and builds it again.
                comparison
                    .cover(&self.file, &self.path, bytes)
                    .inspect_err(|_| _ = std::fs::remove_file(&self.index_path))?;
            }
            match &self.backing {
                Backing::Mapped(map, _) => line.copy_from_slice(&map[at as usize..at as usize + line.len()]),
                _ => self.file.read_exact_at(line, at).map_err(|e| Error::io("read", &self.path, e))?,
            }
        }
        match &self.backing {
            // A source may have been changed while it was read.
            Backing::Source => self.look_for_changes(),
            Backing::Mapped(map, _) if map.was_cut() => Err(self.cut()),
            _ => Ok(()),
        }
    }

    /// An error if the file is not what it was: a source that was changed, or a store that was cut off. A store that was
    /// touched is compared with its checksums anew.
    fn look_for_changes(&self) -> Result<()> {
        let now = times(&self.file).map_err(|e| Error::io("read", &self.path, e))?;
        // Nothing that can panic runs under the lock.
        let mut known = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return Ok(());
        }
        match &self.backing {
            Backing::Source => {
                let hint = "leave scenes alone while a run uses them; a copy under another name is another scene";
                Err(Error::data(&self.path, "the file was changed while it was in use").with_hint(hint))
            }
            _ if now.0 < known.0 => Err(self.cut()),
            Backing::Mapped(_, comparison) | Backing::File(comparison) => {
                *known = now;
                comparison.forget();
                Ok(())
            }
        }
    }

    /// The error that a store of our own was cut off.
    fn cut(&self) -> Error {
        Error::data(&self.path, "the patch store was cut off while it was in use")
            .with_hint("start again: it is built anew; leave the folder Data.store_dir alone while a run uses it")
    }

    /// The masked pixels of a store with one image, by row and column. They are read anew at each call: a
    /// mask is needed once, when the places of patches are listed.
    pub fn masked_runs(&self) -> Result<Vec<MaskedRun>> {
        self.masked.as_ref().map_or(Ok(Vec::new()), MaskedFile::read)
    }
}

/// Where the masked pixels are written.
#[derive(Debug)]
struct MaskedFile {
    path: PathBuf,
    runs: usize,
    sum: u32,
}

impl MaskedFile {
    fn read(&self) -> Result<Vec<MaskedRun>> {
        let io = |e| Error::io("read", &self.path, e);
        let mut file = File::open(&self.path).map_err(io)?;
        NpyHeader::read(&mut file).map_err(|m| Error::data(&self.path, m))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() != self.runs.saturating_mul(12) || crc32c::crc32c(&bytes) != self.sum {
            return Err(Error::data(&self.path, "damaged"));
        }
        let word = |b: &[u8], i: usize| u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]);
        let run = |b| MaskedRun { row: word(b, 0), first: word(b, 1), end: word(b, 2) };
        Ok(bytes.chunks_exact(12).map(run).collect())
    }
}

/// The file of masked runs that belongs to an index.
fn masked_path(index: &Path) -> PathBuf {
    index.with_extension("masked.npy")
}
