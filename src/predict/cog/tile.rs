//! A tile's bytes: differences of neighbours (the predictors of TIFF), then compression.

use std::io::Write;

use flate2::Compression as Level;
use flate2::write::ZlibEncoder;

use crate::data::PixelType;
use crate::predict::Compression;
use crate::{Error, Result};

/// zlib's own default.
const DEFLATE_LEVEL: u32 = 6;
/// GDAL's default.
const ZSTD_LEVEL: i32 = 9;

impl Compression {
    /// TIFF's number of it.
    pub(super) fn code(self) -> u16 {
        match self {
            Compression::None => 1,
            Compression::Deflate => 8,
            Compression::Zstd => 50000,
        }
    }

    /// TIFF's number of the predictor for values of a type, 1 for none.
    pub(super) fn predictor(self, dtype: PixelType) -> u16 {
        match (self, dtype) {
            (Compression::None, _) => 1,
            (_, PixelType::F32) => 3,
            _ => 2,
        }
    }
}

/// The values of a tile in native order, as they lie in the file before compression.
pub(super) fn predicted(values: &mut [u8], width: usize, bands: usize, dtype: PixelType, predictor: u16) {
    let size = dtype.bytes();
    if cfg!(target_endian = "big") && size > 1 {
        values.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    let row = width * bands * size;
    match (predictor, size) {
        (2, 1) => values.chunks_exact_mut(row).for_each(|row| {
            (bands..row.len()).rev().for_each(|i| row[i] = row[i].wrapping_sub(row[i - bands]));
        }),
        (2, _) => values.chunks_exact_mut(row).for_each(|row| {
            for i in (bands..row.len() / 2).rev() {
                let value = |i: usize| u16::from_le_bytes([row[2 * i], row[2 * i + 1]]);
                let difference = value(i).wrapping_sub(value(i - bands)).to_le_bytes();
                row[2 * i..2 * i + 2].copy_from_slice(&difference);
            }
        }),
        (3, _) => values.chunks_exact_mut(row).for_each(|row| float_differences(row, bands)),
        _ => {}
    }
}

/// The floats of a row by planes of bytes, the highest first, then differences of bytes.
fn float_differences(row: &mut [u8], bands: usize) {
    let count = row.len() / 4;
    let planes: Vec<u8> = (0..4).flat_map(|plane| (0..count).map(move |i| 4 * i + 3 - plane)).map(|i| row[i]).collect();
    row.copy_from_slice(&planes);
    (bands..row.len()).rev().for_each(|i| row[i] = row[i].wrapping_sub(row[i - bands]));
}

/// Compressed bytes.
///
/// # Errors
/// If the compressor fails.
pub(super) fn compressed(bytes: Vec<u8>, compression: Compression) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::Internal(format!("compression: {e}"));
    match compression {
        Compression::None => Ok(bytes),
        Compression::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Level::new(DEFLATE_LEVEL));
            encoder.write_all(&bytes).and_then(|()| encoder.finish()).map_err(failed)
        }
        Compression::Zstd => zstd::bulk::compress(&bytes, ZSTD_LEVEL).map_err(failed),
    }
}
