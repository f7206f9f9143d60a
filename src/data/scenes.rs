//! Whole scenes: training patches from anywhere in the upper part of each, validation patches side by side in
//! the lower part. No patch touches a masked pixel or crosses the border between the two.

use std::path::{Path, PathBuf};

use super::dataset::{Image, Opening, Parts, Stored, Training, ValItem};
use super::origins::Origins;
use super::store::{Crop, MaskedRun, open_or_build};
use super::{DataSettings, ImageFiles, Layout, PixelType, source};
use crate::error::{Error, Result};

/// Opens `settings.scenes`.
pub(super) fn open(settings: &DataSettings, opening: &mut Opening) -> Result<Parts> {
    let size = settings
        .hr_size
        .ok_or_else(|| Error::config("Data.hr_size", "scenes are cut into patches: give the side of an HR patch"))?;
    if settings.scenes.is_empty() {
        return Err(Error::config("Data.scenes", "the list of scenes is empty"));
    }
    let scenes = expand(&settings.scenes)?;
    let dtype = common_type(settings, &scenes, opening)?;
    let mut parts = Parts {
        images: Vec::new(),
        training: Training::Scenes { origins: Vec::new(), before: vec![0] },
        train_size: (size, size),
        default_len: 0,
        val: Vec::new(),
        held_out: Vec::new(),
    };
    let mut training = Vec::new();
    for files in scenes {
        let path = &files[0].clone();
        let name = source::stem(path);
        let beside = source::container(path).parent().unwrap_or(Path::new(".")).join(super::STORE_FOLDER);
        let dir = settings.store_dir.clone().unwrap_or(beside);
        let mut request = settings.store_request(&name, dir, vec![files]);
        (request.mask, request.dtype) = (true, Some(dtype));
        let store = open_or_build(&request, opening)?;
        let scene = Scene {
            path,
            height: store.images[0].height,
            width: store.images[0].width,
            size,
            image: parts.images.len(),
            masked: store.masked_runs()?,
        };
        training.push(scene.split(settings, &mut parts, opening)?);
        parts.images.push(Image { hr: Stored { store, image: 0 }, lr: None });
    }
    if parts.val.is_empty() && settings.val_fraction > 0.0 {
        return Err(no_room(settings, &parts, size));
    }
    parts.default_len = parts.default_len.max(1);
    parts.training = Training::scenes(training);
    Ok(parts)
}

/// The error that no scene has a held-out area with room for a patch.
fn no_room(settings: &DataSettings, parts: &Parts, size: usize) -> Error {
    let height = parts.images.iter().map(|image| image.hr.store.images[0].height).max().unwrap_or(0);
    let rows = held_out_rows(height, settings.val_fraction);
    let error = |message| Error::config("Data.val_fraction", message);
    if rows >= size {
        let message =
            format!("no {size} × {size} patch of the held-out areas, up to {rows} rows, is free of masked pixels");
        return error(message).with_hint("raise it, choose a smaller Data.hr_size, or check Data.nodata");
    }
    let message = format!(
        "no held-out area has room for a {size} × {size} patch: of {height} rows {} holds out {rows}, and {size} are needed",
        settings.val_fraction
    );
    // In steps of a hundredth; what remains must have room for a training patch.
    let would_do = (1..100).map(|hundredths| f64::from(hundredths) / 100.0).find(|&fraction| {
        let rows = held_out_rows(height, fraction);
        rows >= size && height - rows >= size
    });
    error(message).with_hint(match would_do {
        Some(fraction) => format!("{fraction} would do; or choose a smaller Data.hr_size"),
        None => format!("choose a Data.hr_size of {} or less", (height / 2).max(1)),
    })
}

/// Rows of a scene that are kept for validation.
fn held_out_rows(height: usize, fraction: f64) -> usize {
    ((height as f64 * fraction).round() as usize).min(height)
}

/// One scene while it is being split.
struct Scene<'a> {
    path: &'a Path,
    height: usize,
    width: usize,
    size: usize,
    image: usize,
    masked: Vec<MaskedRun>,
}

