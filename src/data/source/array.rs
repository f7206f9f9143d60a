//! Sources that are one plain array: `.npy` and `.npz`, decoded pictures, and TIFF files without compression.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::npy_header::NpyHeader;
use super::{Source, SourceInfo, largest_image, open_file};
use crate::data::Layout;
use crate::error::{Error, Result};

/// Bytes unpacked at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// Where the values are.
pub(super) enum Values {
    /// In memory, with the distance in values between rows, columns and bands.
    Memory { bytes: Vec<u8>, strides: [usize; 3] },
    /// In a file from byte `at` on: rows, columns, bands.
    Interleaved { file: File, at: u64 },
    /// In a file from byte `at` on: bands, rows, columns.
    Planar { file: File, at: u64 },
}

/// A plain array, read by rows.
pub(super) struct ArraySource {
    pub path: PathBuf,
    pub info: SourceInfo,
    pub values: Values,
    /// The values' byte order is not the machine's.
    pub swap: bool,
    pub next_row: usize,
}

impl Source for ArraySource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        let SourceInfo { height, width, bands: all, value_type, .. } = self.info;
        let size = value_type.bytes();
        let rows = (BLOCK_BYTES / (width * all * size)).clamp(1, height.max(1)).min(height - self.next_row);
        if rows == 0 {
            return Ok(0);
        }
        let mut values = Vec::with_capacity(rows * width * bands.len() * size);
        let first = self.next_row;
        let read = |file: &File, at: u64, count: usize| {
            let mut block = vec![0; count * size];
            file.read_exact_at(&mut block, at).map_err(|e| Error::io("read", &self.path, e)).map(|()| block)
        };
        match &self.values {
            Values::Memory { bytes, strides } => {
                gather(&bytes[first * strides[0] * size..], [rows, width], *strides, bands, size, &mut values);
            }
            Values::Interleaved { file, at } => {
                let block = read(file, at + (first * width * all * size) as u64, rows * width * all)?;
                gather(&block, [rows, width], [width * all, all, 1], bands, size, &mut values);
            }
            Values::Planar { file, at } => {
                let mut block = Vec::with_capacity(bands.len() * rows * width * size);
                for band in bands {
                    let value = (band * height + first) * width;
                    block.extend(read(file, at + (value * size) as u64, rows * width)?);
                }
                let planes: Vec<usize> = (0..bands.len()).collect();
                gather(&block, [rows, width], [width, 1, rows * width], &planes, size, &mut values);
            }
        }
        if self.swap {
            values.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        value_type.convert(&values, out);
        self.next_row += rows;
        Ok(rows)
    }

    fn seek(&mut self, row: usize) {
        self.next_row = row.min(self.info.height);
    }

    fn read_mask(&mut self, first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        let SourceInfo { width, value_type, alpha, .. } = self.info;
        let size = value_type.bytes();
        match (&self.values, alpha) {
            (Values::Memory { bytes, strides }, Some(alpha)) => {
                let mut values = Vec::with_capacity(rows * width * size);
                gather(&bytes[first * strides[0] * size..], [rows, width], *strides, &[alpha], size, &mut values);
                out.extend(values.chunks_exact(size).map(|value| u8::from(value.iter().any(|&byte| byte != 0))));
            }
            _ => out.resize(out.len() + rows * width, 1),
        }
        Ok(())
    }
}

/// Appends `bands` of every pixel of `bytes` to `out`; values are `size` bytes, strides count values.
fn gather(
    bytes: &[u8],
    [rows, width]: [usize; 2],
    [row, column, band]: [usize; 3],
    bands: &[usize],
    size: usize,
    out: &mut Vec<u8>,
) {
    let whole_rows = band == 1 && column == bands.len() && bands.iter().enumerate().all(|(i, &b)| i == b);
    for y in 0..rows {
        if whole_rows {
            out.extend_from_slice(&bytes[y * row * size..][..width * column * size]);
            continue;
        }
        for x in 0..width {
            for b in bands {
                out.extend_from_slice(&bytes[(y * row + x * column + b * band) * size..][..size]);
            }
        }
    }
}

/// Opens an `.npy` file; only one in Fortran order is read into memory.
pub(super) fn open_npy(path: &Path, layout: Layout) -> Result<ArraySource> {
    let file = open_file(path)?;
    let header = NpyHeader::read(BufReader::new(&file)).map_err(|m| Error::data(path, m))?;
    let array = ArrayShape::of(path, &header, layout)?;
    let there = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let wanted = header.len as u64 + array.bytes as u64;
    if there < wanted {
        return Err(Error::data(path, format!("the file is cut off: {wanted} bytes expected, {there} there")));
    }
    let at = header.len as u64;
    let values = if header.fortran_order {
        let mut bytes = vec![0; array.bytes];
        file.read_exact_at(&mut bytes, at).map_err(|e| Error::io("read", path, e))?;
        Values::Memory { bytes, strides: array.strides }
    } else if layout == Layout::Chw && header.shape.len() == 3 {
        Values::Planar { file, at }
    } else {
        Values::Interleaved { file, at }
    };
    let mut source = array.source(path, values);
    let kept = source.info.value_type.bytes() == source.info.dtype.bytes() && source.info.value_type.is_exact();
    if matches!(source.values, Values::Interleaved { .. }) && !source.swap && kept {
        source.info.plain_at = Some(at);
    }
    Ok(source)
}

