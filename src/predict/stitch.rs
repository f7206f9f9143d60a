//! A row of windows: through the network batch by batch, and joined into rows of the map. What is in memory are the input
//! rows, a batch, and the pixels that a window shares with the next.

use std::ops::Range;

use super::axis::{rise, scaled};
use super::finished::mix;
use super::job::Job;
use super::model::{Model, WindowShape};
use super::scene::{Rows, Scene};
use super::work::{Record, Work};
use crate::ops::prepare::Normalization;
use crate::runtime::{PlanId, Run};
use crate::{Error, Result};

/// Makes rows of windows.
pub(super) struct Stitcher<'m> {
    model: &'m mut Model,
    plan: PlanId,
    shape: WindowShape,
    normalization: Normalization,
    /// For each band, gain and offset that make a value of the file of a denormalised one.
    inverse: Vec<(f64, f64)>,
    /// Input rows around a window that its pixels without a value are filled from.
    around: usize,
}

/// Called after each batch with the number of windows that are done.
pub(super) type OnWindows<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// A row of windows while it is made.
struct Unit<'a> {
    job: &'a Job,
    work: &'a Work,
    record: Record,
    number: usize,
    rows: Rows,
    /// Of the window before, its share of the pixels between it and the next: rows, columns, bands.
    pending: Vec<f32>,
}

impl<'m> Stitcher<'m> {
    /// For the windows of a job.
    ///
    /// # Errors
    /// If the plan cannot be made ready.
    pub fn new(
        model: &'m mut Model,
        shape: WindowShape,
        inverse: Vec<(f64, f64)>,
        around: usize,
    ) -> Result<Stitcher<'m>> {
        let plan = model.prepare(shape)?;
        let normalization = model.normalization()?;
        Ok(Stitcher { model, plan, shape, normalization, inverse, around })
    }

    /// Makes unit `number` of `work`'s job and notes that it is finished.
    ///
    /// # Errors
    /// If the scene cannot be read, the device fails, the network gives no numbers, or `on_windows` says so.
    pub fn make(
        &mut self,
        scene: &mut Scene,
        work: &mut Work,
        number: usize,
        on_windows: &mut OnWindows,
    ) -> Result<()> {
        let job = &work.job;
        let window = job.rows.pixels(number);
        let from = window.start.saturating_sub(self.around)..(window.end + self.around).min(job.rows.len);
        let rows = scene.filled(from)?;
        let record = Record::of(job, number);
        let mut unit = Unit { job, work, record, number, rows, pending: Vec::new() };
        unit.write_mask()?;
        let columns = job.columns.count();
        let with_data: Vec<usize> = (0..columns).filter(|column| unit.has_data(*column)).collect();
        let (mut next, mut before): (usize, Option<(Run, &[usize])>) = (0, None);
        for batch in with_data.chunks(self.shape.batch).map(Some).chain([None]) {
            let started = match batch {
                Some(batch) => {
                    Some((self.model.start(self.plan, &unit.raw(batch, self.shape, scene.pixel_bytes()))?, batch))
                }
                None => None,
            };
            if let Some((run, batch)) = std::mem::replace(&mut before, started) {
                let output = self.model.collect(run)?;
                for (column, image) in batch.iter().zip(output.chunks_exact(output.len() / self.shape.batch)) {
                    (next..*column).try_for_each(|skipped| unit.add(skipped, None))?;
                    unit.add(*column, Some(&self.in_file(image, &unit, *column)?))?;
                    next = column + 1;
                }
                on_windows(batch.len())?;
            }
        }
        (next..columns).try_for_each(|skipped| unit.add(skipped, None))?;
        on_windows(columns - with_data.len())?;
        work.finish(number)
    }

    /// Network output as values of the file.
    fn in_file(&self, image: &[f32], unit: &Unit, column: usize) -> Result<Vec<f32>> {
        let bands = self.inverse.len();
        if let Some(at) = image.iter().position(|v| !v.is_finite()) {
            let (pixel, scale) = (at / bands, unit.job.scale);
            let columns = unit.job.columns.pixels(column);
            let width = columns.len() * scale;
            let row = unit.job.rows.pixels(unit.number).start + pixel / width / scale;
            let column = columns.start + pixel % width / scale;
            let message = format!("its network gives {} near row {row}, column {column} of the scene", image[at]);
            return Err(Error::checkpoint(self.model.checkpoint(), message)
                .with_hint("the scene's values there, or the weights, are too large: look at both"));
        }
        let value = |(i, v): (usize, &f32)| {
            let (gain, offset) = self.inverse[i % bands];
            (f64::from(self.normalization.denormalize(*v)) * gain + offset) as f32
        };
        Ok(image.iter().enumerate().map(value).collect())
    }
}

