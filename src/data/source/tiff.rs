//! TIFF sources: striped or tiled, band-interleaved or by planes, uncompressed, LZW, deflate or PackBits with
//! horizontal or floating-point predictor, classic or BigTIFF. Unpacked one row of strips or tiles at a time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tiff::decoder::{ChunkType, Decoder, DecodingSampleType, Limits};
use tiff::tags::Tag;

use super::array::{ArraySource, Values};
use super::{Source, SourceInfo, open_file, zeroed};
use crate::data::PixelType;
use crate::error::{Error, Result};

/// Largest strip or tile that is unpacked, in bytes.
const MAX_CHUNK: usize = 2 << 30;
const CONVERT: &str = "convert it, for example: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif";

type TiffDecoder = Decoder<BandsOnly<BufReader<File>>>;

/// Opens a TIFF file; its first image is read.
pub(super) fn open(path: &Path) -> Result<Box<dyn Source>> {
    let mut file = open_file(path)?;
    let photometric = find_photometric(&mut file).map_err(|m| Error::data(path, m))?;
    let reader = BandsOnly { inner: BufReader::new(file), at: 0, patch: photometric };
    let failed = |e| decode_error(path, &e);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_CHUNK;
    limits.intermediate_buffer_size = MAX_CHUNK;
    limits.ifd_value_size = 256 << 20;
    let mut decoder = Decoder::new(reader).map_err(failed)?.with_limits(limits);
    let tags = Tags::read(path, &mut decoder)?;
    tags.check_length(path, &mut decoder)?;
    if let Some(array) = tags.as_plain_array(path, &mut decoder)? {
        return Ok(Box::new(array));
    }
    Ok(Box::new(TiffSource { path: path.into(), decoder, tags, next_chunk_row: 0 }))
}

/// A compressed, tiled or scattered image.
struct TiffSource {
    path: PathBuf,
    decoder: TiffDecoder,
    tags: Tags,
    next_chunk_row: usize,
}

/// The tags that matter.
struct Tags {
    info: SourceInfo,
    planar: bool,
    compressed: bool,
    big_endian: bool,
    tiled: bool,
    chunk_height: usize,
    chunk_width: usize,
    /// Byte position and length of each strip or tile; length 0 is one that was never written.
    chunks: Vec<(u64, u64)>,
}

impl Tags {
    fn read(path: &Path, decoder: &mut TiffDecoder) -> Result<Tags> {
        let failed = |e| decode_error(path, &e);
        let (width, height) = decoder.dimensions().map_err(failed)?;
        let compression: u16 = decoder.find_tag_unsigned(Tag::Compression).map_err(failed)?.unwrap_or(1);
        if ![1, 5, 8, 32773, 32946].contains(&compression) {
            let message = format!("TIFF compression {compression} is not supported (none, LZW, deflate, PackBits are)");
            return Err(Error::data(path, message).with_hint(CONVERT));
        }
        let bands: u16 = decoder.find_tag_unsigned(Tag::SamplesPerPixel).map_err(failed)?.unwrap_or(1);
        let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(failed)? == Some(2);
        let predictor: u16 = decoder.find_tag_unsigned(Tag::Predictor).map_err(failed)?.unwrap_or(1);
        let dtype = pixel_type(path, decoder)?;
        let (chunk_width, chunk_height) = decoder.chunk_dimensions();
        let tiled = decoder.get_chunk_type() == ChunkType::Tile;
        let (at, len) =
            if tiled { (Tag::TileOffsets, Tag::TileByteCounts) } else { (Tag::StripOffsets, Tag::StripByteCounts) };
        let at: Vec<u64> = decoder.find_tag_unsigned_vec(at).map_err(failed)?.unwrap_or_default();
        let len: Vec<u64> = decoder.find_tag_unsigned_vec(len).map_err(failed)?.unwrap_or_default();
        let order = if planar { "by planes" } else { "band-interleaved" };
        let info = SourceInfo {
            height: height as usize,
            width: width as usize,
            bands: usize::from(bands),
            dtype,
            nodata: nodata(path, decoder)?,
            plain_at: None,
            shape: format!("{height} rows, {width} columns, {bands} bands of {dtype}, {order}"),
            layout_applied: false,
        };
        Ok(Tags {
            planar,
            compressed: compression != 1 || predictor != 1,
            big_endian: decoder.byte_order() == tiff::tags::ByteOrder::BigEndian,
            tiled,
            chunk_height: (chunk_height as usize).min(info.height.max(1)),
            chunk_width: chunk_width as usize,
            chunks: at.into_iter().zip(len).collect(),
            info,
        })
    }

