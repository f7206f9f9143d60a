//! A scene while a map is made of it: rows of its bands on request, with what says which pixels have a value. Only the
//! rows that were asked for last are in memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::fill::nearest;
use super::geo;
use crate::config::Config;
use crate::data::source::{self, MaskKind, RawTag, Source};
use crate::data::{Converter, DataSettings, Layout, PixelType, values_as_f32};
use crate::train::data_settings;
use crate::{Error, Result};

/// Where a sample looks, in how many rows there, and at how many pixels of them.
const SAMPLED_PLACES: usize = 16;
const SAMPLED_ROWS: usize = 16;
const SAMPLED_PIXELS: usize = 16384;

/// An input file.
pub(super) struct Scene {
    path: PathBuf,
    source: Box<dyn Source>,
    bands: Vec<usize>,
    converter: Converter,
    /// Type of the values that the network is given.
    raw: PixelType,
    nodata: Option<f32>,
    has_mask: bool,
    /// First row in memory.
    first: usize,
    /// Values of the rows in memory: rows, columns, bands, of type `raw`.
    values: Vec<u8>,
    /// For each pixel of them 0 if it has no value, else 1.
    valid: Vec<u8>,
}

/// Rows of a scene whose pixels without a value have been given some.
pub(super) struct Rows {
    /// The first row.
    pub first: usize,
    /// Values: rows, columns, bands.
    pub values: Vec<u8>,
    /// For each pixel 0 if it has no value of its own, else 1.
    pub valid: Vec<u8>,
}

impl Scene {
    /// Opens `path` for the networks of `cfg`. `bands` takes the place of the config's: numbers from 0, or names.
    ///
    /// # Errors
    /// If it cannot be read, or its bands are not those that the network expects.
    pub fn open(path: &Path, cfg: &Config, bands: Option<&str>) -> Result<Scene> {
        let settings = data_settings(cfg);
        let layout = settings.layout.unwrap_or(Layout::Hwc);
        let path = &source::with_bands(path, bands);
        let mut source = source::open(path, layout)?;
        let bands = choose_bands(path, source.as_ref(), &settings, bands)?;
        let rules = settings.value_rules();
        let raw = rules.stored_type(source.info());
        let stated: Vec<_> = bands.iter().map(|band| rules.nodata.or(source.info().nodata_of(*band))).collect();
        let mut converter = Converter::new(&rules, source.info(), (&bands, &stated), raw);
        if rules.example {
            converter.measure(source.as_mut(), &bands, &|| Ok(()))?;
            source.seek(0);
        }
        let info = source.info();
        let alpha_is_band = info.alpha.is_some_and(|alpha| bands.contains(&alpha));
        let has_mask = rules.mask && info.mask.is_some_and(|kind| kind != MaskKind::Alpha || !alpha_is_band);
        let nodata = rules.nodata.or(info.nodata).map(|v| v as f32).filter(|v| !v.is_nan());
        let (values, valid) = (Vec::new(), Vec::new());
        Ok(Scene { path: path.clone(), source, bands, converter, raw, nodata, has_mask, first: 0, values, valid })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.source.info().height, self.source.info().width)
    }

    /// Whether it is an array of rows and columns without an axis of bands.
    pub fn is_flat(&self) -> bool {
        let info = self.source.info();
        info.bands == 1 && !info.layout_applied
    }

    /// The file's bands in use, counted from 0.
    pub fn bands(&self) -> &[usize] {
        &self.bands
    }

    /// Type of the values in the file.
    pub fn dtype(&self) -> PixelType {
        self.source.info().dtype
    }

    /// Type of the values that the network is given.
    pub fn raw_type(&self) -> PixelType {
        self.raw
    }

    /// Whether a mask says which pixels have a value; the no-data value then says nothing.
    pub fn has_mask(&self) -> bool {
        self.has_mask
    }

    /// The value of pixels without data.
    pub fn nodata(&self, cfg: &Config) -> Option<f64> {
        cfg.data.nodata.or(self.source.info().nodata)
    }

    /// The file's tags that a map keeps.
    pub fn tags(&self) -> &[RawTag] {
        &self.source.info().tags
    }

    /// For each band, gain and offset that make a value of the file of one that the network was trained on.
    pub fn inverse(&self) -> Vec<(f64, f64)> {
        self.converter.inverse(self.bands.len())
    }

    /// What the user should know about the file.
    pub fn notes(&self) -> Vec<String> {
        let of_file = self.source.info().notes.iter().cloned();
        of_file.chain(self.converter.notes()).map(|note| format!("{}: {note}", self.path.display())).collect()
    }

    /// Bytes of a pixel's values.
    pub fn pixel_bytes(&self) -> usize {
        self.bands.len() * self.raw.bytes()
    }

    /// Copies rows, with values from their nearest neighbours for pixels that have none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn filled(&mut self, rows: Range<usize>) -> Result<Rows> {
        self.hold(rows.clone())?;
        let (_, width) = self.size();
        let size = self.pixel_bytes();
        let at = (rows.start - self.first) * width;
        let end = at + rows.len() * width;
        let (mut values, valid) = (self.values[at * size..end * size].to_vec(), self.valid[at..end].to_vec());
        if valid.contains(&0) && valid.contains(&1) {
            for (pixel, from) in nearest(&valid, width).into_iter().enumerate().filter(|(i, from)| *i != *from as usize)
            {
                let from = from as usize * size;
                values.copy_within(from..from + size, pixel * size);
            }
        }
        Ok(Rows { first: rows.start, values, valid })
    }

    /// Values of each band in a sample of rows from all over the scene, sorted; those of pixels without a value left out.
    /// They are the values that the network is given, before normalisation.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn sample(&mut self) -> Result<Vec<Vec<f32>>> {
        let (height, width) = self.size();
        let places = SAMPLED_PLACES.min(height);
        let mut bands: Vec<Vec<f32>> = vec![Vec::new(); self.bands.len()];
        for place in 0..places {
            let start = place * height / places;
            self.hold(start..(start + SAMPLED_ROWS).min(height))?;
            let every = (width * SAMPLED_ROWS / SAMPLED_PIXELS).max(1);
            let pixels = self.values.chunks_exact(self.pixel_bytes()).zip(&self.valid).take(width * SAMPLED_ROWS);
            for (pixel, _) in pixels.step_by(every).filter(|(_, valid)| **valid != 0) {
                bands.iter_mut().zip(values_as_f32(pixel, self.raw)).for_each(|(band, v)| band.push(v));
            }
        }
        bands.iter_mut().for_each(|values| values.sort_by(f32::total_cmp));
        Ok(bands)
    }

    /// Copies rows as they are in the file, as floats, with what says which pixels have a value.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn rows(&mut self, rows: Range<usize>) -> Result<(Vec<f32>, Vec<u8>)> {
        self.hold(rows.clone())?;
        let (_, width) = self.size();
        let at = (rows.start - self.first) * width;
        let end = at + rows.len() * width;
        let size = self.pixel_bytes();
        let inverse = self.inverse();
        let values = values_as_f32(&self.values[at * size..end * size], self.raw).enumerate();
        let in_file = |(i, v): (usize, f32)| {
            let (gain, offset) = inverse[i % inverse.len()];
            (f64::from(v) * gain + offset) as f32
        };
        Ok((values.map(in_file).collect(), self.valid[at..end].to_vec()))
    }

    /// Brings rows to memory and gives up those before them.
    fn hold(&mut self, rows: Range<usize>) -> Result<()> {
        let (_, width) = self.size();
        let size = self.pixel_bytes();
        let held = self.valid.len() / width;
        if rows.start < self.first || rows.start > self.first + held {
            (self.first, self.values, self.valid) = (rows.start, Vec::new(), Vec::new());
            self.source.seek(rows.start);
        }
        let gone = (rows.start - self.first) * width;
        self.values.drain(..gone * size);
        self.valid.drain(..gone);
        self.first = rows.start;
        while self.first + self.valid.len() / width < rows.end {
            self.read_more(width)?;
        }
        Ok(())
    }

    /// Appends what the file gives next.
    fn read_more(&mut self, width: usize) -> Result<()> {
        let mut block = Vec::new();
        let count = self.source.next_rows(&self.bands, &mut block)?;
        if count == 0 {
            return Err(Error::data(&self.path, "the file ends before its last row"));
        }
        let row = self.first + self.valid.len() / width;
        let (bands, nodata) = (self.bands.len(), self.nodata.filter(|_| !self.has_mask));
        let from = self.valid.len();
        if self.has_mask {
            self.source.read_mask(row, count, &mut self.valid)?;
        } else {
            self.valid.resize(from + count * width, 1);
        }
        let is_bad = |v: f32| !v.is_finite() || Some(v) == nodata;
        if self.dtype() == PixelType::F32 || nodata.is_some() {
            for (i, value) in values_as_f32(&block, self.dtype()).enumerate() {
                if is_bad(value) {
                    self.valid[from + i / bands] = 0;
                }
            }
        }
        self.values.extend_from_slice(self.converter.convert(&block));
        Ok(())
    }
}

