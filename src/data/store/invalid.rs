//! Finding pixels without a value: NaN, infinity and the no-data value, in any of the chosen bands.

use std::path::Path;

use super::MaskedRun;
use crate::data::PixelType;
use crate::data::pixels::values_as_f32;
use crate::error::{Error, Result};

/// Collects invalid pixels of one image, whose rows are shown to it from top to bottom.
pub(super) struct InvalidPixels {
    dtype: PixelType,
    bands: Vec<usize>,
    width: usize,
    /// Per band.
    nodata: Vec<Option<f32>>,
    row: u32,
    /// Per band: values that are not finite, values that are no-data.
    counts: Vec<[u64; 2]>,
    /// Pixels that the file's mask hides.
    masked: u64,
    runs: Vec<MaskedRun>,
}

impl InvalidPixels {
    /// For an image of `width` columns with the file's `bands`, each with its no-data value, of type `dtype`. A no-data
    /// value that the type cannot hold marks nothing.
    pub fn new(dtype: PixelType, bands: &[usize], width: usize, nodata: &[Option<f64>]) -> Self {
        let held = |v: f64| match dtype {
            PixelType::U8 => f64::from(v as u8) == v,
            PixelType::U16 => f64::from(v as u16) == v,
            PixelType::I16 => f64::from(v as i16) == v,
            PixelType::F32 => !v.is_nan(),
        };
        let nodata = nodata.iter().map(|value| value.filter(|&v| held(v)).map(|v| v as f32)).collect();
        let counts = vec![[0; 2]; bands.len()];
        InvalidPixels { dtype, bands: bands.to_vec(), width, nodata, row: 0, counts, masked: 0, runs: Vec::new() }
    }

    /// Looks at the next whole rows; `mask` has a byte for each of their pixels, 0 for one that is hidden.
    pub fn scan(&mut self, rows: &[u8], mask: Option<&[u8]>) {
        let row_bytes = self.width * self.bands.len() * self.dtype.bytes();
        if self.dtype != PixelType::F32 && self.nodata.iter().all(Option::is_none) && mask.is_none() {
            self.row += (rows.len() / row_bytes) as u32;
            return;
        }
        for (number, line) in rows.chunks_exact(row_bytes).enumerate() {
            let mask = mask.map(|mask| &mask[number * self.width..][..self.width]);
            self.scan_row(line, mask.unwrap_or_default());
            self.row += 1;
        }
    }

    /// `mask` may be empty.
    fn scan_row(&mut self, line: &[u8], mask: &[u8]) {
        let bands = self.bands.len();
        let is_bad = |(v, nodata): (f32, &Option<f32>)| !v.is_finite() || Some(v) == *nodata;
        if !values_as_f32(line, self.dtype).zip(self.nodata.iter().cycle()).any(is_bad) && !mask.contains(&0) {
            return;
        }
        let mut bad = vec![false; self.width];
        for (i, value) in values_as_f32(line, self.dtype).enumerate() {
            if is_bad((value, &self.nodata[i % bands])) {
                self.counts[i % bands][usize::from(value.is_finite())] += 1;
                bad[i / bands] = true;
            }
        }
        for (bad, _) in bad.iter_mut().zip(mask).filter(|(_, flag)| **flag == 0) {
            self.masked += 1;
            *bad = true;
        }
        let mut column = 0;
        for same in bad.chunk_by(|a, b| a == b) {
            let end = column + same.len() as u32;
            if same[0] {
                self.runs.push(MaskedRun { row: self.row, first: column, end });
            }
            column = end;
        }
    }

    /// Pixels that the file's mask hides.
    pub fn masked(&self) -> u64 {
        self.masked
    }

    /// The runs of masked pixels.
    pub fn into_runs(self) -> Vec<MaskedRun> {
        self.runs
    }