    /// Refuses a file that ends before its last strip or tile does.
    fn check_length(&self, path: &Path, decoder: &mut TiffDecoder) -> Result<()> {
        let file = decoder.inner().inner.get_ref();
        let there = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        match self.chunks.iter().map(|&(at, len)| at.saturating_add(len)).max() {
            Some(wanted) if wanted > there => {
                Err(Error::data(path, format!("the file is cut off: {wanted} bytes expected, {there} there")))
            }
            _ => Ok(()),
        }
    }

    /// Uncompressed strips that follow each other are one plain array: it is read by rows, however large a
    /// strip is (some writers put a whole scene into one).
    fn as_plain_array(&self, path: &Path, decoder: &mut TiffDecoder) -> Result<Option<ArraySource>> {
        let joined = self.chunks.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0);
        let SourceInfo { height, width, bands, dtype, .. } = self.info;
        let wanted = [width, bands, dtype.bytes()].iter().fold(height as u64, |n, &f| n.saturating_mul(f as u64));
        let stated: u64 = self.chunks.iter().map(|&(_, len)| len).fold(0, u64::saturating_add);
        if self.compressed || self.tiled || !joined || stated != wanted {
            return Ok(None);
        }
        let at = self.chunks[0].0;
        let file = decoder.inner().inner.get_ref().try_clone().map_err(|e| Error::io("open", path, e))?;
        let values = if self.planar { Values::Planar { file, at } } else { Values::Interleaved { file, at } };
        let info = self.info.clone();
        Ok(Some(ArraySource { path: path.into(), info, values, swap: self.big_endian, next_row: 0 }))
    }
}

impl TiffSource {
    /// Copies the `bands` of one strip or tile into `out`, which holds whole rows of the image.
    fn unpack(&mut self, column: usize, plane: usize, bands: &[(usize, usize)], out: &mut RowBlock) -> Result<()> {
        let across = self.tags.info.width.div_ceil(self.tags.chunk_width);
        let down = self.tags.info.height.div_ceil(self.tags.chunk_height);
        let index = (plane * down + self.next_chunk_row) * across + column;
        let size = self.tags.info.dtype.bytes();
        let chunk = self.read_chunk(index)?;
        let (width, rows) = self.decoder.chunk_data_dimensions(index as u32);
        let samples = if self.tags.planar { 1 } else { self.tags.info.bands };
        for y in 0..(rows as usize).min(out.rows) {
            let line = &chunk[y * width as usize * samples * size..][..width as usize * samples * size];
            let first = (y * self.tags.info.width + column * self.tags.chunk_width) * out.bands * size;
            let target = &mut out.bytes[first..first + width as usize * out.bands * size];
            for (from, to) in line.chunks_exact(samples * size).zip(target.chunks_exact_mut(out.bands * size)) {
                for &(source, place) in bands {
                    to[place * size..][..size].copy_from_slice(&from[source * size..][..size]);
                }
            }
        }
        Ok(())
    }