/// The file's bands to use: those asked for by number or name, or the config's.
fn choose_bands(path: &Path, source: &dyn Source, settings: &DataSettings, asked: Option<&str>) -> Result<Vec<usize>> {
    let (info, in_bands) = (source.info(), settings.in_bands);
    let Some(asked) = asked else {
        return source::choose_bands(path, info, settings.bands.as_deref(), in_bands).map_err(|_| {
            let trained = settings.bands.as_ref().map_or_else(String::new, |bands| format!(" (its bands {bands:?})"));
            let message = format!("the checkpoint expects {in_bands} bands{trained}; found: {}", info.shape);
            Error::data(path, message).with_hint("choose the bands with --bands, by number from 0 or by name")
        });
    };
    let names = geo::band_names(&info.tags);
    let place = |name: &str| {
        let by_name = || names.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(band, _)| *band);
        name.parse().ok().filter(|band| *band < info.bands).or_else(by_name).ok_or_else(|| {
            let known: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
            let named = if known.is_empty() { "without names".into() } else { format!("named {}", known.join(", ")) };
            let message = format!("there is no band {name:?}; the file has {} bands, {named}", info.bands);
            Error::data(path, message).with_hint("numbers in --bands count from 0")
        })
    };
    let bands = asked.split(',').map(|name| place(name.trim())).collect::<Result<Vec<usize>>>()?;
    if bands.len() != in_bands {
        let message = format!("--bands names {} bands, the checkpoint expects {in_bands}", bands.len());
        return Err(Error::data(path, message));
    }
    Ok(bands)
}