    /// An error naming the first band with invalid pixels and their number, if there are any.
    pub fn refuse(&self, path: &Path) -> Result<()> {
        let Some((place, [infinite, nodata])) =
            self.counts.iter().enumerate().find(|(_, counts)| counts.iter().any(|&n| n > 0))
        else {
            return match self.masked {
                0 => Ok(()),
                n => Err(Error::data(path, format!("its mask hides {n} pixels"))
                    .with_hint("remove the file or fill these pixels; Data.mask: ignore uses them as they are")),
            };
        };
        let mut parts = Vec::new();
        if *infinite > 0 {
            parts.push(format!("{infinite} NaN or infinite pixels"));
        }
        if let (Some(value), true) = (self.nodata[place], *nodata > 0) {
            parts.push(format!("{nodata} no-data pixels (value {value})"));
        }
        let band = self.bands[place];
        let message = format!("band {band} (counted from 0) has {}", parts.join(" and "));
        Err(Error::data(path, message).with_hint(
            "remove the file or fill these pixels; with Data.dataset_type Scenes, pixels without a value are left out",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_exactly_the_invalid_pixels() {
        let values = [1.0, f32::NAN, f32::INFINITY, 4.0, 5.0, -1.0, -1.0, 8.0, 9.0, 9.0, 9.0, -1.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v: &f32| v.to_ne_bytes()).collect();
        let mut found = InvalidPixels::new(PixelType::F32, &[0], 6, &[Some(-1.0)]);
        found.scan(&bytes, None);
        assert!(found.refuse(Path::new("x")).unwrap_err().to_string().contains("2 NaN"));
        let run = |row, first, end| MaskedRun { row, first, end };
        assert_eq!(found.into_runs(), [run(0, 1, 3), run(0, 5, 6), run(1, 0, 1), run(1, 5, 6)]);
    }

    #[test]
    fn a_pixel_is_masked_by_any_band_and_counted_by_each() {
        let bytes = [7, 0, 0, 0, 1, 2];
        let mut found = InvalidPixels::new(PixelType::U8, &[3, 1], 3, &[Some(0.0); 2]);
        found.scan(&bytes, None);
        let text = found.refuse(Path::new("x")).unwrap_err().to_string();
        assert!(text.contains("band 3 (counted from 0) has 1 no-data pixels (value 0)"), "{text}");
        assert_eq!(found.into_runs(), [MaskedRun { row: 0, first: 0, end: 2 }]);
    }

    #[test]
    fn a_nodata_value_acts_on_its_own_band() {
        let mut found = InvalidPixels::new(PixelType::U8, &[0, 1], 3, &[Some(7.0), Some(9.0)]);
        found.scan(&[7, 7, 9, 7, 9, 9], None);
        let run = |row, first, end| MaskedRun { row, first, end };
        assert_eq!(found.into_runs(), [run(0, 0, 1), run(0, 2, 3)]);
    }

    #[test]
    fn a_nodata_value_outside_the_type_marks_nothing() {
        let mut found = InvalidPixels::new(PixelType::U8, &[0], 2, &[Some(-9999.0)]);
        found.scan(&[0, 255], None);
        assert!(found.refuse(Path::new("x")).is_ok() && found.into_runs().is_empty());
    }

    #[test]
    fn a_mask_hides_pixels_beside_those_without_a_value() {
        let mut found = InvalidPixels::new(PixelType::U8, &[0], 4, &[Some(9.0)]);
        found.scan(&[9, 1, 1, 1, 1, 1, 1, 1], Some(&[255, 0, 1, 1, 1, 1, 1, 0]));
        assert_eq!(found.masked(), 2);
        let run = |row, first, end| MaskedRun { row, first, end };
        assert_eq!(found.into_runs(), [run(0, 0, 2), run(1, 3, 4)]);
        let mut found = InvalidPixels::new(PixelType::U8, &[0], 1, &[None]);
        found.scan(&[1], Some(&[0]));
        assert!(found.refuse(Path::new("x")).unwrap_err().to_string().contains("its mask hides 1 pixels"));
    }
}
