//! One image of a TIFF file: its strips or tiles, and windows of rows from them.

use std::path::Path;

use tiff_reader::{ByteOrder, Ifd, RasterLayout, TiffError, TiffFile};

use super::{COMPRESSION_LERC, COMPRESSION_NONE};
use crate::data::source::values::ValueType;
use crate::error::{Error, Result};

const FILL_ORDER_REVERSED: u16 = 2;

/// A corrected directory and what follows from it.
pub(super) struct Page {
    ifd: Ifd,
    layout: RasterLayout,
    value_type: ValueType,
    block: [usize; 2],
    /// Position and length of each strip or tile.
    blocks: Vec<(u64, u64)>,
}

impl Page {
    pub fn new(ifd: Ifd) -> Result<Page, TiffError> {
        let layout = ifd.raster_layout()?;
        let value_type = match (layout.sample_format, layout.bits_per_sample) {
            (1, 1..=8) => ValueType::U8,
            (1, 9..=16) => ValueType::U16,
            (1, 32) => ValueType::U32,
            (1, 64) => ValueType::U64,
            (2, 8) => ValueType::I8,
            (2, 16) => ValueType::I16,
            (2, 32) => ValueType::I32,
            (2, 64) => ValueType::I64,
            (3, 16) => ValueType::F16,
            (3, 32) => ValueType::F32,
            (3, 64) => ValueType::F64,
            (_, bits) => return Err(TiffError::UnsupportedBitsPerSample(bits)),
        };
        let (block, at, len) = match (ifd.tile_height(), ifd.tile_width()) {
            (Some(rows), Some(columns)) => ([rows, columns], ifd.tile_offsets(), ifd.tile_byte_counts()),
            _ => ([ifd.rows_per_strip(), ifd.width()], ifd.strip_offsets(), ifd.strip_byte_counts()),
        };
        let [rows, columns] = block.map(|n| n as usize);
        if rows == 0 || columns == 0 {
            return Err(TiffError::InvalidImageLayout("strips or tiles without rows or columns".into()));
        }
        let blocks = at.unwrap_or_default().into_iter().zip(len.unwrap_or_default()).collect();
        Ok(Page { ifd, block: [rows.min(layout.height.max(1)), columns], layout, value_type, blocks })
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.layout.height, self.layout.width)
    }

    pub fn samples(&self) -> usize {
        self.layout.samples_per_pixel
    }

    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    pub fn is_planar(&self) -> bool {
        self.layout.planar_configuration == 2 && self.samples() > 1
    }

    /// Rows of a strip or tile.
    pub fn block_rows(&self) -> usize {
        self.block[0]
    }

    /// Refuses a file that ends before its last strip or tile does.
    pub fn check_length(&self, path: &Path, there: u64) -> Result<()> {
        match self.blocks.iter().map(|&(at, len)| at.saturating_add(len)).max() {
            Some(wanted) if wanted > there => {
                Err(Error::data(path, format!("the file is cut off: {wanted} bytes expected, {there} there")))
            }
            _ => Ok(()),
        }
    }

    /// Where the pixels start, if they are one plain array: uncompressed strips without a gap, whole bytes.
    pub fn plain_at(&self) -> Option<u64> {
        let joined = self.blocks.windows(2).all(|pair| pair[0].0.checked_add(pair[0].1) == Some(pair[1].0));
        let (height, width) = self.size();
        let row = [width, self.samples(), self.value_type.bytes()];
        let wanted = row.iter().fold(height as u64, |n, &factor| n.saturating_mul(factor as u64));
        let stated = self.blocks.iter().map(|&(_, len)| len).fold(0, u64::saturating_add);
        let plain = self.ifd.compression() == COMPRESSION_NONE
            && !self.ifd.is_tiled()
            && self.ifd.fill_order() != FILL_ORDER_REVERSED
            && usize::from(self.layout.bits_per_sample) == 8 * self.value_type.bytes()
            && joined
            && stated == wanted;
        // A block at 0 was never written.
        self.blocks.first().map(|&(at, _)| at).filter(|&at| plain && at != 0)
    }

    /// Values of rows from `first` on: rows, columns, `bands`. Strips and tiles that were never written hold `fill`.
    pub fn read(
        &self,
        file: &TiffFile,
        first: usize,
        rows: usize,
        bands: &[usize],
        fill: f64,
    ) -> Result<Vec<u8>, TiffError> {
        let (_, width) = self.size();
        let size = self.value_type.bytes();
        let all = self.samples();
        if !self.is_planar() {
            let mut pixels = file.read_window_bytes_from_ifd(&self.ifd, first, 0, rows, width)?;
            self.swap_lerc(file, &mut pixels);
            self.fill_missing(&mut pixels, first, rows, 0, fill);
            if bands.len() == all && bands.iter().enumerate().all(|(place, &band)| place == band) {
                return Ok(pixels);
            }
            let mut out = Vec::with_capacity(rows * width * bands.len() * size);
            for pixel in pixels.chunks_exact(all * size) {
                bands.iter().for_each(|band| out.extend_from_slice(&pixel[band * size..][..size]));
            }
            return Ok(out);
        }
        let mut out = vec![0; rows * width * bands.len() * size];
        for (place, &band) in bands.iter().enumerate() {
            let mut plane = file.read_band_window_bytes_from_ifd(&self.ifd, band, first, 0, rows, width)?;
            self.swap_lerc(file, &mut plane);
            self.fill_missing(&mut plane, first, rows, band, fill);
            for (value, pixel) in plane.chunks_exact(size).zip(out.chunks_exact_mut(bands.len() * size)) {
                pixel[place * size..][..size].copy_from_slice(value);
            }
        }
        Ok(out)
    }

    /// libtiff swaps the bytes of a value before it compresses by LERC for a file of the other byte order.
    fn swap_lerc(&self, file: &TiffFile, pixels: &mut [u8]) {
        let is_foreign = (file.byte_order() == ByteOrder::BigEndian) != cfg!(target_endian = "big");
        if self.ifd.compression() == COMPRESSION_LERC && is_foreign {
            pixels.chunks_exact_mut(self.value_type.bytes()).for_each(<[u8]>::reverse);
        }
    }

    /// Fills the strips or tiles of plane `plane` that a sparse file leaves out.
    fn fill_missing(&self, pixels: &mut [u8], first: usize, rows: usize, plane: usize, fill: f64) {
        let value = self.value_type.to_bytes(fill);
        if value.iter().all(|&byte| byte == 0) {
            return;
        }
        let (height, width) = self.size();
        let [block_rows, block_columns] = self.block;
        let across = width.div_ceil(block_columns);
        let down = height.div_ceil(block_rows);
        let samples = if self.is_planar() { 1 } else { self.samples() };
        let pixel = samples * value.len();
        for row in first..first + rows {
            let start = (plane * down + row / block_rows) * across;
            for column in 0..across {
                let written = self.blocks.get(start + column).is_some_and(|&(at, len)| at != 0 && len != 0);
                if written {
                    continue;
                }
                let (from, to) = (column * block_columns, ((column + 1) * block_columns).min(width));
                let line = (row - first) * width;
                pixels[(line + from) * pixel..(line + to) * pixel]
                    .chunks_exact_mut(value.len())
                    .for_each(|slot| slot.copy_from_slice(&value));
            }
        }
    }
}
