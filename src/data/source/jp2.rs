//! JPEG 2000 files, decoded by windows of rows: Sentinel-2's bands, and what GDAL writes.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use jpeg2k::{DecodeArea, DecodeParameters, DumpImage, Image};
use tiff_reader::TiffFile;

use super::unpacked::Unpacked;
use super::values::ValueType;
use super::{RawTag, Source, SourceInfo, open_file};
use crate::error::{Error, Result};

/// Bytes of decoded samples that a window of rows has at most; a sample takes four.
const WINDOW_BYTES: usize = 64 << 20;

/// Rows of a window at most: those of a tile of Sentinel-2.
const WINDOW_ROWS: usize = 1024;

/// Bytes of a file in which boxes are looked for, and of a box of tags.
const MOST_HEADER: usize = 1 << 20;

/// The box that holds a GeoTIFF file without pixels.
const GEOTIFF_BOX: [u8; 16] =
    [0xb1, 0x4b, 0xf8, 0xbd, 0x08, 0x3d, 0x4b, 0x43, 0xa5, 0xae, 0x8c, 0xd7, 0xd5, 0xa6, 0xce, 0x03];

/// An image of one or more bands of one size.
pub(super) struct Jp2 {
    /// The file, or the member of an archive, for messages.
    path: PathBuf,
    /// The file where it was part of an archive.
    unpacked: Option<Unpacked>,
    /// Left and upper edge in the image's own grid.
    origin: [usize; 2],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) bands: usize,
    pub(super) value_type: ValueType,
    /// Where the pixels are on the ground, if the file says so.
    tags: Vec<RawTag>,
}

impl Jp2 {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// If it is no JPEG 2000 file, or has bands of different sizes or more than 16 bits.
    pub fn open(path: &Path) -> Result<Jp2> {
        Jp2::describe(path, None)
    }

    /// Reads the header of a member of an archive; `path` names it in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_member(path: &Path, unpacked: Unpacked) -> Result<Jp2> {
        Jp2::describe(path, Some(unpacked))
    }

    fn describe(path: &Path, unpacked: Option<Unpacked>) -> Result<Jp2> {
        let wrong = |message: String| Error::data(path, message);
        let file = unpacked.as_ref().map_or(path, Unpacked::path);
        let mut start = Vec::new();
        open_file(file)?.take(MOST_HEADER as u64).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?;
        let (extent, tags) = (extent(&start), geo_tags(&start));
        let extent = extent.ok_or_else(|| unreadable(path, "it has no header"))?;
        let rows = extent.height as u64 * extent.width as u64;
        if rows == 0 || extent.width as usize * 4 > WINDOW_BYTES {
            return Err(wrong(format!("the file claims {} × {} pixels", extent.width, extent.height)));
        }
        let image = guarded(path, || DumpImage::from_file(file).map(|dump| dump.img))?;
        let components = image.components();
        let [first, ..] = components else { return Err(wrong("the image has no bands".into())) };
        let size = |c: &jpeg2k::ImageComponent| (c.width(), c.height());
        if components.iter().any(|c| size(c) != (image.orig_width(), image.orig_height())) {
            let hint = "bring the bands to one grid: gdal_translate in.jp2 out.tif";
            return Err(wrong("its bands have different sizes".into()).with_hint(hint));
        }
        let signed = first.is_signed();
        let bits = components.iter().map(jpeg2k::ImageComponent::precision).max().unwrap_or(0);
        let value_type = match (signed, bits) {
            (false, 1..=8) => ValueType::U8,
            (false, 9..=16) => ValueType::U16,
            (true, 1..=8) => ValueType::I8,
            (true, 9..=16) => ValueType::I16,
            _ => return Err(wrong(format!("values of {bits} bits; 1 to 16 can be read"))),
        };
        if components.iter().any(|c| c.is_signed() != signed) {
            return Err(wrong("some of its bands are signed and some are not".into()));
        }
        let origin = [image.x_offset() as usize, image.y_offset() as usize];
        let (height, width) = (image.orig_height() as usize, image.orig_width() as usize);
        Ok(Jp2 { path: path.into(), bands: components.len(), unpacked, origin, height, width, value_type, tags })
    }

    /// Rows of a window at most.
    pub fn window_rows(&self) -> usize {
        (WINDOW_BYTES / (self.width * self.bands * 4).max(1)).clamp(1, WINDOW_ROWS)
    }

    /// The samples of full-width rows, band by band: rows × columns each.
    ///
    /// # Errors
    /// If the file is damaged or ends too early.
    pub fn rows(&self, first: usize, rows: usize) -> Result<Vec<Vec<i32>>> {
        let [x, y] = self.origin.map(|at| at as u32);
        let (top, bottom) = (y + first as u32, y + (first + rows) as u32);
        let area = DecodeArea::new(x, top, x + self.width as u32, bottom);
        let with = DecodeParameters::new().strict(true).ignore_pclr_cmap_cdef().decode_area(Some(area));
        let decoded = guarded(&self.path, || {
            // From a file even where the bytes are in memory: jpeg2k's stream of bytes skips wrongly, and a window of
            // rows begins behind tiles that are skipped.
            let image = Image::from_file_with(self.unpacked.as_ref().map_or(&*self.path, Unpacked::path), with)?;
            let of = |component: &jpeg2k::ImageComponent| {
                let whole = component.width() as usize == self.width && component.height() as usize == rows;
                whole.then(|| component.data().to_vec())
            };
            Ok(image.components().iter().map(of).collect::<Option<Vec<_>>>())
        })?;
        let decoded = decoded.filter(|bands| bands.len() == self.bands);
        decoded.ok_or_else(|| unreadable(&self.path, "pixels are missing"))
    }
}

