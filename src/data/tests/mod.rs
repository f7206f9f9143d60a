//! Tests of the data module as a whole, on files written for the purpose.

mod bad_input;
mod batches;
mod jpeg2000;
mod scenes;
mod sources;
mod tiffs;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::dataset::Opening;
use super::pixels::values_as_f32;
use super::source::npy_header::NpyHeader;
use super::store::{self, Crop, Store, StoreRequest, ValueRules};
use super::{DataSettings, Dataset, DatasetKind, Layout, PixelType, StoreMode};
use crate::Result;
use crate::ops::prepare::Normalization;

/// Opens or builds the store of `request`; nothing interrupts it.
fn open_or_build(request: &StoreRequest, notes: &mut Vec<String>) -> Result<Arc<Store>> {
    let mut opening = Opening { notes: std::mem::take(notes), proceed: &|| Ok(()) };
    let store = store::open_or_build(request, &mut opening);
    *notes = opening.notes;
    store
}

/// Settings for one-band uint16 data at scale 2.
fn settings(kind: DatasetKind, root: &Path) -> DataSettings {
    DataSettings {
        kind,
        split: Default::default(),
        root_dir: Some(root.into()),
        scenes: Vec::new(),
        layout: None,
        bands: None,
        nodata: None,
        mask: true,
        apply_scale: false,
        value_scale: 1.0,
        value_offset: 0.0,
        normalization: Some(Normalization::Identity),
        check_range: true,
        in_bands: 1,
        scale: 2,
        hr_size: None,
        patches_per_epoch: None,
        val_fraction: 0.25,
        augment: true,
        store_dir: Some(root.join("store")),
        store: StoreMode::Mmap,
        seed: 7,
        train_batch: 4,
        val_batch: 2,
        num_workers: 0,
        prefetch_factor: 2,
    }
}

/// Settings for one scene cut into patches of 8.
fn scene_settings(root: &Path, scene: PathBuf) -> DataSettings {
    DataSettings { scenes: vec![vec![scene]], hr_size: Some(8), ..settings(DatasetKind::Scenes, root) }
}

fn npy_bytes(dtype: PixelType, shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut bytes = NpyHeader::to_bytes(dtype, shape);
    for &v in values {
        match dtype {
            PixelType::U8 => bytes.push(v as u8),
            PixelType::U16 => bytes.extend((v as u16).to_le_bytes()),
            PixelType::I16 => bytes.extend((v as i16).to_le_bytes()),
            PixelType::F32 => bytes.extend(v.to_le_bytes()),
        }
    }
    bytes
}

fn write_npy(path: &Path, dtype: PixelType, shape: &[usize], values: &[f32]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, npy_bytes(dtype, shape, values)).unwrap();
    path.into()
}

/// An `.npz` file with one deflated array called `key`.
fn write_npz(path: &Path, key: &str, dtype: PixelType, shape: &[usize], values: &[f32]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut npz = npyz::npz::NpzWriter::create(path).unwrap();
    let zip = npz.zip_writer();
    zip.start_file(format!("{key}.npy"), Default::default()).unwrap();
    zip.write_all(&npy_bytes(dtype, shape, values)).unwrap();
    zip.finish().unwrap();
}

/// Values that tell position and image apart.
fn ramp(image: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 3 + image * 1009) % 65_521) as f32).collect()
}

/// A paired data set of `train` and `val` files; HR of `height` × `width`, LR half of it. LR pixel (y, x) has
/// the value of HR pixel (2y, 2x).
fn write_pairs(root: &Path, phase: &str, count: usize, [height, width]: [usize; 2]) {
    for i in 0..count {
        let hr = ramp(i, height * width);
        let (h, w) = (height / 2, width / 2);
        let lr: Vec<f32> = (0..h * w).map(|p| hr[p / w * 2 * width + p % w * 2]).collect();
        let name = format!("image_{i:03}.npy");
        write_npy(&root.join(phase).join("HR").join(&name), PixelType::U16, &[height, width], &hr);
        write_npy(&root.join(phase).join("LR").join(&name), PixelType::U16, &[h, w], &lr);
    }
}

fn pairs(count: usize, size: [usize; 2]) -> (TempDir, DataSettings) {
    let dir = tempfile::tempdir().unwrap();
    write_pairs(dir.path(), "train", count, size);
    write_pairs(dir.path(), "val", 3, size);
    let settings = settings(DatasetKind::LrHrFolder, dir.path());
    (dir, settings)
}

/// The message of the error that `settings` must give.
fn refused(settings: &DataSettings) -> String {
    Dataset::open(settings).expect_err("this data must be refused").to_string()
}

/// What asks for a store of one image.
fn request(path: &Path, dir: &Path, bands: &[usize]) -> StoreRequest {
    StoreRequest {
        name: "test".into(),
        files: vec![vec![path.into()]],
        dir: dir.into(),
        bands: Some(bands.to_vec()),
        in_bands: bands.len(),
        layout: Layout::Hwc,
        values: ValueRules { nodata: None, mask: true, apply_scale: false, scale: 1.0, offset: 0.0, example: false },
        mask: true,
        dtype: None,
        mode: StoreMode::Mmap,
    }
}

/// All values of a single-image store.
fn stored_values(request: &StoreRequest) -> (PixelType, Vec<f32>) {
    let store = open_or_build(request, &mut Vec::new()).unwrap();
    let (height, width) = (store.images[0].height, store.images[0].width);
    let mut bytes = vec![0; height * width * store.bands * store.dtype.bytes()];
    store.copy_crop(0, Crop { row: 0, column: 0, height, width }, &mut bytes).unwrap();
    (store.dtype, values_as_f32(&bytes, store.dtype).collect())
}