/// Reads the array `hr` (in either case), or else the first one, of an `.npz` file into memory.
pub(super) fn open_npz(path: &Path, layout: Layout) -> Result<ArraySource> {
    let damaged = |e: &dyn std::fmt::Display| Error::data(path, format!("not a readable .npz file: {e}"));
    let file = open_file(path)?;
    let mut archive = npyz::npz::NpzArchive::new(BufReader::new(file)).map_err(|e| damaged(&e))?;
    let zip = archive.zip_archive();
    let mut names = Vec::new();
    for index in 0..zip.len() {
        // Archive order, as numpy's: `file_names` would come in no order.
        let entry = zip.by_index_raw(index).map_err(|e| damaged(&e))?;
        names.extend(entry.name().strip_suffix(".npy").map(|name| (index, name.to_owned())));
    }
    let named_hr = names.iter().find(|(_, name)| name.eq_ignore_ascii_case("hr"));
    let chosen = named_hr.or_else(|| names.first());
    let (index, name) = chosen.ok_or_else(|| Error::data(path, "the .npz file holds no array"))?;
    let mut entry = zip.by_index(*index).map_err(|e| damaged(&e))?;
    let packed = entry.compressed_size();
    let header = NpyHeader::read(&mut entry).map_err(|m| Error::data(path, m))?;
    let mut array = ArrayShape::of(path, &header, layout)?;
    if array.bytes > largest_image(packed) {
        let message = format!("the array claims {} bytes, more than {packed} packed ones can hold", array.bytes);
        return Err(Error::data(path, message));
    }
    let mut bytes = Vec::new();
    (&mut entry).take(array.bytes as u64).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    if bytes.len() < array.bytes {
        let message = format!("the array is cut off: {} bytes expected, {} there", array.bytes, bytes.len());
        return Err(Error::data(path, message));
    }
    // The checksum is compared at the end of the entry.
    let rest = entry.read(&mut [0]).map_err(|e| damaged(&e))?;
    if rest > 0 {
        return Err(Error::data(path, format!("the array is longer than its shape {:?} says", header.shape)));
    }
    if named_hr.is_none() && names.len() > 1 {
        let all: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).take(10).collect();
        array.info.notes.push(format!("of its arrays {} the first, {name}, is used", all.join(", ")));
    }
    let strides = array.strides;
    Ok(array.source(path, Values::Memory { bytes, strides }))
}

const SAVE_AS: &str = "save it as uint8, uint16, int16, float32 or another real type of numpy";

/// What the axes of a numpy array mean.
struct ArrayShape {
    info: SourceInfo,
    strides: [usize; 3],
    bytes: usize,
    swap: bool,
}

impl ArrayShape {
    fn of(path: &Path, header: &NpyHeader, layout: Layout) -> Result<ArrayShape> {
        let (value_type, swap) = header.value_type().ok_or_else(|| {
            let descr: String = header.descr.chars().take(40).collect();
            Error::data(path, format!("values of type {descr} are not supported")).with_hint(SAVE_AS)
        })?;
        let bytes = header.values().and_then(|n| n.checked_mul(value_type.bytes()));
        let bytes = bytes.ok_or_else(|| Error::data(path, format!("impossible shape {:?}", header.shape)))?;
        let shape = &header.shape;
        // Only an empty array's strides can overflow, and they are never used.
        let mul = |n: usize, axis: &usize| n.wrapping_mul(*axis);
        let axis_strides: Vec<usize> = if header.fortran_order {
            (0..shape.len()).map(|axis| shape[..axis].iter().fold(1, mul)).collect()
        } else {
            (0..shape.len()).map(|axis| shape[axis + 1..].iter().fold(1, mul)).collect()
        };
        // Axis numbers of rows, columns and bands.
        let axes: &[usize] = match (shape.len(), layout) {
            (2, _) => &[0, 1],
            (3, Layout::Hwc) => &[0, 1, 2],
            (3, Layout::Chw) => &[1, 2, 0],
            _ => return Err(Error::data(path, format!("2 or 3 axes are needed, the shape is {shape:?}"))),
        };
        let layout_name = if layout == Layout::Hwc { "HWC" } else { "CHW" };
        let text = match shape.len() {
            2 => format!("shape {shape:?}, one band of {value_type}"),
            _ => format!("shape {shape:?} of {value_type}, read as Data.layout {layout_name}"),
        };
        let size = [shape[axes[0]], shape[axes[1]], axes.get(2).map_or(1, |&a| shape[a])];
        let mut info = SourceInfo::new(size, value_type, text);
        info.layout_applied = shape.len() == 3;
        let strides = [axis_strides[axes[0]], axis_strides[axes[1]], axes.get(2).map_or(1, |&a| axis_strides[a])];
        Ok(ArrayShape { info, strides, bytes, swap })
    }

    fn source(self, path: &Path, values: Values) -> ArraySource {
        ArraySource { path: path.into(), info: self.info, values, swap: self.swap, next_row: 0 }
    }
}