/// What the decoder makes of a file. It is a translation of C code, so a damaged file may run into one of its checks:
/// that is an error about the file like any other.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> std::result::Result<T, jpeg2k::error::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(e)) => Err(unreadable(path, e)),
        Err(_) => Err(unreadable(path, "the decoder gave up on it")),
    }
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Error {
    let hint = "fetch it again; where gdal_translate can read it, its GeoTIFF file can be used";
    Error::data(path, format!("not a readable JPEG 2000 file: {why}")).with_hint(hint)
}

/// Pixels of the whole image.
struct Extent {
    width: u32,
    height: u32,
}

/// The extent that the codestream's first marker segment states (ISO 15444-1, A.5.1).
fn extent(start: &[u8]) -> Option<Extent> {
    let at = start.windows(4).position(|four| four == [0xff, 0x4f, 0xff, 0x51])?;
    let number = |offset: usize| Some(u32::from_be_bytes(start.get(at + offset..at + offset + 4)?.try_into().ok()?));
    let ([width, height], [x, y]) = ([number(8)?, number(12)?], [number(16)?, number(20)?]);
    Some(Extent { width: width.checked_sub(x)?, height: height.checked_sub(y)? })
}

/// The geographic tags of a file, if it has a box of them (GeoJP2).
fn geo_tags(start: &[u8]) -> Vec<RawTag> {
    let mut rest = start;
    while let Some((header, _)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        // A box of 0 reaches to the end, one of 1 has a length of 64 bits: the codestream's, which comes last.
        let Some(content) = rest.get(8..length) else { break };
        if &header[4..] == b"uuid"
            && let Some(tiff) = content.strip_prefix(&GEOTIFF_BOX)
        {
            let file = TiffFile::from_bytes(tiff.to_vec()).ok();
            return file.and_then(|file| file.ifds().first().map(RawTag::kept)).unwrap_or_default();
        }
        rest = &rest[length..];
    }
    Vec::new()
}

/// A JPEG 2000 file as an image.
pub(super) struct Jp2Source {
    image: Jp2,
    info: SourceInfo,
    next_row: usize,
}

/// Opens a `.jp2` or `.j2k` file.
pub(super) fn open(path: &Path) -> Result<Jp2Source> {
    let image = Jp2::open(path)?;
    let Jp2 { height, width, bands, value_type, .. } = image;
    let shape = format!("{height} rows, {width} columns, {bands} bands of {value_type}");
    let mut info = SourceInfo::new([height, width, bands], value_type, shape);
    info.tags.clone_from(&image.tags);
    Ok(Jp2Source { image, info, next_row: 0 })
}

impl Source for Jp2Source {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        let rows = self.image.window_rows().min(self.info.height - self.next_row);
        if rows > 0 {
            let decoded = self.image.rows(self.next_row, rows)?;
            let chosen: Vec<&[i32]> = bands.iter().map(|&band| decoded[band].as_slice()).collect();
            for pixel in 0..rows * self.info.width {
                chosen.iter().for_each(|samples| append(self.info.value_type, samples[pixel], out));
            }
            self.next_row += rows;
        }
        Ok(rows)
    }

    fn seek(&mut self, row: usize) {
        self.next_row = row.min(self.info.height);
    }
}

/// Appends a sample as it is stored: of 8 bits uint8, or int16 if it is signed, else of 16.
fn append(value_type: ValueType, sample: i32, out: &mut Vec<u8>) {
    match value_type {
        ValueType::U8 => out.push(sample.clamp(0, 255) as u8),
        ValueType::U16 => out.extend((sample.clamp(0, 65535) as u16).to_ne_bytes()),
        _ => out.extend((sample.clamp(-32768, 32767) as i16).to_ne_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that begin behind the first tiles, which a decoder skips.
    #[test]
    fn windows_of_files_and_of_members_have_the_rows_of_the_whole() {
        for name in ["u8.jp2", "u16.jp2", "i16.jp2", "codestream_u16.j2k"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jp2").join(name);
            let bytes = std::fs::read(&path).unwrap();
            let member = Unpacked::of(&path, bytes.as_slice(), 1 << 20).unwrap();
            let file = Jp2::open(&path).unwrap();
            let whole = file.rows(0, file.height).unwrap();
            for image in [file, Jp2::of_member(&path, member).unwrap()] {
                for first in [0, 20, 32, image.height - 1] {
                    let window = image.rows(first, image.height - first).unwrap();
                    let want = whole.iter().map(|band| band[first * image.width..].to_vec());
                    assert_eq!(window, want.collect::<Vec<_>>(), "{name} from row {first}");
                }
            }
        }
    }
}
