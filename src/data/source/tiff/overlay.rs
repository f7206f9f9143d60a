//! A TIFF file as libtiff would read it. Where a directory leaves out or contradicts what libtiff takes for granted, a
//! corrected copy of it is shown behind the end of the file; the file's own bytes stay as they are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tiff_reader::source::TiffSource;
use tiff_reader::{ByteOrder, Ifd, TiffError, TiffFile};

use super::COMPRESSION_NONE;
use crate::data::source::open_file;
use crate::error::{Error, Result};

const PHOTOMETRIC: u16 = 262;
const STRIP_OFFSETS: u16 = 273;
const STRIP_BYTE_COUNTS: u16 = 279;
const PREDICTOR: u16 = 317;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTE_COUNTS: u16 = 325;
const EXTRA_SAMPLES: u16 = 338;

/// TIFF's type "64-bit unsigned".
const LONG8: u16 = 16;
/// Compressions that libtiff knows a predictor for: LZW, deflate (both codes), LZMA, ZSTD.
const WITH_PREDICTOR: [u16; 5] = [5, 8, 32946, 34925, 50000];

/// A file and the corrected directories behind its end.
pub(super) struct Overlay {
    file: File,
    len: u64,
    directories: OnceLock<Vec<u8>>,
}

impl Overlay {
    pub fn open(path: &Path) -> Result<Arc<Overlay>> {
        let file = open_file(path)?;
        let len = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        Ok(Arc::new(Overlay { file, len, directories: OnceLock::new() }))
    }

    /// Bytes of the file itself.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Directories like `ifds`, corrected. To be called once.
    pub fn correct(&self, tiff: &TiffFile, ifds: &[&Ifd]) -> Result<Vec<Ifd>, TiffError> {
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(ifds.len());
        for ifd in ifds {
            places.push(self.len + bytes.len() as u64);
            self.write_directory(tiff, ifd, &corrections(ifd, self.len), &mut bytes)?;
        }
        // Only the first call sets it; there is one.
        let _ = self.directories.set(bytes);
        places.into_iter().map(|at| tiff.read_ifd_at_offset(at)).collect()
    }

    /// Appends a copy of `ifd` to `out` with the tags of `corrections` in place of its own; a tag without values is
    /// left out.
    fn write_directory(
        &self,
        tiff: &TiffFile,
        ifd: &Ifd,
        corrections: &[Correction],
        out: &mut Vec<u8>,
    ) -> Result<(), TiffError> {
        let order = Order { byte_order: tiff.byte_order(), big: tiff.is_bigtiff() };
        let (count_len, entry_len) = if order.big { (8, 20) } else { (2, 12) };
        let head = self.read_exact_at(ifd.offset(), count_len)?;
        let own = order.number(&head) as usize;
        let body = self.read_exact_at(ifd.offset() + count_len as u64, own.saturating_mul(entry_len))?;
        let mut entries: Vec<(u16, Vec<u8>)> =
            body.chunks_exact(entry_len).map(|entry| (order.number(&entry[..2]) as u16, entry.to_vec())).collect();
        entries.retain(|(code, _)| corrections.iter().all(|c| c.tag != *code));
        let kept: Vec<&Correction> = corrections.iter().filter(|c| !c.values.is_empty()).collect();
        let count = entries.len() + kept.len();
        let mut values_at =
            self.len + (out.len() + count_len + count * entry_len + if order.big { 8 } else { 4 }) as u64;
        let mut values = Vec::new();
        for Correction { tag, values: numbers } in kept {
            let bytes: Vec<u8> = numbers.iter().flat_map(|&n| order.bytes(n, 8)).collect();
            let mut entry = [order.bytes(u64::from(*tag), 2), order.bytes(u64::from(LONG8), 2)].concat();
            entry.extend(order.bytes(numbers.len() as u64, if order.big { 8 } else { 4 }));
            if order.big && bytes.len() == 8 {
                entry.extend(bytes);
            } else {
                entry.extend(order.bytes(values_at, if order.big { 8 } else { 4 }));
                values_at += bytes.len() as u64;
                values.extend(bytes);
            }
            entries.push((*tag, entry));
        }
        if !order.big && values_at > u64::from(u32::MAX) {
            let message = "a TIFF file just under 4 GiB, whose tags have to be read anew, must be a BigTIFF file";
            return Err(TiffError::Other(message.into()));
        }
        entries.sort_by_key(|(code, _)| *code);
        out.extend(order.bytes(count as u64, count_len));
        entries.iter().for_each(|(_, entry)| out.extend_from_slice(entry));
        out.extend(order.bytes(0, if order.big { 8 } else { 4 }));
        out.extend(values);
        Ok(())
    }
}

