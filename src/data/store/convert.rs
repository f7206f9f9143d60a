//! From a file's values to a store's: scale and offset, the rule of `ExampleDataset`, the common type.

use std::path::Path;

use crate::data::PixelType;
use crate::data::pixels::values_as_f32;
use crate::data::source::{Source, SourceInfo};
use crate::error::{Error, Result};

/// What becomes of a file's values before they are stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ValueRules {
    /// Value of pixels without data; overrides the files' own.
    pub nodata: Option<f64>,
    /// Whether masks of the files hide pixels.
    pub mask: bool,
    /// Whether the scale and offset that a file states are applied.
    pub apply_scale: bool,
    /// Then every value is multiplied by this, …
    pub scale: f64,
    /// … and this is added.
    pub offset: f64,
    /// opensr-srgan's rule for `ExampleDataset`: values of a file with a maximum above 1.5 are divided by 10000.
    pub example: bool,
}

impl ValueRules {
    /// The type that a file's values are kept in.
    pub fn stored_type(&self, info: &SourceInfo) -> PixelType {
        if self.changes(info) { PixelType::F32 } else { info.dtype }
    }

    /// Whether a file's values may become others.
    pub fn changes(&self, info: &SourceInfo) -> bool {
        let scaled = self.apply_scale && info.scaling.is_some();
        let moved = (self.scale, self.offset) != (1.0, 0.0);
        scaled || moved || self.example
    }
}

/// Converts blocks of one file.
pub(crate) struct Converter {
    from: PixelType,
    to: PixelType,
    /// Gain and offset of each chosen band; `None` leaves values as they are.
    linear: Option<Vec<(f64, f64)>>,
    divisor: f32,
    ignored_scaling: Option<(f64, f64)>,
    /// Of each chosen band.
    nodata: Vec<Option<f32>>,
    /// Values that have become infinite.
    overflowed: u64,
    bytes: Vec<u8>,
}

impl Converter {
    /// For the chosen `bands`, each with its no-data value.
    pub fn new(
        rules: &ValueRules,
        info: &SourceInfo,
        (bands, nodata): (&[usize], &[Option<f64>]),
        to: PixelType,
    ) -> Converter {
        let stated = |band: usize| info.scaling.as_ref().map_or((1.0, 0.0), |scaling| scaling[band]);
        let linear: Vec<(f64, f64)> = bands
            .iter()
            .map(|&band| {
                let (scale, offset) = if rules.apply_scale { stated(band) } else { (1.0, 0.0) };
                (scale * rules.scale, offset * rules.scale + rules.offset)
            })
            .collect();
        let ignored = bands.iter().map(|&band| stated(band)).find(|&pair| pair != (1.0, 0.0));
        Converter {
            from: info.dtype,
            to,
            linear: linear.iter().any(|&pair| pair != (1.0, 0.0)).then_some(linear),
            divisor: 1.0,
            ignored_scaling: ignored.filter(|_| !rules.apply_scale),
            nodata: nodata.iter().map(|value| value.map(|v| v as f32)).collect(),
            overflowed: 0,
            bytes: Vec::new(),
        }
    }

    /// Sets the divisor of `ExampleDataset` by the largest of a file's values.
    ///
    /// # Errors
    /// Those of reading, and of `proceed`.
    pub fn measure(
        &mut self,
        source: &mut dyn Source,
        bands: &[usize],
        proceed: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut block = Vec::new();
        let mut largest = f32::NEG_INFINITY;
        while source.next_rows(bands, &mut block)? > 0 {
            proceed()?;
            largest = values_as_f32(&block, self.from).fold(largest, f32::max);
            block.clear();
        }
        self.divisor = if largest > 1.5 { 10_000.0 } else { 1.0 };
        Ok(())
    }

    /// The values of `block`, whole pixels, as they are stored.
    pub fn convert<'a>(&'a mut self, block: &'a [u8]) -> &'a [u8] {
        if self.from == self.to && self.linear.is_none() && self.divisor == 1.0 {
            return block;
        }
        self.bytes.clear();
        let values = values_as_f32(block, self.from);
        match &self.linear {
            None => self.bytes.extend(values.flat_map(|v| (v / self.divisor).to_ne_bytes())),
            Some(linear) => {
                let of_band = linear.iter().zip(&self.nodata).cycle();
                let overflowed = &mut self.overflowed;
                let moved = values.zip(of_band).map(|(v, ((scale, offset), nodata))| {
                    let moved = (f64::from(v) * scale + offset) as f32;
                    // What has no value is left out, whatever becomes of it.
                    let lost = !moved.is_finite() && v.is_finite() && Some(v) != *nodata;
                    *overflowed += u64::from(lost);
                    moved
                });
                self.bytes.extend(moved.flat_map(|v| (v / self.divisor).to_ne_bytes()));
            }
        }
        &self.bytes
    }

    /// For each band, gain and offset that make a file's value of a stored one.
    pub fn inverse(&self, bands: usize) -> Vec<(f64, f64)> {
        let divisor = f64::from(self.divisor);
        let of = |(scale, offset): &(f64, f64)| (divisor / scale, -offset / scale);
        self.linear.as_ref().map_or_else(|| vec![(divisor, 0.0); bands], |linear| linear.iter().map(of).collect())
    }

    /// An error if values of the file `path` have become infinite.
    pub fn refuse(&self, path: &Path) -> Result<()> {
        match self.overflowed {
            0 => Ok(()),
            n => Err(Error::data(path, format!("{n} values become infinite by scale and offset"))
                .with_hint("check Data.scale, Data.offset and Data.apply_scale")),
        }
    }

    /// What the user should know, to follow the file's name.
    pub fn notes(&self) -> Option<String> {
        self.ignored_scaling.map(|(scale, offset)| {
            format!("it states a scale of {scale} and an offset of {offset}, not applied (Data.apply_scale: true applies them)")
        })
    }
}