impl Scene<'_> {
    /// Adds the scene's validation patches and held-out area to `parts`; returns its training places.
    fn split(&self, settings: &DataSettings, parts: &mut Parts, opening: &mut Opening) -> Result<Origins> {
        let (height, width, size) = (self.height, self.width, self.size);
        let held_out = held_out_rows(height, settings.val_fraction);
        let split = height - held_out;
        if width < size || split < size {
            let message = format!(
                "a patch of {size} × {size} does not fit: the scene has {height} rows and {width} columns, {split} rows of them for training"
            );
            return Err(Error::data(self.path, message).with_hint("choose a smaller Data.hr_size or Data.val_fraction"));
        }
        let training = Origins::new(0..split, width, size, &self.masked);
        if training.len() == 0 {
            let message = match self.masked_pixels() {
                n if n == height * width => "every pixel is masked: NaN, infinite or no-data".to_string(),
                n => {
                    format!("no {size} × {size} patch of the {split} training rows is free of masked pixels ({n} are)")
                }
            };
            return Err(Error::data(self.path, message).with_hint("check Data.nodata, or remove the scene"));
        }
        parts.default_len += training.grid(0..split, width, size).len();

        let validation = Origins::new(split..height, width, size, &self.masked);
        let item =
            |row, column, height, width| ValItem { image: self.image, crop: Crop { row, column, height, width } };
        let tiles: Vec<ValItem> =
            validation.grid(split..height, width, size).into_iter().map(|(y, x)| item(y, x, size, size)).collect();
        let floor = |n: usize| n - n % settings.scale;
        let area = item(split, 0, floor(height - split), floor(width));
        if self.masked.iter().any(|run| run.row as usize >= split) {
            parts.held_out.extend(&tiles);
        } else if area.crop.height >= size && area.crop.width >= size {
            parts.held_out.push(area);
        } else if held_out > 0 {
            opening.notes.push(format!(
                "{}: its {held_out} held-out rows have no room for a {size} × {size} patch, so no part of it is validated",
                self.path.display()
            ));
        }
        parts.val.extend(tiles);
        Ok(training)
    }

    fn masked_pixels(&self) -> usize {
        self.masked.iter().map(|run| (run.end - run.first) as usize).sum()
    }
}

/// The scenes with folders and patterns in place of the files that they stand for.
fn expand(scenes: &[ImageFiles]) -> Result<Vec<ImageFiles>> {
    let mut expanded = Vec::new();
    for files in scenes {
        let [path] = files.as_slice() else {
            expanded.push(files.clone());
            continue;
        };
        let found = match path.to_str() {
            _ if path.is_dir() && !source::is_product(path) => source::images_in(path)?,
            Some(pattern) if pattern.contains(['*', '?', '[']) && !path.exists() => matching(pattern)?,
            _ => vec![path.clone()],
        };
        if found.is_empty() {
            let known = source::EXTENSIONS.map(|e| format!(".{e}")).join(" ");
            let hint = format!("name the scenes' files ({known}), their folder, or a pattern as \"scenes/*.tif\"");
            return Err(Error::data(path, "no scene is found here").with_hint(hint));
        }
        expanded.extend(found.into_iter().map(|path| vec![path]));
    }
    Ok(expanded)
}

/// The files that match a pattern, by name.
fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let wrong = |e: glob::PatternError| Error::data(pattern, format!("not a pattern for file names: {}", e.msg));
    let mut files = Vec::new();
    for entry in glob::glob(pattern).map_err(wrong)? {
        let path = entry.map_err(|e| {
            let at = e.path().to_path_buf();
            Error::io("read", at, e.into())
        })?;
        if path.is_file() && source::is_supported(&path) || source::is_product(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// The type that holds the pixels of all scenes.
fn common_type(settings: &DataSettings, scenes: &[ImageFiles], opening: &mut Opening) -> Result<PixelType> {
    let values = settings.value_rules();
    let mut common = None;
    for files in scenes {
        let own = values.stored_type(source::open_all(files, settings.layout.unwrap_or(Layout::Hwc))?.info());
        if *common.get_or_insert(own) != own {
            opening.notes.push(format!(
                "the scenes have different pixel types ({} is {own}): all are kept as float32",
                files[0].display()
            ));
            return Ok(PixelType::F32);
        }
    }
    Ok(common.unwrap_or(PixelType::F32))
}