    fn read_chunk(&mut self, index: usize) -> Result<Vec<u8>> {
        let failed = |e| decode_error(&self.path, &e);
        let len = self.decoder.image_chunk_buffer_layout(index as u32).map_err(failed)?.len;
        if len > MAX_CHUNK {
            let message = format!("a strip or tile of {len} bytes is too large to unpack");
            return Err(Error::data(&self.path, message).with_hint(CONVERT));
        }
        let mut chunk = zeroed(&self.path, len)?;
        if self.tags.chunks.get(index).is_some_and(|&(_, len)| len == 0) {
            // A sparse file leaves out chunks without data: all no-data, or 0 where the file names none.
            let fill = self.tags.info.nodata.unwrap_or(0.0);
            fill_with(&mut chunk, self.tags.info.dtype, fill);
        } else {
            self.decoder.read_chunk_bytes(index as u32, &mut chunk).map_err(failed)?;
        }
        Ok(chunk)
    }
}

/// Whole rows being put together from strips or tiles.
struct RowBlock<'a> {
    bytes: &'a mut [u8],
    rows: usize,
    bands: usize,
}

impl Source for TiffSource {
    fn info(&self) -> &SourceInfo {
        &self.tags.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        let SourceInfo { height, width, dtype, .. } = self.tags.info;
        let done = (self.next_chunk_row * self.tags.chunk_height).min(height);
        let rows = self.tags.chunk_height.min(height - done);
        if rows == 0 {
            return Ok(0);
        }
        let start = out.len();
        out.append(&mut zeroed(
            &self.path,
            [width, bands.len(), dtype.bytes()].into_iter().fold(rows, usize::saturating_mul),
        )?);
        let mut block = RowBlock { bytes: &mut out[start..], rows, bands: bands.len() };
        let places: Vec<(usize, usize)> = bands.iter().enumerate().map(|(place, &band)| (band, place)).collect();
        for column in 0..width.div_ceil(self.tags.chunk_width) {
            if self.tags.planar {
                for &(band, place) in &places {
                    self.unpack(column, band, &[(0, place)], &mut block)?;
                }
            } else {
                self.unpack(column, 0, &places, &mut block)?;
            }
        }
        self.next_chunk_row += 1;
        Ok(rows)
    }
}

/// The type of the values, if it is one that can be used.
fn pixel_type(path: &Path, decoder: &mut TiffDecoder) -> Result<PixelType> {
    let failed = |e| decode_error(path, &e);
    let layout = decoder.image_chunk_buffer_layout(0).map_err(failed)?;
    let dtype = match layout.sample_type {
        Some(DecodingSampleType::U8) => PixelType::U8,
        Some(DecodingSampleType::U16) => PixelType::U16,
        Some(DecodingSampleType::I16) => PixelType::I16,
        Some(DecodingSampleType::F32) => PixelType::F32,
        other => {
            let message = format!("values of type {other:?} are not supported (uint8, uint16, int16, float32 are)");
            return Err(Error::data(path, message).with_hint("convert it: gdal_translate -ot Float32"));
        }
    };
    let bits: u16 = decoder
        .find_tag_unsigned_vec(Tag::BitsPerSample)
        .map_err(failed)?
        .and_then(|v| v.first().copied())
        .unwrap_or(1);
    if usize::from(bits) != 8 * dtype.bytes() {
        let message = format!("{bits} bits a value are not supported (8, 16 and 32 are)");
        return Err(Error::data(path, message).with_hint(CONVERT));
    }
    Ok(dtype)
}

fn fill_with(bytes: &mut [u8], dtype: PixelType, value: f64) {
    let (u8_, u16_, i16_, f32_) =
        ([value as u8], (value as u16).to_ne_bytes(), (value as i16).to_ne_bytes(), (value as f32).to_ne_bytes());
    let pattern: &[u8] = match dtype {
        PixelType::U8 => &u8_,
        PixelType::U16 => &u16_,
        PixelType::I16 => &i16_,
        PixelType::F32 => &f32_,
    };
    bytes.chunks_exact_mut(pattern.len()).for_each(|v| v.copy_from_slice(pattern));
}

