//! Overviews: each has half the rows and columns of the level below, a pixel being the mean of up to four. Pixels without
//! a value are left out of the mean; only where all four have none has the overview none.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::data::values_as_f32;
use crate::predict::finished::Pixels;
use crate::predict::values::Values;
use crate::predict::work::failed;

/// Extent and kind of an image's pixels.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub height: usize,
    pub width: usize,
    pub bands: usize,
    pub values: Values,
}

impl Level {
    /// The level above.
    pub fn halved(&self) -> Level {
        Level { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self.clone() }
    }

    fn row_bytes(&self) -> usize {
        self.width * self.bands * self.values.dtype.bytes()
    }
}

/// A level's pixels in an unnamed file.
pub(super) struct Stored {
    level: Level,
    file: File,
    folder: PathBuf,
}

impl Stored {
    /// Room for a level's pixels in a file in `folder`, which goes with the value.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn new(level: Level, folder: &Path) -> Result<Stored> {
        let file = tempfile::tempfile_in(folder).map_err(|e| failed("create a file in", folder, e))?;
        Ok(Stored { level, file, folder: folder.into() })
    }

    /// What it holds.
    pub fn level(&self) -> &Level {
        &self.level
    }

    /// Computes a row of the level from the level `below`, and stores it.
    ///
    /// # Errors
    /// If the level below cannot be read or this one not be written.
    pub fn fill_row(&self, below: &dyn Pixels, below_level: &Level, row: usize) -> Result<()> {
        let (mut values, mut valid) = (Vec::new(), Vec::new());
        let rows = 2 * row..(2 * row + 2).min(below_level.height);
        let count = rows.len();
        for from in rows {
            below.read(from, 0..below_level.width, &mut values, &mut valid)?;
        }
        let (mut bytes, flags) = mean_row(&self.level, below_level.width, count, (&values, &valid));
        bytes.extend(flags);
        let at = (row * (self.level.row_bytes() + self.level.width)) as u64;
        self.file.write_all_at(&bytes, at).map_err(|e| failed("write in", &self.folder, e))
    }
}

/// Values and flags of a row from `rows` rows of `width` pixels of the level below.
fn mean_row(level: &Level, width: usize, rows: usize, (values, valid): (&[u8], &[u8])) -> (Vec<u8>, Vec<u8>) {
    let bands = level.bands;
    let floats: Vec<f32> = values_as_f32(values, level.values.dtype).collect();
    let (mut bytes, mut flags) = (Vec::with_capacity(level.row_bytes()), Vec::with_capacity(level.width));
    let mut sums = vec![0f64; bands];
    for column in 0..level.width {
        sums.fill(0.0);
        let mut count = 0;
        for y in 0..rows {
            for x in 2 * column..(2 * column + 2).min(width) {
                let pixel = y * width + x;
                if valid[pixel] != 0 {
                    count += 1;
                    let own = &floats[pixel * bands..(pixel + 1) * bands];
                    sums.iter_mut().zip(own).for_each(|(sum, v)| *sum += f64::from(*v));
                }
            }
        }
        flags.push(u8::from(count > 0));
        for sum in &sums {
            match count {
                0 => level.values.push_fill(&mut bytes),
                n => level.values.push((sum / f64::from(n)) as f32, &mut bytes),
            }
        }
    }
    (bytes, flags)
}

impl Pixels for Stored {
    fn read(&self, row: usize, columns: Range<usize>, values: &mut Vec<u8>, valid: &mut Vec<u8>) -> Result<()> {
        let failed = |e| failed("read in", &self.folder, e);
        let pixel = self.level.bands * self.level.values.dtype.bytes();
        let at = (row * (self.level.row_bytes() + self.level.width)) as u64;
        let (from, flags) = (values.len(), valid.len());
        values.resize(from + columns.len() * pixel, 0);
        valid.resize(flags + columns.len(), 0);
        self.file.read_exact_at(&mut values[from..], at + (columns.start * pixel) as u64).map_err(failed)?;
        let at = at + (self.level.row_bytes() + columns.start) as u64;
        self.file.read_exact_at(&mut valid[flags..], at).map_err(failed)
    }
}