impl TiffSource for Overlay {
    fn len(&self) -> u64 {
        self.len + self.directories.get().map_or(0, |bytes| bytes.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, TiffError> {
        let outside = || TiffError::OffsetOutOfBounds { offset, length: len as u64, data_len: self.len };
        if let Some(start) = offset.checked_sub(self.len) {
            let directories = self.directories.get().map_or(&[][..], Vec::as_slice);
            let found = usize::try_from(start).ok().and_then(|start| directories.get(start..start.checked_add(len)?));
            return found.map(<[u8]>::to_vec).ok_or_else(outside);
        }
        if len as u64 > self.len - offset {
            return Err(outside());
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| TiffError::Io(e, "the file".into()))?;
        Ok(bytes)
    }
}

/// How numbers are written in a file.
#[derive(Clone, Copy)]
struct Order {
    byte_order: ByteOrder,
    /// BigTIFF: counts and offsets have 8 bytes.
    big: bool,
}

impl Order {
    fn number(self, bytes: &[u8]) -> u64 {
        let shift = |n: u64, byte: &u8| n << 8 | u64::from(*byte);
        match self.byte_order {
            ByteOrder::BigEndian => bytes.iter().fold(0, shift),
            ByteOrder::LittleEndian => bytes.iter().rev().fold(0, shift),
        }
    }

    fn bytes(self, number: u64, len: usize) -> Vec<u8> {
        match self.byte_order {
            ByteOrder::BigEndian => number.to_be_bytes()[8 - len..].to_vec(),
            ByteOrder::LittleEndian => number.to_le_bytes()[..len].to_vec(),
        }
    }
}

/// A tag with other values than the file has, or none.
struct Correction {
    tag: u16,
    values: Vec<u64>,
}

/// What libtiff reads differently from what stands in the directory. `file_len` counts the file's bytes.
fn corrections(ifd: &Ifd, file_len: u64) -> Vec<Correction> {
    let mut found = Vec::new();
    let mut set = |tag, values| found.push(Correction { tag, values });
    if ifd.predictor() != 1 && !WITH_PREDICTOR.contains(&ifd.compression()) {
        set(PREDICTOR, vec![]);
    }
    // Every image is a plain stack of bands, but for those whose values are no band values (refused) and JPEG's YCbCr.
    if !matches!(ifd.photometric_interpretation(), Some(3 | 6)) {
        set(PHOTOMETRIC, vec![1]);
        set(EXTRA_SAMPLES, vec![]);
    }
    let (offsets_tag, counts_tag) =
        if ifd.is_tiled() { (TILE_OFFSETS, TILE_BYTE_COUNTS) } else { (STRIP_OFFSETS, STRIP_BYTE_COUNTS) };
    let values = |tag| ifd.tag(tag).and_then(|tag| tag.value.as_u64_vec());
    let (Some(offsets), Some(blocks)) = (values(offsets_tag), block_count(ifd)) else { return found };
    let counts = values(counts_tag);
    let mut corrected = counts.clone().unwrap_or_else(|| estimated_counts(ifd, &offsets, file_len));
    if !ifd.is_tiled() && blocks == 1 && ifd.planar_configuration() == 1 {
        mend_single_strip(ifd, &offsets, &mut corrected, file_len);
    }
    // Blocks that the tables do not reach were never written.
    let reached = offsets.len().min(corrected.len());
    let missing = blocks.saturating_sub(reached);
    if counts.as_ref() != Some(&corrected) || offsets.len() != blocks || corrected.len() != blocks {
        let fitted = |mut table: Vec<u64>| {
            table.truncate(blocks);
            // A table that claims more blocks than a file's bytes can list stays short, and is refused.
            table.resize(table.len() + missing.min(file_len as usize), 0);
            table
        };
        set(counts_tag, fitted(corrected));
        set(offsets_tag, fitted(offsets));
    }
    found
}

/// Number of strips or tiles that the image consists of.
fn block_count(ifd: &Ifd) -> Option<usize> {
    let (width, height) = (ifd.width() as usize, ifd.height() as usize);
    let planes = if ifd.planar_configuration() == 2 { usize::from(ifd.samples_per_pixel()) } else { 1 };
    let blocks = match (ifd.tile_width(), ifd.tile_height()) {
        (Some(w @ 1..), Some(h @ 1..)) => width.div_ceil(w as usize).checked_mul(height.div_ceil(h as usize))?,
        (Some(_), Some(_)) => return None,
        _ if ifd.rows_per_strip() == 0 => return None,
        _ => height.div_ceil(ifd.rows_per_strip() as usize),
    };
    blocks.checked_mul(planes).filter(|&n| n > 0)
}

/// Bytes of `rows` uncompressed rows of a strip.
fn strip_bytes(ifd: &Ifd, rows: u64) -> Option<u64> {
    let samples = if ifd.planar_configuration() == 2 { 1 } else { u64::from(ifd.samples_per_pixel()) };
    let bits = u64::from(*ifd.bits_per_sample().ok()?.first()?);
    let row_bits = u64::from(ifd.width()).checked_mul(samples)?.checked_mul(bits)?;
    row_bits.div_ceil(8).checked_mul(rows)
}

/// Byte counts for a file that has none: exact without compression, else up to the next strip.
fn estimated_counts(ifd: &Ifd, offsets: &[u64], file_len: u64) -> Vec<u64> {
    let rows = u64::from(ifd.rows_per_strip().max(1));
    let height = u64::from(ifd.height());
    let strips = height.div_ceil(rows).max(1);
    let exact = |strip: usize| {
        let first = strip as u64 % strips * rows;
        strip_bytes(ifd, rows.min(height.saturating_sub(first)))
    };
    let mut sorted = offsets.to_vec();
    sorted.sort_unstable();
    let count = |(strip, &at): (usize, &u64)| match ifd.compression() {
        COMPRESSION_NONE => exact(strip).unwrap_or(0),
        _ => {
            let next = sorted.get(sorted.partition_point(|&other| other <= at));
            next.copied().unwrap_or(file_len).saturating_sub(at)
        }
    };
    offsets.iter().enumerate().map(count).collect()
}

/// The byte count of an image in one strip, where it cannot be right.
fn mend_single_strip(ifd: &Ifd, offsets: &[u64], counts: &mut [u64], file_len: u64) {
    let Some(&at @ 1..) = offsets.first() else { return };
    let Some(wanted) = strip_bytes(ifd, u64::from(ifd.height())) else { return };
    let rest = file_len.saturating_sub(at);
    let Some(count) = counts.first_mut() else { return };
    if ifd.compression() == COMPRESSION_NONE && (*count < wanted || *count > rest) {
        *count = wanted;
    } else if *count == 0 {
        *count = rest;
    }
}
