//! Cloud-Optimized GeoTIFF: all directories first, then the tiles of each level from the smallest overview to the full
//! size, so that a reader gets what it needs in one or two requests.
//!
//! The file is written by this program, not by a crate: those of today keep neither masks nor all tags, and their bytes or
//! memory are not bound to the image alone. Memory is a few tiles for each thread; the same pixels give the same bytes.

mod directory;
mod overview;
#[cfg(test)]
mod tests;
mod tile;

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;

use self::directory::Format;
use self::overview::{Level, Stored};
use super::Compression;
use super::finished::Pixels;
use super::values::Values;
use super::work::failed;
use crate::Result;
use crate::data::PixelType;
use crate::data::source::RawTag;
use crate::files::folder_of;

/// Rows and columns of a tile.
const TILE: usize = 512;
/// Bytes before compression up to which a file is a classic one; compression adds little, and other things take little.
const CLASSIC_BYTES: u64 = u32::MAX as u64 - (1 << 24);
/// Tiles that each thread compresses before they are written.
const AHEAD: usize = 4;
/// Threads at most: each holds a tile and, compressed, some more.
const MAX_THREADS: usize = 16;
/// What tells GDAL how the file is laid out: each tile stands between its length and its last four bytes once more.
const STRUCTURE: &str = "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n\
    BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n ";

const NEW_SUBFILE_TYPE: u16 = 254;
const PHOTOMETRIC: u16 = 262;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTE_COUNTS: u16 = 325;
const SOFTWARE: u16 = 305;
const GDAL_NODATA: u16 = 42113;
const PHOTOMETRIC_MASK: u16 = 4;
const PHOTOMETRIC_RGB: u16 = 2;
const REDUCED: u32 = 1;
const MASK: u32 = 4;
const DEFLATE: u16 = 8;

/// What an image is, beside its pixels.
pub(super) struct Image<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Bands.
    pub bands: usize,
    /// Type and special values.
    pub values: &'a Values,
    /// Whether a mask says which pixels have a value.
    pub has_mask: bool,
    /// Tags of the full image, among them [`PHOTOMETRIC`].
    pub tags: &'a [RawTag],
    /// What made it.
    pub software: &'a str,
    /// How tiles are compressed.
    pub compression: Compression,
}

/// One directory: an image or a mask of some size.
struct Page {
    tags: Vec<RawTag>,
    level: usize,
    is_mask: bool,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
}

/// How far the file is: called with a share of 1, and an error stops the writing.
pub(super) type Watch<'a> = dyn Fn(f64) -> Result<()> + 'a;

/// Writes `image` to `file`, which is empty. Overviews are stored in `folder` on the way.
///
/// # Errors
/// If the pixels cannot be read, the files not be written, or `watch` says so.
pub(super) fn write(
    image: &Image,
    pixels: &dyn Pixels,
    (file, path): (&File, &Path),
    threads: usize,
    watch: &Watch,
) -> Result<()> {
    let threads = threads.min(MAX_THREADS);
    let folder = folder_of(path);
    let stored = overviews(image, pixels, folder, threads, watch)?;
    let full = full_level(image);
    let levels: Vec<&Level> = [&full].into_iter().chain(stored.iter().map(Stored::level)).collect();
    let format = Format { big: raw_bytes(image, &levels) > CLASSIC_BYTES };
    let sources: Vec<&dyn Pixels> = [pixels].into_iter().chain(stored.iter().map(|level| level as _)).collect();
    write_levels(image, format, (&levels, &sources), (file, path), threads, &|share| watch(0.3 + 0.7 * share))
}

/// Writes the levels of an image, of which the first is the full size.
fn write_levels(
    image: &Image,
    format: Format,
    (levels, sources): (&[&Level], &[&dyn Pixels]),
    (file, path): (&File, &Path),
    threads: usize,
    watch: &Watch,
) -> Result<()> {
    let mut pages = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        pages.push(page(image, level, number, false));
        if image.has_mask {
            pages.push(page(image, level, number, true));
        }
    }
    let mut out = Output { file: BufWriter::with_capacity(1 << 20, file), path, at: 0 };
    let head = head(format, &pages);
    out.write(&head)?;
    let all: usize = pages.iter().map(|page| page.offsets.len()).sum();
    let mut written = 0;
    for number in (0..levels.len()).rev() {
        for page in pages.iter_mut().filter(|page| page.level == number) {
            let tiles = Tiles { image, level: levels[number], source: sources[number], is_mask: page.is_mask };
            for first in (0..page.offsets.len()).step_by(threads * AHEAD) {
                let count = (threads * AHEAD).min(page.offsets.len() - first);
                for (place, bytes) in in_parallel(threads, count, |i| tiles.tile(first + i))?.into_iter().enumerate() {
                    out.write(&(bytes.len() as u32).to_le_bytes())?;
                    (page.offsets[first + place], page.lengths[first + place]) = (out.at, bytes.len() as u64);
                    out.write(&bytes)?;
                    out.write(&bytes[bytes.len().saturating_sub(4)..])?;
                }
                written += count;
                watch(written as f64 / all as f64)?;
            }
        }
    }
    let head = self::head(format, &pages);
    out.rewrite(&head)
}

