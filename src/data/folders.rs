//! Data sets of ready-made patches: a folder of HR files, or folders of LR and HR files paired by name.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::{Image, Opening, Parts, Stored, Training, ValItem};
use super::store::{Crop, Store, StoreRequest, open_or_build};
use super::{DataSettings, source};
use crate::error::{Error, Result};

/// The folder of an `ExampleDataset` that does not name one.
const DEFAULT_EXAMPLE: &str = "example_dataset";

/// `ExampleDataset`: the last 20 files, by name, are for validation; of 20 or fewer files the last fifth.
pub(super) fn open_example(settings: &DataSettings, opening: &mut Opening) -> Result<Parts> {
    let root = root_dir(settings)?;
    if root == Path::new(DEFAULT_EXAMPLE) && !root.exists() {
        return Err(Error::data(root, "there is no such folder").with_hint(
            "it is the default where Data.dataset_type and Data.root_dir are left out: set Data.dataset_type to Scenes, \
             LRHRFolderDataset or ExampleDataset, and where the data are",
        ));
    }
    let all: Vec<PathBuf> = list(root, opening)?
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")))
        .collect();
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("hr_"));
    let mut files: Vec<PathBuf> = all.iter().filter(|p| named(p)).cloned().collect();
    if files.is_empty() {
        files = all;
    }
    if files.len() < 2 {
        let message = format!("{} .npz files; at least two are needed, one of them for validation", files.len());
        return Err(Error::data(root, message).with_hint("put hr_*.npz files there or change Data.root_dir"));
    }
    let validation = if files.len() > 20 { 20 } else { (files.len() / 5).max(1) };
    let first_val = files.len() - validation;
    let hr = open_or_build(&request(settings, root, "hr", files), opening)?;
    let images = (0..hr.images.len()).map(|i| Image { hr: stored(&hr, i), lr: None }).collect();
    parts(settings, images, first_val)
}

/// `LRHRFolderDataset`: `train` and `val`, or `test` instead, with `LR` and `HR`, each LR file having an HR file of its name.
pub(super) fn open_paired(settings: &DataSettings, opening: &mut Opening) -> Result<Parts> {
    let root = root_dir(settings)?;
    let (mut lr, mut hr) = pairs(&root.join("train"), opening)?;
    let first_val = lr.len();
    let (val_lr, val_hr) = pairs(&root.join(settings.split.name()), opening)?;
    lr.extend(val_lr);
    hr.extend(val_hr);
    let hr = open_or_build(&request(settings, root, "hr", hr), opening)?;
    let lr = open_or_build(&request(settings, root, "lr", lr), opening)?;
    for (low, high) in lr.images.iter().zip(&hr.images) {
        let scale = settings.scale;
        if (low.height * scale, low.width * scale) != (high.height, high.width) {
            let message = format!(
                "{} × {} pixels, but its HR file has {} × {}; with Generator.scaling_factor {scale} that must be {} × {}",
                low.height,
                low.width,
                high.height,
                high.width,
                low.height * scale,
                low.width * scale
            );
            return Err(Error::data(&low.file, message));
        }
    }
    let images = (0..hr.images.len()).map(|i| Image { hr: stored(&hr, i), lr: Some(stored(&lr, i)) }).collect();
    parts(settings, images, first_val)
}

fn root_dir(settings: &DataSettings) -> Result<&Path> {
    let root = settings.root_dir.as_deref();
    root.ok_or_else(|| Error::config("Data.root_dir", "this data set needs the folder of its files"))
}

fn request(settings: &DataSettings, root: &Path, name: &str, files: Vec<PathBuf>) -> StoreRequest {
    let dir = settings.store_dir.clone().unwrap_or_else(|| root.join(super::STORE_FOLDER));
    settings.store_request(name, dir, files.into_iter().map(|file| vec![file]).collect())
}

fn stored(store: &Arc<Store>, image: usize) -> Stored {
    Stored { store: Arc::clone(store), image }
}

