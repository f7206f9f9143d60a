//! Tags of a TIFF file that are handed on as they are: where its pixels lie on the ground, and what they are.

use serde::{Deserialize, Serialize};
use tiff_reader::{Ifd, TagValue};

/// Colour interpretation: `1` grey, `2` RGB.
pub(crate) const PHOTOMETRIC: u16 = 262;
/// Size of a pixel on the ground.
pub(crate) const MODEL_PIXEL_SCALE: u16 = 33550;
/// Points of the image with their places on the ground.
pub(crate) const MODEL_TIEPOINT: u16 = 33922;
/// The transform from pixels to the ground as a 4 × 4 matrix.
pub(crate) const MODEL_TRANSFORMATION: u16 = 34264;
/// The keys of the reference system, and whether pixels are areas or points.
pub(crate) const GEO_KEYS: u16 = 34735;
/// Numbers of the keys.
pub(crate) const GEO_DOUBLES: u16 = 34736;
/// Texts of the keys.
pub(crate) const GEO_ASCII: u16 = 34737;
/// GDAL's XML: names, scales and offsets of bands.
pub(crate) const GDAL_METADATA: u16 = 42112;
/// Rational polynomial coefficients.
pub(crate) const RPC_COEFFICIENTS: u16 = 50844;

/// Tags that an image made from the file keeps: description, maker, date, artist, copyright, and those above.
pub(crate) const KEPT: [u16; 17] = [
    PHOTOMETRIC,
    269,
    270,
    271,
    272,
    306,
    315,
    33432,
    MODEL_PIXEL_SCALE,
    MODEL_TIEPOINT,
    MODEL_TRANSFORMATION,
    GEO_KEYS,
    GEO_DOUBLES,
    GEO_ASCII,
    GDAL_METADATA,
    RPC_COEFFICIENTS,
    50909,
];

/// A tag with its values in little-endian order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RawTag {
    /// Its number.
    pub code: u16,
    /// TIFF's number of the type of its values.
    pub kind: u16,
    /// Number of values.
    pub count: u64,
    /// The values.
    pub bytes: Vec<u8>,
}

impl RawTag {
    /// Those of a directory that are in [`KEPT`], in ascending order.
    pub fn kept(ifd: &Ifd) -> Vec<RawTag> {
        KEPT.iter().filter_map(|code| Some(RawTag::of(*code, &ifd.tag(*code)?.value))).collect()
    }

    /// A tag as the reader gives it.
    pub fn of(code: u16, value: &TagValue) -> RawTag {
        macro_rules! numbers {
            ($kind:expr, $values:expr) => {
                ($kind, $values.len(), $values.iter().flat_map(|v| v.to_le_bytes()).collect())
            };
        }
        let (kind, count, bytes): (u16, usize, Vec<u8>) = match value {
            TagValue::Byte(v) => numbers!(1, v),
            TagValue::Ascii(text) => return RawTag::text(code, text),
            TagValue::Short(v) => numbers!(3, v),
            TagValue::Long(v) => numbers!(4, v),
            TagValue::Rational(v) => (5, v.len(), v.iter().flatten().flat_map(|n| n.to_le_bytes()).collect()),
            TagValue::SByte(v) => numbers!(6, v),
            TagValue::Undefined(v) => numbers!(7, v),
            TagValue::SShort(v) => numbers!(8, v),
            TagValue::SLong(v) => numbers!(9, v),
            TagValue::SRational(v) => (10, v.len(), v.iter().flatten().flat_map(|n| n.to_le_bytes()).collect()),
            TagValue::Float(v) => numbers!(11, v),
            TagValue::Double(v) => numbers!(12, v),
            TagValue::Long8(v) => numbers!(16, v),
            TagValue::SLong8(v) => numbers!(17, v),
        };
        RawTag { code, kind, count: count as u64, bytes }
    }

    /// A tag of text.
    pub fn text(code: u16, text: &str) -> RawTag {
        let mut bytes = text.trim_end_matches('\0').as_bytes().to_vec();
        bytes.push(0);
        RawTag { code, kind: 2, count: bytes.len() as u64, bytes }
    }

    /// A tag of 16-bit numbers.
    pub fn shorts(code: u16, values: &[u16]) -> RawTag {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        RawTag { code, kind: 3, count: values.len() as u64, bytes }
    }

    /// A tag of one 32-bit number.
    pub fn long(code: u16, value: u32) -> RawTag {
        RawTag { code, kind: 4, count: 1, bytes: value.to_le_bytes().to_vec() }
    }

    /// A tag of doubles.
    pub fn doubles(code: u16, values: &[f64]) -> RawTag {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        RawTag { code, kind: 12, count: values.len() as u64, bytes }
    }

    /// The values of a tag of doubles; none of another's.
    pub fn to_doubles(&self) -> Vec<f64> {
        let read = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        if self.kind == 12 { self.bytes.chunks_exact(8).map(read).collect() } else { Vec::new() }
    }

    /// The values of a tag of 16-bit numbers; none of another's.
    pub fn to_shorts(&self) -> Vec<u16> {
        let read = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        if self.kind == 3 { self.bytes.chunks_exact(2).map(read).collect() } else { Vec::new() }
    }

    /// The text of a tag of text; empty of another's.
    pub fn to_text(&self) -> String {
        let bytes = if self.kind == 2 { &self.bytes[..] } else { &[] };
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    }
}