impl Unit<'_> {
    /// Flags of the input pixels `columns` of input row `row`.
    fn valid(&self, row: usize, columns: Range<usize>) -> &[u8] {
        let start = (row - self.rows.first) * self.job.columns.len;
        &self.rows.valid[start + columns.start..start + columns.end]
    }

    fn write_mask(&self) -> Result<()> {
        let all = 0..self.job.columns.len;
        let mask: Vec<u8> = self.record.input.clone().flat_map(|row| self.valid(row, all.clone())).copied().collect();
        self.work.write_mask(self.number, &mask)
    }

    /// Whether a window adds to any pixel that has a value.
    fn has_data(&self, column: usize) -> bool {
        let columns = self.job.columns.span(column);
        self.record.input.clone().any(|row| self.valid(row, columns.clone()).contains(&1))
    }

    /// The raw pixels of a batch of windows; zeros for the windows that it lacks.
    fn raw(&self, batch: &[usize], shape: WindowShape, pixel: usize) -> Vec<u8> {
        let mut raw = Vec::with_capacity(shape.batch * shape.height * shape.width * pixel);
        for column in batch {
            let columns = self.job.columns.pixels(*column);
            for row in self.job.rows.pixels(self.number) {
                let start = (row - self.rows.first) * self.job.columns.len;
                raw.extend_from_slice(
                    &self.rows.values[(start + columns.start) * pixel..(start + columns.end) * pixel],
                );
            }
        }
        raw.resize(shape.batch * shape.height * shape.width * pixel, 0);
        raw
    }

    /// Adds a window to the map, or one without data: writes all columns up to those that it shares with the next.
    fn add(&mut self, column: usize, image: Option<&[f32]>) -> Result<()> {
        let (job, scale, bands) = (self.job, self.job.scale, self.job.bands.len());
        let (before, after) = (job.columns.zone_before(column), job.columns.zone_after(column));
        let [before, after] = [before, after].map(|zone| scaled(&zone, scale));
        let written = before.start..after.start;
        let window = scaled(&job.columns.pixels(column), scale);
        let top = job.rows.pixels(self.number).start * scale;
        let pending = std::mem::take(&mut self.pending);
        let none = vec![0.0; (after.end - before.start) * bands];
        let mut bytes = Vec::new();
        for row in self.record.rows.clone() {
            // Values from the start of the zone before to the end of the zone behind.
            let mut values = image.map_or_else(
                || none.clone(),
                |image| {
                    let start = (row - top) * window.len();
                    let place = |column: usize| (start + column - window.start) * bands;
                    image[place(before.start)..place(after.end)].to_vec()
                },
            );
            let shared = (row - self.record.rows.start) * before.len() * bands;
            for (i, at) in before.clone().enumerate() {
                let share = rise(job.blend, at, &before);
                for band in i * bands..(i + 1) * bands {
                    values[band] = mix(pending[shared + band], values[band], share);
                }
            }
            self.pending.extend_from_slice(&values[written.len() * bands..]);
            bytes.clear();
            self.append(row, &written, &values, &mut bytes);
            self.work.write_row(self.number, &self.record, (row, written.start), &bytes)?;
        }
        Ok(())
    }

    /// Appends values of `columns` of a row as the record holds them.
    fn append(&self, row: usize, columns: &Range<usize>, values: &[f32], bytes: &mut Vec<u8>) {
        let (job, scale, bands) = (self.job, self.job.scale, self.job.bands.len());
        if !self.record.is_final(row) {
            return bytes.extend_from_slice(bytemuck::cast_slice(&values[..columns.len() * bands]));
        }
        let input = columns.start / scale..columns.end.div_ceil(scale);
        let valid = self.valid(row / scale, input.clone());
        for (column, pixel) in columns.clone().zip(values.chunks_exact(bands)) {
            for value in pixel {
                match valid[column / scale - input.start] {
                    0 => job.values.push_fill(bytes),
                    _ => job.values.push(*value, bytes),
                }
            }
        }
    }
}
