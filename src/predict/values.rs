//! From the network's output to the values of a map: back to the scale of the file, rounded and limited to its type, and
//! never by accident the value that means no data.

use serde::{Deserialize, Serialize};

use crate::data::PixelType;

/// The values of a map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Values {
    /// Their type.
    pub dtype: PixelType,
    /// What pixels without data hold.
    pub fill: Option<f64>,
    /// The value that a valid pixel must not have, as it means no data; none where a mask says which pixels are valid.
    pub avoided: Option<f64>,
}

impl Values {
    /// Smallest and largest value of an integer type.
    fn limits(&self) -> Option<(f64, f64)> {
        match self.dtype {
            PixelType::U8 => Some((0.0, 255.0)),
            PixelType::U16 => Some((0.0, 65535.0)),
            PixelType::I16 => Some((-32768.0, 32767.0)),
            PixelType::F32 => None,
        }
    }

    /// Appends a valid value to `out`: rounded half to even and limited for integers.
    pub fn push(&self, value: f32, out: &mut Vec<u8>) {
        let Some((low, high)) = self.limits() else {
            let hit = self.avoided.is_some_and(|avoided| avoided as f32 == value);
            return out.extend(if hit { value.next_up() } else { value }.to_ne_bytes());
        };
        let mut rounded = f64::from(value).round_ties_even().clamp(low, high);
        if self.avoided == Some(rounded) {
            // To the side that the value lies on, where the type has one.
            let up = (f64::from(value) >= rounded && rounded < high) || rounded <= low;
            rounded += if up { 1.0 } else { -1.0 };
        }
        self.push_exact(rounded, out);
    }

    /// Appends what a pixel without data holds.
    pub fn push_fill(&self, out: &mut Vec<u8>) {
        let absent = if self.dtype == PixelType::F32 { f64::NAN } else { 0.0 };
        self.push_exact(self.fill.unwrap_or(absent), out);
    }

    fn push_exact(&self, value: f64, out: &mut Vec<u8>) {
        match self.dtype {
            PixelType::U8 => out.push(value as u8),
            PixelType::U16 => out.extend((value as u16).to_ne_bytes()),
            PixelType::I16 => out.extend((value as i16).to_ne_bytes()),
            PixelType::F32 => out.extend((value as f32).to_ne_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::values_as_f32;

    fn pushed(dtype: PixelType, avoided: Option<f64>, values: &[f32]) -> Vec<f32> {
        let map = Values { dtype, fill: avoided, avoided };
        let mut out = Vec::new();
        values.iter().for_each(|v| map.push(*v, &mut out));
        values_as_f32(&out, dtype).collect()
    }

    #[test]
    fn integers_are_rounded_half_to_even_and_limited() {
        assert_eq!(pushed(PixelType::U8, None, &[0.5, 1.5, 2.5, -3.0, 255.5, 1e9]), [0.0, 2.0, 2.0, 0.0, 255.0, 255.0]);
        assert_eq!(pushed(PixelType::I16, None, &[-0.5, -1.5, -4e4, 4e4]), [0.0, -2.0, -32768.0, 32767.0]);
        assert_eq!(pushed(PixelType::U16, None, &[65534.6, 7.0]), [65535.0, 7.0]);
        assert_eq!(pushed(PixelType::F32, None, &[0.1, -7.25]), [0.1, -7.25]);
    }

    #[test]
    fn a_valid_pixel_never_has_the_value_of_no_data() {
        assert_eq!(pushed(PixelType::U16, Some(0.0), &[0.2, -5.0, 0.0, 1.0]), [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(pushed(PixelType::U16, Some(65535.0), &[65535.0, 7e4]), [65534.0, 65534.0]);
        assert_eq!(pushed(PixelType::I16, Some(100.0), &[99.8, 100.3, 100.0]), [99.0, 101.0, 101.0]);
        let floats = pushed(PixelType::F32, Some(-9999.0), &[-9999.0, 0.0]);
        assert!(floats[0] != -9999.0 && (floats[0] + 9999.0).abs() < 1e-2 && floats[1] == 0.0);
    }

    #[test]
    fn pixels_without_data_hold_the_stated_value_or_none() {
        let filled = |dtype, fill| {
            let mut out = Vec::new();
            Values { dtype, fill, avoided: None }.push_fill(&mut out);
            values_as_f32(&out, dtype).next()
        };
        assert_eq!(filled(PixelType::U16, Some(7.0)), Some(7.0));
        assert_eq!(filled(PixelType::U8, None), Some(0.0));
        assert!(filled(PixelType::F32, None).is_some_and(f32::is_nan));
    }
}