/// A file that is written from its start.
struct Output<'a> {
    file: BufWriter<&'a File>,
    path: &'a Path,
    at: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| failed("write", self.path, e))
    }

    /// Writes the file's first bytes again.
    fn rewrite(&mut self, bytes: &[u8]) -> Result<()> {
        let mut again = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(bytes)?;
            self.file.flush()
        };
        again().map_err(|e| failed("write", self.path, e))
    }
}

fn full_level(image: &Image) -> Level {
    Level { height: image.height, width: image.width, bands: image.bands, values: image.values.clone() }
}

/// Levels until one fits into a tile, each computed from the one below.
fn overviews(image: &Image, pixels: &dyn Pixels, folder: &Path, threads: usize, watch: &Watch) -> Result<Vec<Stored>> {
    let mut stored: Vec<Stored> = Vec::new();
    let mut below = full_level(image);
    while below.height.max(below.width) > TILE {
        let next = Stored::new(below.halved(), folder)?;
        let source: &dyn Pixels = stored.last().map_or(pixels, |level| level);
        let rows = next.level().height;
        for first in (0..rows).step_by(threads * AHEAD) {
            let count = (threads * AHEAD).min(rows - first);
            in_parallel(threads, count, |i| next.fill_row(source, &below, first + i))?;
            // The first level has three quarters of the work of all.
            let share = first as f64 / rows as f64;
            watch(0.3 * if stored.is_empty() { 0.75 * share } else { 0.75 + 0.25 * share })?;
        }
        below = next.level().clone();
        stored.push(next);
    }
    Ok(stored)
}

/// Bytes of all tiles before compression.
fn raw_bytes(image: &Image, levels: &[&Level]) -> u64 {
    let pixel = image.bands * image.values.dtype.bytes() + 1;
    let tiles: usize = levels.iter().map(|level| level.height.div_ceil(TILE) * level.width.div_ceil(TILE)).sum();
    (tiles * (TILE * TILE * pixel + 4096)) as u64
}

