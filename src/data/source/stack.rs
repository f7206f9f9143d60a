//! Several files as one image: the bands of each follow those of the one before, as Sentinel-2's come one a file.

use std::path::PathBuf;

use super::values::ValueType;
use super::{Source, SourceInfo, tags};
use crate::data::pixels::values_as_f32;
use crate::data::{Layout, PixelType};
use crate::error::{Error, Result};

struct Member {
    source: Box<dyn Source>,
    first_band: usize,
    /// Rows that were read and not yet handed on.
    pending: Vec<u8>,
    rows: usize,
}

struct Stack {
    members: Vec<Member>,
    info: SourceInfo,
}

/// Opens `paths`, images of one size.
pub(super) fn open(paths: &[PathBuf], layout: Layout) -> Result<Box<dyn Source>> {
    let [first_path, ..] = paths else { return Err(Error::config("Data.scenes", "a scene without files")) };
    let mut members: Vec<Member> = Vec::with_capacity(paths.len());
    let mut bands = 0;
    for path in paths {
        let source = super::open(path, layout)?;
        let own = source.info();
        if let Some(first) = members.first().map(|member| member.source.info())
            && (first.height, first.width) != (own.height, own.width)
        {
            let message = format!(
                "{} rows and {} columns, but {} of the same scene has {} and {}",
                own.height,
                own.width,
                first_path.display(),
                first.height,
                first.width
            );
            let hint = "files of one scene need one size: gdalwarp -tr brings a coarser band to the finer grid";
            return Err(Error::data(path, message).with_hint(hint));
        }
        if let Some(first) = members.first().map(|member| member.source.info())
            && let Some(difference) = tags::difference(&first.tags, &own.tags)
        {
            let message = format!("it is not where {} of the same scene is: {difference}", first_path.display());
            return Err(
                Error::data(path, message).with_hint("bring the files to one grid: gdalwarp -t_srs … -te … -tr …")
            );
        }
        if own.alpha.is_some() {
            let hint = "leave the alpha band out: gdal_translate -b 1 in.tif out.tif";
            return Err(Error::data(path, "a file with an alpha band cannot be stacked").with_hint(hint));
        }
        let added = own.bands;
        members.push(Member { source, first_band: bands, pending: Vec::new(), rows: 0 });
        bands += added;
    }
    let info = describe(&members, bands, paths);
    Ok(Box::new(Stack { members, info }))
}

fn describe(members: &[Member], bands: usize, paths: &[PathBuf]) -> SourceInfo {
    let infos: Vec<&SourceInfo> = members.iter().map(|member| member.source.info()).collect();
    let first = infos[0];
    let same_type = infos.iter().all(|info| info.dtype == first.dtype);
    let (dtype, value_type) =
        if same_type { (first.dtype, first.value_type) } else { (PixelType::F32, ValueType::F32) };
    let (height, width) = (first.height, first.width);
    let shape = format!("{height} rows, {width} columns, {bands} bands of {dtype} in {} files", paths.len());
    let mut info = SourceInfo::new([height, width, bands], value_type, shape);
    info.notes.clear();
    for (path, own) in paths.iter().zip(&infos) {
        info.notes.extend(own.notes.iter().map(|note| format!("{}: {note}", path.display())));
    }
    info.dtype = dtype;
    // A pixel is left out by what the file of any of its bands says of that band.
    let of_bands = infos.iter().flat_map(|own| (0..own.bands).map(|band| own.nodata_of(band)));
    info.band_nodata = Some(of_bands.collect());
    info.mask = infos.iter().find_map(|own| own.mask);
    if infos.iter().any(|own| own.scaling.is_some()) {
        let of = |own: &&SourceInfo| own.scaling.clone().unwrap_or_else(|| vec![(1.0, 0.0); own.bands]);
        info.scaling = Some(infos.iter().flat_map(of).collect());
    }
    info
}

impl Source for Stack {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        let SourceInfo { width, dtype, .. } = self.info;
        let size = dtype.bytes();
        let mut used = Vec::new();
        for (number, member) in self.members.iter_mut().enumerate() {
            let own_bands = member.first_band..member.first_band + member.source.info().bands;
            let places: Vec<usize> = (0..bands.len()).filter(|&place| own_bands.contains(&bands[place])).collect();
            if places.is_empty() {
                continue;
            }
            if member.rows == 0 {
                let own: Vec<usize> = places.iter().map(|&place| bands[place] - member.first_band).collect();
                let mut rows = Vec::new();
                member.rows = member.source.next_rows(&own, &mut rows)?;
                let from = member.source.info().dtype;
                member.pending = match from == dtype {
                    true => rows,
                    false => values_as_f32(&rows, from).flat_map(f32::to_ne_bytes).collect(),
                };
            }
            used.push((number, places));
        }
        let rows = used.iter().map(|(number, _)| self.members[*number].rows).min().unwrap_or(0);
        let start = out.len();
        out.resize(start + rows * width * bands.len() * size, 0);
        for (number, places) in used {
            let member = &mut self.members[number];
            let taken = rows * width * places.len() * size;
            let values = member.pending.drain(..taken);
            let pixels = out[start..].chunks_exact_mut(bands.len() * size);
            for (from, to) in values.as_slice().chunks_exact(places.len() * size).zip(pixels) {
                for (value, &place) in from.chunks_exact(size).zip(&places) {
                    to[place * size..][..size].copy_from_slice(value);
                }
            }
            drop(values);
            member.rows -= rows;
        }
        Ok(rows)
    }

    fn seek(&mut self, row: usize) {
        for member in &mut self.members {
            member.source.seek(row);
            (member.rows, member.pending) = (0, Vec::new());
        }
    }

    fn read_mask(&mut self, first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + rows * self.info.width, 1);
        for member in self.members.iter_mut().filter(|member| member.source.info().mask.is_some()) {
            let mut flags = Vec::new();
            member.source.read_mask(first, rows, &mut flags)?;
            out[start..].iter_mut().zip(flags).filter(|(_, flag)| *flag == 0).for_each(|(to, _)| *to = 0);
        }
        Ok(())
    }
}
