//! TIFF sources: strips or tiles, band-interleaved or by planes, classic or BigTIFF, read as GDAL reads them. Whole rows
//! of strips or tiles are unpacked at a time, so that memory does not grow with the scene.

mod metadata;
mod overlay;
mod pages;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiff_reader::{ByteOrder, Ifd, OpenOptions, ParseBudgets, TiffError, TiffFile};

use self::overlay::Overlay;
use self::pages::Page;
use super::array::{ArraySource, Values};
use super::{MaskKind, RawTag, Source, SourceInfo, largest_image, zeroed};
use crate::error::{Error, Result};

const COMPRESSION_NONE: u16 = 1;
const COMPRESSION_JPEG: u16 = 7;
const COMPRESSION_LERC: u16 = 34887;
const PHOTOMETRIC_PALETTE: u16 = 3;
const PHOTOMETRIC_YCBCR: u16 = 6;
const NEW_SUBFILE_TYPE: u16 = 254;
const COLOUR_MAP: u16 = 320;
const EXTRA_SAMPLES: u16 = 338;
/// Bits of the tag NewSubfileType.
const REDUCED: u64 = 1;
const MASK: u64 = 4;

/// Bytes unpacked at a time, unless a strip or a row of tiles is larger.
const BLOCK_BYTES: usize = 4 << 20;
const CONVERT: &str = "convert it, for example: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif";
const CONVERT_TYPE: &str = "convert it: gdal_translate -ot Float32 -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif";

/// Opens a TIFF file. Its first image is read; further images of the same size and type are further bands.
pub(super) fn open(path: &Path) -> Result<TiffSource> {
    let failed = |e| decode_error(path, &e);
    let overlay = Overlay::open(path)?;
    let options = OpenOptions {
        decode_output_bytes: largest_image(overlay.file_len()),
        parse_budgets: ParseBudgets { max_metadata_value_bytes: 256 << 20, ..ParseBudgets::default() },
        ..OpenOptions::default()
    };
    let file = TiffFile::from_source_with_options(Arc::clone(&overlay) as _, options).map_err(failed)?;
    let [first, others @ ..] = file.ifds() else { return Err(Error::data(path, "the TIFF file holds no image")) };
    check_colours(path, first)?;
    let mut ifds: Vec<&Ifd> = vec![first];
    ifds.extend(others.iter().filter(|ifd| is_band_page(first, ifd)));
    let images = ifds.len();
    ifds.extend(others.iter().find(|ifd| is_mask_of(first, ifd)));
    let mut pages = Vec::with_capacity(ifds.len());
    for ifd in overlay.correct(&file, &ifds).map_err(failed)? {
        pages.push(Page::new(ifd).map_err(failed)?);
    }
    let mask = pages.drain(images..).next();
    pages.iter().chain(&mask).try_for_each(|page| page.check_length(path, overlay.file_len()))?;
    let info = describe(&file, &pages, mask.is_some());
    let mut source = TiffSource { path: path.into(), file, info, pages, mask, plain: None, next_row: 0 };
    source.plain = source.as_plain_array(&overlay)?;
    Ok(source)
}

/// The text of a tag of the first image of a file.
pub(super) fn text_tag(path: &Path, code: u16) -> Option<String> {
    let file = TiffFile::open(path).ok()?;
    let tag = file.ifds().first()?.tag(code)?;
    Some(RawTag::of(code, &tag.value).to_text())
}

/// An open TIFF file.
pub(super) struct TiffSource {
    path: PathBuf,
    file: TiffFile,
    info: SourceInfo,
    pages: Vec<Page>,
    /// The internal mask.
    mask: Option<Page>,
    /// The pixels, where they are one plain array.
    plain: Option<ArraySource>,
    next_row: usize,
}

impl TiffSource {
    /// Uncompressed strips that follow each other are one plain array: it is read by rows, however large a strip is
    /// (some writers put a whole scene into one).
    fn as_plain_array(&self, overlay: &Overlay) -> Result<Option<ArraySource>> {
        let [page] = self.pages.as_slice() else { return Ok(None) };
        let Some(at) = page.plain_at() else { return Ok(None) };
        let file = overlay.file().try_clone().map_err(|e| Error::io("open", &self.path, e))?;
        let values = if page.is_planar() { Values::Planar { file, at } } else { Values::Interleaved { file, at } };
        let swap = (self.file.byte_order() == ByteOrder::BigEndian) != cfg!(target_endian = "big");
        Ok(Some(ArraySource { path: self.path.clone(), info: self.info.clone(), values, swap, next_row: 0 }))
    }

