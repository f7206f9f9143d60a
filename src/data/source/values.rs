//! The types of values in files, and how each becomes one of the four that a store holds.

use std::fmt;

use half::f16;

use crate::data::PixelType;

/// The type of a value in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

impl ValueType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            ValueType::Bool | ValueType::U8 | ValueType::I8 => 1,
            ValueType::U16 | ValueType::I16 | ValueType::F16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
        }
    }

    /// The type that the values are kept in: the smallest of the four that holds them all, or float32.
    pub fn stored(self) -> PixelType {
        match self {
            ValueType::Bool | ValueType::U8 => PixelType::U8,
            ValueType::U16 => PixelType::U16,
            ValueType::I8 | ValueType::I16 => PixelType::I16,
            _ => PixelType::F32,
        }
    }

    /// Whether [`Self::stored`] holds every value exactly.
    pub fn is_exact(self) -> bool {
        !matches!(self, ValueType::U32 | ValueType::I32 | ValueType::U64 | ValueType::I64 | ValueType::F64)
    }

    /// `value` in native byte order, limited to what the type holds.
    pub fn to_bytes(self, value: f64) -> Vec<u8> {
        match self {
            ValueType::Bool | ValueType::U8 => vec![value as u8],
            ValueType::I8 => (value as i8).to_ne_bytes().to_vec(),
            ValueType::U16 => (value as u16).to_ne_bytes().to_vec(),
            ValueType::I16 => (value as i16).to_ne_bytes().to_vec(),
            ValueType::U32 => (value as u32).to_ne_bytes().to_vec(),
            ValueType::I32 => (value as i32).to_ne_bytes().to_vec(),
            ValueType::U64 => (value as u64).to_ne_bytes().to_vec(),
            ValueType::I64 => (value as i64).to_ne_bytes().to_vec(),
            ValueType::F16 => f16::from_f64(value).to_ne_bytes().to_vec(),
            ValueType::F32 => (value as f32).to_ne_bytes().to_vec(),
            ValueType::F64 => value.to_ne_bytes().to_vec(),
        }
    }

    /// Appends `values`, in native byte order, to `out` as [`Self::stored`].
    pub fn convert(self, values: &[u8], out: &mut Vec<u8>) {
        macro_rules! as_type {
            ($from:ty, $to:expr) => {
                values.chunks_exact(size_of::<$from>()).for_each(|bytes| {
                    let mut value = [0; size_of::<$from>()];
                    value.copy_from_slice(bytes);
                    out.extend_from_slice(&($to)(<$from>::from_ne_bytes(value)).to_ne_bytes());
                })
            };
        }
        match self {
            ValueType::Bool | ValueType::U8 | ValueType::U16 | ValueType::I16 | ValueType::F32 => {
                out.extend_from_slice(values);
            }
            ValueType::I8 => as_type!(i8, i16::from),
            ValueType::U32 => as_type!(u32, |v| v as f32),
            ValueType::I32 => as_type!(i32, |v| v as f32),
            ValueType::U64 => as_type!(u64, |v| v as f32),
            ValueType::I64 => as_type!(i64, |v| v as f32),
            ValueType::F16 => as_type!(f16, f32::from),
            ValueType::F64 => as_type!(f64, |v| v as f32),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::Bool => "bool",
            ValueType::U8 => "uint8",
            ValueType::I8 => "int8",
            ValueType::U16 => "uint16",
            ValueType::I16 => "int16",
            ValueType::U32 => "uint32",
            ValueType::I32 => "int32",
            ValueType::U64 => "uint64",
            ValueType::I64 => "int64",
            ValueType::F16 => "float16",
            ValueType::F32 => "float32",
            ValueType::F64 => "float64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pixels::values_as_f32;

    fn converted(from: ValueType, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        from.convert(bytes, &mut out);
        values_as_f32(&out, from.stored()).collect()
    }

    #[test]
    fn every_type_keeps_its_values() {
        assert_eq!(converted(ValueType::Bool, &[0, 1]), [0.0, 1.0]);
        assert_eq!(converted(ValueType::I8, &[0x80, 0x7f]), [-128.0, 127.0]);
        assert_eq!(converted(ValueType::U32, &4_000_000_000_u32.to_ne_bytes()), [4e9]);
        assert_eq!(converted(ValueType::I32, &(-70_000_i32).to_ne_bytes()), [-70_000.0]);
        assert_eq!(converted(ValueType::U64, &(1_u64 << 40).to_ne_bytes()), [1_099_511_627_776.0]);
        assert_eq!(converted(ValueType::I64, &(-5_i64).to_ne_bytes()), [-5.0]);
        assert_eq!(converted(ValueType::F16, &f16::from_f32(-0.375).to_ne_bytes()), [-0.375]);
        assert_eq!(converted(ValueType::F64, &0.1_f64.to_ne_bytes()), [0.1]);
        assert!(converted(ValueType::F64, &1e300_f64.to_ne_bytes())[0].is_infinite(), "masked like any infinity");
    }
}
