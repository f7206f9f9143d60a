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
    nodata: Option<f32>,
    row: u32,
    /// Per band: values that are not finite, values that are no-data.
    counts: Vec<[u64; 2]>,
    runs: Vec<MaskedRun>,
}

impl InvalidPixels {
    /// For an image of `width` columns with the file's `bands`, of type `dtype`. A no-data value that the
    /// type cannot hold marks nothing.
    pub fn new(dtype: PixelType, bands: &[usize], width: usize, nodata: Option<f64>) -> Self {
        let held = |v: f64| match dtype {
            PixelType::U8 => f64::from(v as u8) == v,
            PixelType::U16 => f64::from(v as u16) == v,
            PixelType::I16 => f64::from(v as i16) == v,
            PixelType::F32 => !v.is_nan(),
        };
        let nodata = nodata.filter(|&v| held(v)).map(|v| v as f32);
        let counts = vec![[0; 2]; bands.len()];
        InvalidPixels { dtype, bands: bands.to_vec(), width, nodata, row: 0, counts, runs: Vec::new() }
    }

    /// Looks at the next whole rows.
    pub fn scan(&mut self, rows: &[u8]) {
        let row_bytes = self.width * self.bands.len() * self.dtype.bytes();
        if self.dtype != PixelType::F32 && self.nodata.is_none() {
            self.row += (rows.len() / row_bytes) as u32;
            return;
        }
        for line in rows.chunks_exact(row_bytes) {
            self.scan_row(line);
            self.row += 1;
        }
    }

    fn scan_row(&mut self, line: &[u8]) {
        let bands = self.bands.len();
        let is_bad = |v: f32| !v.is_finite() || Some(v) == self.nodata;
        if !values_as_f32(line, self.dtype).any(is_bad) {
            return;
        }
        let mut last_bad = None;
        for (i, value) in values_as_f32(line, self.dtype).enumerate() {
            if !is_bad(value) {
                continue;
            }
            self.counts[i % bands][usize::from(value.is_finite())] += 1;
            let column = (i / bands) as u32;
            match self.runs.last_mut() {
                Some(run) if last_bad.is_some() && run.end >= column => run.end = column + 1,
                _ => self.runs.push(MaskedRun { row: self.row, first: column, end: column + 1 }),
            }
            last_bad = Some(column);
        }
    }

    /// The runs of masked pixels.
    pub fn into_runs(self) -> Vec<MaskedRun> {
        self.runs
    }

    /// An error naming the first band with invalid pixels and their number, if there are any.
    pub fn refuse(&self, path: &Path) -> Result<()> {
        let Some((band, [infinite, nodata])) =
            self.bands.iter().zip(&self.counts).find(|(_, counts)| counts.iter().any(|&n| n > 0))
        else {
            return Ok(());
        };
        let mut parts = Vec::new();
        if *infinite > 0 {
            parts.push(format!("{infinite} NaN or infinite pixels"));
        }
        if let (Some(value), true) = (self.nodata, *nodata > 0) {
            parts.push(format!("{nodata} no-data pixels (value {value})"));
        }
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
        let mut found = InvalidPixels::new(PixelType::F32, &[0], 6, Some(-1.0));
        found.scan(&bytes);
        assert!(found.refuse(Path::new("x")).unwrap_err().to_string().contains("2 NaN"));
        let run = |row, first, end| MaskedRun { row, first, end };
        assert_eq!(found.into_runs(), [run(0, 1, 3), run(0, 5, 6), run(1, 0, 1), run(1, 5, 6)]);
    }

    #[test]
    fn a_pixel_is_masked_by_any_band_and_counted_by_each() {
        let bytes = [7, 0, 0, 0, 1, 2];
        let mut found = InvalidPixels::new(PixelType::U8, &[3, 1], 3, Some(0.0));
        found.scan(&bytes);
        let text = found.refuse(Path::new("x")).unwrap_err().to_string();
        assert!(text.contains("band 3 (counted from 0) has 1 no-data pixels (value 0)"), "{text}");
        assert_eq!(found.into_runs(), [MaskedRun { row: 0, first: 0, end: 2 }]);
    }

    #[test]
    fn a_nodata_value_outside_the_type_marks_nothing() {
        let mut found = InvalidPixels::new(PixelType::U8, &[0], 2, Some(-9999.0));
        found.scan(&[0, 255]);
        assert!(found.refuse(Path::new("x")).is_ok() && found.into_runs().is_empty());
    }
}