/// GDAL's no-data value, tag 42113: a number as text.
fn nodata(path: &Path, decoder: &mut TiffDecoder) -> Result<Option<f64>> {
    let Some(value) = decoder.find_tag(Tag::GdalNodata).map_err(|e| decode_error(path, &e))? else {
        return Ok(None);
    };
    let text = value.into_string().map_err(|e| decode_error(path, &e))?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let unreadable =
        || Error::data(path, format!("the no-data tag {text:?} is no number")).with_hint("set Data.nodata");
    text.parse().map(Some).map_err(|_| unreadable())
}

fn decode_error(path: &Path, error: &tiff::TiffError) -> Error {
    let message = match error {
        tiff::TiffError::IoError(e) => format!("the TIFF file is cut off or damaged: {e}"),
        other => format!("the TIFF file cannot be read: {other}"),
    };
    Error::data(path, message)
}

/// A file whose photometric tag reads as "black is zero". To the decoder every image is then a plain stack of
/// bands; else it would drop the fourth band of an image that is marked as RGB.
struct BandsOnly<R> {
    inner: R,
    at: u64,
    /// Position and bytes of the value to show instead.
    patch: Option<(u64, [u8; 2])>,
}

impl<R: Read> Read for BandsOnly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Some((position, bytes)) = self.patch {
            for (place, byte) in (position..).zip(bytes) {
                if let Some(slot) = place.checked_sub(self.at).and_then(|i| buffer[..n].get_mut(i as usize)) {
                    *slot = byte;
                }
            }
        }
        self.at += n as u64;
        Ok(n)
    }
}

impl<R: Seek> Seek for BandsOnly<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.at = self.inner.seek(position)?;
        Ok(self.at)
    }
}

/// Finds the photometric tag of the first image: where its value is, and what to show there.
///
/// Grey, RGB, CMYK and masks are bands like any others; a colour table or YCbCr is not.
fn find_photometric(file: &mut File) -> Result<Option<(u64, [u8; 2])>, String> {
    let cut_off = |e: io::Error| format!("the TIFF file is cut off or damaged: {e}");
    let mut head = [0; 16];
    file.read_exact(&mut head).map_err(cut_off)?;
    let big_endian = match &head[..2] {
        b"II" => false,
        b"MM" => true,
        _ => return Err("not a TIFF file".into()),
    };
    let number = |bytes: &[u8]| -> u64 {
        let shift = |n: u64, b: &u8| n << 8 | u64::from(*b);
        if big_endian { bytes.iter().fold(0, shift) } else { bytes.iter().rev().fold(0, shift) }
    };
    let (directory, count_len, entry_len, value_at) = match number(&head[2..4]) {
        42 => (number(&head[4..8]), 2, 12, 8),
        43 => (number(&head[8..16]), 8, 20, 12),
        _ => return Err("not a TIFF file".into()),
    };
    let mut count = [0; 8];
    file.seek(SeekFrom::Start(directory)).and_then(|_| file.read_exact(&mut count[..count_len])).map_err(cut_off)?;
    let entries = number(&count[..count_len]).min(65_536);
    let mut found = None;
    for index in 0..entries {
        let mut entry = [0; 20];
        file.read_exact(&mut entry[..entry_len]).map_err(cut_off)?;
        if number(&entry[..2]) == 262 {
            match number(&entry[value_at..value_at + 2]) {
                3 => return Err("a TIFF file with a colour table holds no band values".into()),
                model @ (0 | 1 | 2 | 4 | 5) => found = Some((index, model)),
                model => return Err(format!("TIFF colour model {model} is not a plain stack of bands")),
            }
        }
    }
    file.rewind().map_err(cut_off)?;
    let shown = if big_endian { [0, 1] } else { [1, 0] };
    let value_of = |index: u64| directory + count_len as u64 + index * entry_len as u64 + value_at as u64;
    Ok(found.map(|(index, _)| (value_of(index), shown)))
}