/// The readable image files of a folder, sorted by name. Hidden files are passed over; a note tells of others.
fn list(dir: &Path, opening: &mut Opening) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("list the folder", dir, e);
    if !dir.is_dir() {
        return Err(Error::data(dir, "there is no such folder").with_hint("check Data.root_dir"));
    }
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || path.is_dir() {
            continue;
        }
        if !path.exists() {
            let hint = "mend or remove the link";
            return Err(Error::data(&path, "a link to a file that is not there").with_hint(hint));
        }
        if !source::is_supported(&path) {
            let ending = path.extension().map_or("no ending".into(), |e| format!(".{}", e.to_string_lossy()));
            *others.entry(ending).or_default() += 1;
        }
    }
    let known = source::EXTENSIONS.map(|e| format!(".{e}")).join(" ");
    let files = source::images_in(dir)?;
    if files.is_empty() {
        return Err(Error::data(dir, format!("no image files in this folder (known are {known})")));
    }
    if !others.is_empty() {
        let kinds: Vec<String> = others.iter().map(|(ending, count)| format!("{count} × {ending}")).collect();
        opening.notes.push(format!("{}: left out are files of other kinds: {}", dir.display(), kinds.join(", ")));
    }
    Ok(files)
}

/// LR files of a phase and their HR files. Names are compared exactly, or else without regard to case.
fn pairs(phase: &Path, opening: &mut Opening) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let lr = list(&phase.join("LR"), opening)?;
    let hr_dir = phase.join("HR");
    let name = |path: &Path| path.file_name().unwrap_or_default().to_os_string();
    let folded = |name: &OsStr| name.to_string_lossy().to_lowercase();
    let mut unused: BTreeMap<OsString, PathBuf> =
        list(&hr_dir, opening)?.into_iter().map(|path| (name(&path), path)).collect();
    let spelled: HashMap<String, OsString> = unused.keys().map(|name| (folded(name), name.clone())).collect();
    let mut hr = Vec::with_capacity(lr.len());
    for low in &lr {
        let wanted = name(low);
        let found = unused.remove(&wanted).or_else(|| unused.remove(spelled.get(&folded(&wanted))?));
        let missing = || {
            Error::data(hr_dir.join(&wanted), "this HR file is missing")
                .with_hint("each file in LR needs one of the same name in HR")
        };
        hr.push(found.ok_or_else(missing)?);
    }
    if let Some(first) = unused.keys().next() {
        let (count, all) = (unused.len(), unused.len() + hr.len());
        opening.notes.push(format!(
            "{}: {count} of {all} HR files are left out, since they have no LR file of their name ({}, …)",
            hr_dir.display(),
            first.to_string_lossy()
        ));
    }
    Ok((lr, hr))
}

/// Splits the images at `first_val`; checks that training samples have one size.
fn parts(settings: &DataSettings, images: Vec<Image>, first_val: usize) -> Result<Parts> {
    let whole = |image: &Image| {
        let of = &image.hr.store.images[image.hr.image];
        let floor = |n: usize| n - n % settings.scale;
        Crop { row: 0, column: 0, height: floor(of.height), width: floor(of.width) }
    };
    let first = whole(&images[0]);
    let train_size = settings.hr_size.map_or((first.height, first.width), |size| (size, size));
    for (i, image) in images.iter().enumerate() {
        let crop = whole(image);
        let file = image.hr.file();
        if crop.height == 0 || crop.width == 0 {
            return Err(Error::data(file, format!("smaller than one LR pixel at scale {}", settings.scale)));
        }
        if i >= first_val {
            continue;
        }
        match settings.hr_size {
            Some(size) if crop.height < size || crop.width < size => {
                let message =
                    format!("{} × {} pixels, smaller than a patch of {size} × {size}", crop.height, crop.width);
                return Err(Error::data(file, message).with_hint("choose a smaller Data.hr_size or remove the file"));
            }
            None if (crop.height, crop.width) != train_size => {
                let message = format!(
                    "{} × {} pixels, but {} has {} × {}; training files must have one size",
                    crop.height,
                    crop.width,
                    images[0].hr.file(),
                    first.height,
                    first.width
                );
                return Err(Error::data(file, message).with_hint("set Data.hr_size to cut patches of one size"));
            }
            _ => {}
        }
    }
    let val: Vec<ValItem> = (first_val..images.len()).map(|i| ValItem { image: i, crop: whole(&images[i]) }).collect();
    Ok(Parts {
        images,
        training: Training::Files { count: first_val },
        train_size,
        default_len: first_val,
        held_out: val.clone(),
        val,
    })
}