/// `count` results of `work`, in order, from up to `threads` threads.
fn in_parallel<T: Send>(threads: usize, count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let share = count.div_ceil(threads.max(1)).max(1);
    let part = |first: usize| (first..(first + share).min(count)).map(&work).collect::<Result<Vec<T>>>();
    let part = &part;
    let parts = thread::scope(|scope| {
        let started: Vec<_> = (0..count).step_by(share).map(|first| scope.spawn(move || part(first))).collect();
        let ended = started.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(count);
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

/// Header, a note for GDAL, and all directories.
fn head(format: Format, pages: &[Page]) -> Vec<u8> {
    let note = format!("GDAL_STRUCTURAL_METADATA_SIZE={:06} bytes\n{STRUCTURE}", STRUCTURE.len());
    let first = (format.header(0).len() + note.len()).next_multiple_of(8) as u64;
    let mut bytes = format.header(first);
    bytes.extend(note.as_bytes());
    bytes.resize(first as usize, 0);
    for (number, page) in pages.iter().enumerate() {
        let mut tags = page.tags.clone();
        tags.push(format.offsets(TILE_OFFSETS, &page.offsets));
        tags.push(format.offsets(TILE_BYTE_COUNTS, &page.lengths));
        tags.sort_by_key(|tag| tag.code);
        let at = bytes.len() as u64;
        let behind = at + format.directory_len(&tags);
        let next = if number + 1 < pages.len() { behind } else { 0 };
        bytes.extend(format.directory(&tags, at, next));
    }
    bytes
}

/// The directory of a level or of its mask, without its tiles.
fn page(image: &Image, level: &Level, number: usize, is_mask: bool) -> Page {
    let kind = if number > 0 { REDUCED } else { 0 } | if is_mask { MASK } else { 0 };
    let mut tags = vec![
        RawTag::long(NEW_SUBFILE_TYPE, kind),
        RawTag::long(256, level.width as u32),
        RawTag::long(257, level.height as u32),
        RawTag::shorts(284, &[1]),
        RawTag::shorts(322, &[TILE as u16]),
        RawTag::shorts(323, &[TILE as u16]),
    ];
    if is_mask {
        tags.extend(
            [(258, 1), (259, DEFLATE), (PHOTOMETRIC, PHOTOMETRIC_MASK), (277, 1)]
                .map(|(code, value)| RawTag::shorts(code, &[value])),
        );
    } else {
        tags.extend(pixel_tags(image, number));
    }
    let tiles = level.height.div_ceil(TILE) * level.width.div_ceil(TILE);
    Page { tags, level: number, is_mask, offsets: vec![0; tiles], lengths: vec![0; tiles] }
}

/// Tags of what pixels are.
fn pixel_tags(image: &Image, number: usize) -> Vec<RawTag> {
    let (bands, dtype) = (image.bands, image.values.dtype);
    let photometric = image.tags.iter().find(|tag| tag.code == PHOTOMETRIC).cloned();
    let photometric = photometric.unwrap_or_else(|| RawTag::shorts(PHOTOMETRIC, &[1]));
    let colours = if photometric.to_shorts() == [PHOTOMETRIC_RGB] { 3 } else { 1 };
    let format = match dtype {
        PixelType::U8 | PixelType::U16 => 1,
        PixelType::I16 => 2,
        PixelType::F32 => 3,
    };
    let mut tags = vec![
        RawTag::shorts(258, &vec![8 * dtype.bytes() as u16; bands]),
        RawTag::shorts(259, &[image.compression.code()]),
        photometric,
        RawTag::shorts(277, &[bands as u16]),
        RawTag::shorts(339, &vec![format; bands]),
    ];
    match image.compression.predictor(dtype) {
        1 => {}
        predictor => tags.push(RawTag::shorts(317, &[predictor])),
    }
    if bands > colours {
        tags.push(RawTag::shorts(338, &vec![0; bands - colours]));
    }
    if let Some(nodata) = image.values.fill {
        tags.push(RawTag::text(GDAL_NODATA, &if nodata.is_nan() { "nan".into() } else { nodata.to_string() }));
    }
    if number == 0 {
        tags.push(RawTag::text(SOFTWARE, image.software));
        tags.extend(image.tags.iter().filter(|tag| tag.code != PHOTOMETRIC).cloned());
    }
    tags
}

/// The tiles of a level or of its mask.
struct Tiles<'a> {
    image: &'a Image<'a>,
    level: &'a Level,
    source: &'a dyn Pixels,
    is_mask: bool,
}

impl Tiles<'_> {
    /// The bytes of tile `index`. Beyond the image's edge its last pixels are repeated, which compress well.
    fn tile(&self, index: usize) -> Result<Vec<u8>> {
        let across = self.level.width.div_ceil(TILE);
        let (row, column) = (index / across * TILE, index % across * TILE);
        let rows = TILE.min(self.level.height - row);
        let columns = column..(column + TILE).min(self.level.width);
        let pixel = self.level.bands * self.level.values.dtype.bytes();
        let (mut bytes, mut values, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for y in row..row + rows {
            values.clear();
            valid.clear();
            self.source.read(y, columns.clone(), &mut values, &mut valid)?;
            if self.is_mask {
                valid.resize(TILE, 0);
                bytes.extend(valid.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)));
            } else {
                let last = values[values.len() - pixel..].to_vec();
                (columns.len()..TILE).for_each(|_| values.extend(&last));
                bytes.extend(&values);
            }
        }
        let row_bytes = bytes.len() / rows;
        let last = bytes[bytes.len() - row_bytes..].to_vec();
        (rows..TILE).for_each(|_| bytes.extend(&last));
        if self.is_mask {
            return tile::compressed(bytes, Compression::Deflate);
        }
        let (compression, dtype) = (self.image.compression, self.image.values.dtype);
        tile::predicted(&mut bytes, TILE, self.level.bands, dtype, compression.predictor(dtype));
        tile::compressed(bytes, compression)
    }
}
