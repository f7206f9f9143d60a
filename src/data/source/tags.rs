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

/// Keys of the reference system: the code of a projected and of a geographic one.
const SYSTEM_KEYS: [u16; 2] = [3072, 2048];
/// A code that stands for a system in words.
const USER_DEFINED: u16 = 32767;
/// Part of a pixel by which grids may differ and still be one.
const SAME_GRID: f64 = 0.01;

/// In what the places of two images on the ground differ, as far as both say where they are.
pub(crate) fn difference(a: &[RawTag], b: &[RawTag]) -> Option<String> {
    let systems = [a, b].map(|tags| SYSTEM_KEYS.map(|key| system(tags, key)));
    for (a, b) in systems[0].iter().zip(systems[1]) {
        if let (Some(a), Some(b)) = (*a, b)
            && a != b
        {
            return Some(format!("EPSG:{b} instead of EPSG:{a}"));
        }
    }
    let ([corner_a, pixel_a], [corner_b, pixel_b]) = (grid(a)?, grid(b)?);
    let side = pixel_a[0].abs().max(pixel_a[1].abs()).max(f64::MIN_POSITIVE);
    let differs = |a: [f64; 2], b: [f64; 2], most: f64| a.iter().zip(b).any(|(a, b)| (a - b).abs() > most);
    if differs(pixel_a, pixel_b, side * 1e-4) {
        return Some(format!("pixels of {} × {} instead of {} × {}", pixel_b[0], pixel_b[1], pixel_a[0], pixel_a[1]));
    }
    let other = differs(corner_a, corner_b, side * SAME_GRID);
    other.then(|| {
        format!("its corner is ({}, {}) instead of ({}, {})", corner_b[0], corner_b[1], corner_a[0], corner_a[1])
    })
}

/// The code of a reference system.
fn system(tags: &[RawTag], key: u16) -> Option<u16> {
    let keys = tags.iter().find(|tag| tag.code == GEO_KEYS)?;
    let values: Vec<u16> = keys.bytes.chunks_exact(2).map(|v| u16::from_le_bytes([v[0], v[1]])).collect();
    let entry = values.chunks_exact(4).skip(1).find(|entry| entry[0] == key && entry[1] == 0)?;
    Some(entry[3]).filter(|code| *code != USER_DEFINED)
}

/// Place of the first pixel's corner, and width and height of a pixel; `None` for rotated images.
fn grid(tags: &[RawTag]) -> Option<[[f64; 2]; 2]> {
    let of = |code| tags.iter().find(|tag| tag.code == code).map(RawTag::to_doubles);
    if let Some(m) = of(MODEL_TRANSFORMATION).filter(|m| m.len() == 16) {
        return (m[1] == 0.0 && m[4] == 0.0).then_some([[m[3], m[7]], [m[0], m[5]]]);
    }
    let (scale, tie) = (of(MODEL_PIXEL_SCALE)?, of(MODEL_TIEPOINT)?);
    if scale.len() < 2 || tie.len() < 6 {
        return None;
    }
    let corner = [tie[3] - tie[0] * scale[0], tie[4] + tie[1] * scale[1]];
    Some([corner, [scale[0], -scale[1]]])
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(system: u16, corner: [f64; 2], pixel: f64) -> Vec<RawTag> {
        vec![
            RawTag::doubles(MODEL_PIXEL_SCALE, &[pixel, pixel, 0.0]),
            RawTag::doubles(MODEL_TIEPOINT, &[0.0, 0.0, 0.0, corner[0], corner[1], 0.0]),
            RawTag::shorts(GEO_KEYS, &[1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, system]),
        ]
    }

    #[test]
    fn images_that_lie_elsewhere_are_told_apart() {
        let here = tags(32633, [500_000.0, 5_000_000.0], 10.0);
        for (other, said) in [
            (tags(32634, [500_000.0, 5_000_000.0], 10.0), Some("EPSG:32634 instead of EPSG:32633")),
            (tags(32633, [900_000.0, 5_000_000.0], 10.0), Some("its corner is (900000, 5000000)")),
            (tags(32633, [500_000.0, 5_000_000.0], 20.0), Some("pixels of 20 × -20 instead of 10 × -10")),
            (tags(32633, [500_000.01, 5_000_000.0], 10.0), None),
            (vec![], None),
        ] {
            let found = difference(&here, &other);
            assert_eq!(found.is_some(), said.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(said.unwrap_or_default()));
        }
        // The same place by a matrix.
        let matrix = [10.0, 0.0, 0.0, 5e5, 0.0, -10.0, 0.0, 5e6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(difference(&here, &[RawTag::doubles(MODEL_TRANSFORMATION, &matrix)]), None);
    }
}
