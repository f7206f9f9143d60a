//! The header of an `.npy` file (numpy's format description, NEP 1): magic, version, a Python dict literal
//! with `descr`, `fortran_order` and `shape`. Read here and not by a library because sizes in a damaged
//! header must end in an error, never in an overflow, and because the store writes the same header.

use std::io::{self, Read};

use super::values::ValueType;
use crate::data::PixelType;

/// Length of the headers we write: fixed, so that a header can be rewritten once the sizes are known.
pub(crate) const WRITTEN_LEN: usize = 128;

/// What an `.npy` header says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NpyHeader {
    /// numpy's type string, as `<u2`.
    pub descr: String,
    /// Whether the first axis is the contiguous one.
    pub fortran_order: bool,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// Bytes before the first value.
    pub len: usize,
}

impl NpyHeader {
    /// Reads a header and leaves `reader` at the first value. The error says what is wrong with it.
    pub fn read(mut reader: impl Read) -> Result<NpyHeader, String> {
        let cut_off = |e: io::Error| format!("the .npy header cannot be read ({e})");
        let mut magic = [0; 8];
        reader.read_exact(&mut magic).map_err(cut_off)?;
        if &magic[..6] != b"\x93NUMPY" {
            return Err("not an .npy file (the magic number is missing)".into());
        }
        let (prefix, dict_len) = if magic[6] == 1 {
            let mut len = [0; 2];
            reader.read_exact(&mut len).map_err(cut_off)?;
            (10, usize::from(u16::from_le_bytes(len)))
        } else {
            let mut len = [0; 4];
            reader.read_exact(&mut len).map_err(cut_off)?;
            (12, u32::from_le_bytes(len) as usize)
        };
        let mut dict = Vec::new();
        reader.take(dict_len as u64).read_to_end(&mut dict).map_err(cut_off)?;
        if dict.len() < dict_len {
            return Err("the .npy header is cut off".into());
        }
        let dict = String::from_utf8_lossy(&dict);
        parse_dict(&dict)
            .map(|(descr, fortran_order, shape)| NpyHeader { descr, fortran_order, shape, len: prefix + dict_len })
            .ok_or_else(|| {
                let quoted: String = dict.trim().chars().take(200).collect();
                format!("the .npy header is not understood: {quoted}")
            })
    }

    /// The header of an array of our own, C order, padded to [`WRITTEN_LEN`] bytes.
    pub fn to_bytes(dtype: PixelType, shape: &[usize]) -> Vec<u8> {
        Self::with_descr(dtype.descr(), shape)
    }

    /// As [`Self::to_bytes`], for any numpy type string.
    pub fn with_descr(descr: &str, shape: &[usize]) -> Vec<u8> {
        let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&((WRITTEN_LEN - 10) as u16).to_le_bytes());
        bytes.extend_from_slice(format!("{dict:<width$}\n", width = WRITTEN_LEN - 11).as_bytes());
        bytes
    }

    /// The type of the values and whether their bytes are big-endian; `None` for types that are no pixels.
    pub fn value_type(&self) -> Option<(ValueType, bool)> {
        let (order, code) = self.descr.split_at_checked(1)?;
        let value_type = match code {
            "b1" => ValueType::Bool,
            "u1" => ValueType::U8,
            "i1" => ValueType::I8,
            "u2" => ValueType::U16,
            "i2" => ValueType::I16,
            "u4" => ValueType::U32,
            "i4" => ValueType::I32,
            "u8" => ValueType::U64,
            "i8" => ValueType::I64,
            "f2" => ValueType::F16,
            "f4" => ValueType::F32,
            "f8" => ValueType::F64,
            _ => return None,
        };
        match order {
            "<" | "|" | "=" => Some((value_type, false)),
            ">" => Some((value_type, true)),
            _ => None,
        }
    }

    /// Number of values; `None` if it does not fit into memory's address range.
    pub fn values(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis))
    }
}

fn parse_dict(dict: &str) -> Option<(String, bool, Vec<usize>)> {
    let value = |key: &str| {
        let (_, rest) = dict.split_once(&format!("'{key}'"))?;
        Some(rest.trim_start().strip_prefix(':')?.trim_start())
    };
    let descr = match value("descr")?.strip_prefix('\'') {
        Some(rest) => rest.split_once('\'')?.0.to_string(),
        None => "record".to_string(),
    };
    let fortran_order = match value("fortran_order")? {
        v if v.starts_with("True") => true,
        v if v.starts_with("False") => false,
        _ => return None,
    };
    // numpy itself knows no more than 64 axes.
    let (shape, _) =
        value("shape")?.strip_prefix('(')?.split_once(')').filter(|(s, _)| s.matches(',').count() <= 64)?;
    let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    Some((descr, fortran_order, shape.map(|n| n.parse().ok()).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = NpyHeader::to_bytes(PixelType::I16, &[300, 7]);
        assert_eq!(bytes.len(), WRITTEN_LEN);
        let header = NpyHeader::read(&bytes[..]).unwrap();
        assert_eq!((header.shape.as_slice(), header.len), (&[300, 7][..], WRITTEN_LEN));
        assert_eq!(header.value_type(), Some((ValueType::I16, false)));
    }

    #[test]
    fn damaged_headers_are_errors() {
        let bytes = NpyHeader::to_bytes(PixelType::U8, &[2, 2]);
        for len in 0..WRITTEN_LEN {
            assert!(NpyHeader::read(&bytes[..len]).is_err(), "{len} bytes");
        }
        let huge = String::from_utf8_lossy(&bytes[10..]).replace("2, 2,", "99999999999, 99999999999,");
        let (_, _, shape) = parse_dict(&huge).unwrap();
        let header = NpyHeader { descr: "|u1".into(), fortran_order: false, shape, len: 0 };
        assert_eq!(header.values(), None);
        assert_eq!(parse_dict("{'descr': '<u2', 'fortran_order': False, 'shape': (-3, 2)}"), None);
    }
}