    /// Values of rows from `first` on: rows, columns, `bands`, in the file's type and native byte order.
    fn read(&self, first: usize, rows: usize, bands: &[usize]) -> Result<Vec<u8>> {
        let failed = |e| decode_error(&self.path, &e);
        let samples = self.pages[0].samples();
        let fill = self.info.nodata.unwrap_or(0.0);
        if let [page] = self.pages.as_slice() {
            return page.read(&self.file, first, rows, bands, fill).map_err(failed);
        }
        let size = self.info.value_type.bytes();
        let mut out = zeroed(&self.path, rows * self.info.width * bands.len() * size)?;
        for (number, page) in self.pages.iter().enumerate() {
            let places: Vec<usize> = (0..bands.len()).filter(|&place| bands[place] / samples == number).collect();
            let own: Vec<usize> = places.iter().map(|&place| bands[place] % samples).collect();
            if own.is_empty() {
                continue;
            }
            let values = page.read(&self.file, first, rows, &own, fill).map_err(failed)?;
            for (from, to) in values.chunks_exact(own.len() * size).zip(out.chunks_exact_mut(bands.len() * size)) {
                for (value, &place) in from.chunks_exact(size).zip(&places) {
                    to[place * size..][..size].copy_from_slice(value);
                }
            }
        }
        Ok(out)
    }
}

impl TiffSource {
    /// Appends a byte for each pixel of `rows` rows from `first` on: 0 where the first band is 0.
    pub(super) fn first_band(&self, first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        self.read_flags(first, rows, 0, out)
    }

    fn read_flags(&self, first: usize, rows: usize, band: usize, out: &mut Vec<u8>) -> Result<()> {
        let values = self.read(first, rows, &[band])?;
        let is_set = |value: &[u8]| u8::from(value.iter().any(|&byte| byte != 0));
        out.extend(values.chunks_exact(self.info.value_type.bytes()).map(is_set));
        Ok(())
    }
}

impl Source for TiffSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        if let Some(plain) = &mut self.plain {
            return plain.next_rows(bands, out);
        }
        let SourceInfo { height, width, value_type, .. } = self.info;
        let block_rows = self.pages[0].block_rows();
        let row_bytes = width.saturating_mul(self.info.bands).saturating_mul(value_type.bytes()).max(1);
        let blocks = (BLOCK_BYTES / row_bytes / block_rows).max(1);
        // Up to the end of a strip or row of tiles, so that none is unpacked twice.
        let rows = (blocks.saturating_mul(block_rows) - self.next_row % block_rows).min(height - self.next_row);
        if rows > 0 {
            value_type.convert(&self.read(self.next_row, rows, bands)?, out);
            self.next_row += rows;
        }
        Ok(rows)
    }

    fn seek(&mut self, row: usize) {
        self.next_row = row.min(self.info.height);
        self.plain.iter_mut().for_each(|plain| plain.seek(row));
    }

    fn read_mask(&mut self, first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        match (&self.mask, self.info.alpha) {
            (Some(mask), _) => {
                let failed = |e| decode_error(&self.path, &e);
                let values = mask.read(&self.file, first, rows, &[0], 0.0).map_err(failed)?;
                let size = mask.value_type().bytes();
                out.extend(values.chunks_exact(size).map(|value| u8::from(value.iter().any(|&byte| byte != 0))));
            }
            (None, Some(alpha)) => self.read_flags(first, rows, alpha, out)?,
            (None, None) => out.resize(out.len() + rows * self.info.width, 1),
        }
        Ok(())
    }
}

