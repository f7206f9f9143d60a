//! The rows of a map, read back from working files: zones blended, values matched, pixels without a value filled.

use std::ops::Range;

use super::Matching;
use super::axis::{rise, scaled};
use super::job::Job;
use super::matching::Target;
use super::work::{Record, Work};
use crate::{Error, Result};

/// A source of an image's pixels by parts of rows.
pub(super) trait Pixels: Sync {
    /// Appends the values of `columns` of a row, and for each pixel 0 if it has no value, else 1.
    fn read(&self, row: usize, columns: Range<usize>, values: &mut Vec<u8>, valid: &mut Vec<u8>) -> Result<()>;
}

/// Working files that hold all units of a map.
pub(super) struct Finished {
    works: Vec<Work>,
    records: Vec<Record>,
    /// For each unit, its working file.
    places: Vec<usize>,
    /// What the map has before it is matched.
    own: Target,
}

impl Finished {
    /// The map of working files of one job.
    ///
    /// # Errors
    /// If they do not hold each unit once; those of reading, where values are matched.
    pub fn new(works: Vec<Work>) -> Result<Finished> {
        let job = works.first().map(|work| &work.job).ok_or_else(|| Error::usage("no part of a map is named"))?;
        let count = job.rows.count();
        let mut places = vec![None; count];
        for (place, work) in works.iter().enumerate() {
            for unit in work.units.clone() {
                if let Some(other) = places[unit].replace(place) {
                    let other: &Work = &works[other];
                    let message = format!("the same rows are in {}", other.path().display());
                    return Err(Error::data(work.path(), message).with_hint("name each part once"));
                }
            }
        }
        let missing = places.iter().filter(|place| place.is_none()).count();
        let places: Vec<usize> = places.into_iter().flatten().collect();
        if missing > 0 {
            let message = format!("{missing} of {count} rows of windows are in none of the parts");
            return Err(Error::data(works[0].path(), message).with_hint("name all parts of the map"));
        }
        let records = (0..count).map(|unit| Record::of(job, unit)).collect();
        let mut finished = Finished { works, records, places, own: Target::None };
        finished.own = finished.measure()?;
        Ok(finished)
    }

    /// What the map is made of.
    pub fn job(&self) -> &Job {
        &self.works[0].job
    }

    /// What the values have before they are matched.
    fn measure(&self) -> Result<Target> {
        let job = self.job();
        let matching = match job.target {
            Target::None => return Ok(Target::None),
            Target::Moments(_) => Matching::Moments,
            Target::Histogram(_) => Matching::Histogram,
        };
        let (height, width) = job.size();
        Target::of(matching, job.bands.len(), &mut |pixel| {
            for row in 0..height {
                let (values, mut valid) = (self.floats(row, &(0..width))?, Vec::new());
                self.valid(row, &(0..width), &mut valid)?;
                let pixels = values.chunks_exact(job.bands.len()).zip(&valid);
                pixels.filter(|(_, valid)| **valid != 0).for_each(|(values, _)| pixel(values));
            }
            Ok(())
        })
    }

    /// The unit that a row is read from, the later of two, and the zone before it if the row lies there.
    fn unit_of(&self, row: usize) -> (usize, Option<Range<usize>>) {
        let job = self.job();
        let unit = job.rows.window_of(row / job.scale);
        let zone = scaled(&job.rows.zone_before(unit), job.scale);
        (unit, Some(zone).filter(|zone| zone.contains(&row)))
    }

    fn work(&self, unit: usize) -> &Work {
        &self.works[self.places[unit]]
    }

    /// Values of a row before they are matched and rounded; of a row that is not final.
    fn floats(&self, row: usize, columns: &Range<usize>) -> Result<Vec<f32>> {
        let job = self.job();
        let (unit, zone) = self.unit_of(row);
        let of = |unit: usize| {
            let mut values = vec![0f32; columns.len() * job.bands.len()];
            let place = (row, columns.start);
            self.work(unit).read_row(unit, &self.records[unit], place, bytemuck::cast_slice_mut(&mut values))?;
            Ok(values)
        };
        let mut values = of(unit)?;
        if let Some(zone) = zone {
            let share = rise(job.blend, row, &zone);
            let before = of(unit - 1)?;
            values.iter_mut().zip(before).for_each(|(v, before)| *v = mix(before, *v, share));
        }
        Ok(values)
    }

    fn valid(&self, row: usize, columns: &Range<usize>, valid: &mut Vec<u8>) -> Result<()> {
        let scale = self.job().scale;
        let (unit, _) = self.unit_of(row);
        let input = columns.start / scale..columns.end.div_ceil(scale);
        let mut mask = vec![0; input.len()];
        self.work(unit).read_mask(unit, &self.records[unit], (row / scale, input.start), &mut mask)?;
        valid.extend(columns.clone().map(|column| mask[column / scale - input.start]));
        Ok(())
    }
}

/// The value between those of two windows; `share` is that of the later.
pub(super) fn mix(before: f32, after: f32, share: f32) -> f32 {
    before * (1.0 - share) + after * share
}

impl Pixels for Finished {
    fn read(&self, row: usize, columns: Range<usize>, values: &mut Vec<u8>, valid: &mut Vec<u8>) -> Result<()> {
        let job = self.job();
        let from = valid.len();
        self.valid(row, &columns, valid)?;
        let (unit, _) = self.unit_of(row);
        let record = &self.records[unit];
        if record.is_final(row) {
            let start = values.len();
            values.resize(start + columns.len() * job.pixel_bytes(), 0);
            return self.work(unit).read_row(unit, record, (row, columns.start), &mut values[start..]);
        }
        let floats = self.floats(row, &columns)?;
        for (pixel, valid) in floats.chunks_exact(job.bands.len()).zip(&valid[from..]) {
            for (band, value) in pixel.iter().enumerate() {
                match valid {
                    0 => job.values.push_fill(values),
                    _ => job.values.push(job.target.matched(&self.own, band, *value), values),
                }
            }
        }
        Ok(())
    }
}