/// The first image's description, all pages' bands counted.
fn describe(file: &TiffFile, pages: &[Page], has_mask: bool) -> SourceInfo {
    let page = &pages[0];
    let (height, width) = page.size();
    let bands = page.samples() * pages.len();
    let value_type = page.value_type();
    let order = match pages.len() {
        1 if page.is_planar() => "by planes".to_owned(),
        1 => "band-interleaved".to_owned(),
        n => format!("in {n} pages"),
    };
    let shape = format!("{height} rows, {width} columns, {bands} bands of {value_type}, {order}");
    let mut info = SourceInfo::new([height, width, bands], value_type, shape);
    let original = &file.ifds()[0];
    let (nodata, note) = metadata::nodata(original);
    info.nodata = nodata;
    info.notes.extend(note);
    if pages.len() > 1 {
        info.notes.push(format!("it has {} pages of one size, which are taken as bands", pages.len()));
    }
    if original.tag(COLOUR_MAP).is_some() {
        info.notes.push("its colour table is not applied: the file says that its values are data".to_owned());
    }
    info.scaling = metadata::scaling(original, bands);
    info.tags = RawTag::kept(original);
    info.alpha = alpha_band(original, page.samples()).filter(|_| pages.len() == 1);
    info.mask = match info.alpha {
        _ if has_mask => Some(MaskKind::Internal),
        Some(_) => Some(MaskKind::Alpha),
        None => None,
    };
    info
}

/// The band that ExtraSamples marks as alpha.
fn alpha_band(ifd: &Ifd, samples: usize) -> Option<usize> {
    let kinds = ifd.tag(EXTRA_SAMPLES)?.value.as_u64_vec()?;
    let first_extra = samples.checked_sub(kinds.len())?;
    kinds.iter().position(|kind| matches!(kind, 1 | 2)).map(|place| first_extra + place)
}

fn subfile(ifd: &Ifd) -> u64 {
    ifd.tag(NEW_SUBFILE_TYPE).and_then(|tag| tag.value.as_u64()).unwrap_or(0)
}

fn same_size(a: &Ifd, b: &Ifd) -> bool {
    (a.width(), a.height()) == (b.width(), b.height())
}

/// Whether `other` holds further bands of the image `first`.
fn is_band_page(first: &Ifd, other: &Ifd) -> bool {
    let kind = |ifd: &Ifd| {
        let (bits, formats) = (ifd.bits_per_sample().ok(), ifd.sample_format().ok());
        let first_of = |values: Option<Vec<u16>>| values.and_then(|values| values.first().copied());
        (ifd.samples_per_pixel(), first_of(bits), first_of(formats))
    };
    subfile(other) & (REDUCED | MASK) == 0 && same_size(first, other) && kind(first) == kind(other)
}

/// Whether `other` is the mask of the image `first`, in full size.
fn is_mask_of(first: &Ifd, other: &Ifd) -> bool {
    subfile(other) & (REDUCED | MASK) == MASK && same_size(first, other) && other.samples_per_pixel() == 1
}

/// Refuses images whose values are not those of bands.
fn check_colours(path: &Path, ifd: &Ifd) -> Result<()> {
    match ifd.photometric_interpretation() {
        Some(PHOTOMETRIC_PALETTE) => Err(Error::data(path, "a TIFF file with a colour table holds no band values")
            .with_hint("if its colours are the data: gdal_translate -expand rgb in.tif out.tif")),
        Some(PHOTOMETRIC_YCBCR) if ifd.compression() != COMPRESSION_JPEG => {
            let message = "the TIFF file holds YCbCr colours without JPEG compression";
            Err(Error::data(path, message).with_hint("convert it: gdal_translate -co PHOTOMETRIC=RGB in.tif out.tif"))
        }
        _ => Ok(()),
    }
}

fn decode_error(path: &Path, error: &TiffError) -> Error {
    match error {
        TiffError::UnsupportedCompression(_) => Error::data(path, format!("TIFF file: {error}")).with_hint(CONVERT),
        TiffError::UnsupportedBitsPerSample(bits) => {
            Error::data(path, format!("TIFF values of {bits} bits are not supported")).with_hint(CONVERT_TYPE)
        }
        TiffError::UnsupportedSampleFormat(_) => {
            Error::data(path, "TIFF samples that are neither integers nor floating-point numbers are not supported")
                .with_hint(CONVERT_TYPE)
        }
        TiffError::DecodeOutputTooLarge { requested, limit } => {
            let message = format!(
                "the TIFF file claims a strip or row of tiles of {requested} bytes; for a file of its size up to {limit} are unpacked"
            );
            Error::data(path, message).with_hint(CONVERT)
        }
        TiffError::Io(e, _) => Error::data(path, format!("the TIFF file cannot be read: {e}")),
        other => Error::data(path, format!("the TIFF file is cut off, damaged or of an unknown kind: {other}"))
            .with_hint(CONVERT),
    }
}
