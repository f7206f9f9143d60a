//! Batches: the same whatever the threads, complete, paired, resumable.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::*;
use crate::data::pixels::values_as_f32;
use crate::data::{Batch, Loader, Share};

fn all(loader: Loader) -> Vec<Batch> {
    loader.map(Result::unwrap).collect()
}

/// Batches of an epoch with their memory handed back, as training does it.
fn recycled(dataset: &Dataset, epoch: u64, first: usize) -> Vec<Batch> {
    let mut loader = Loader::start(dataset, epoch, first, Share::WHOLE).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = loader.next() {
        let batch = batch.unwrap();
        batches.push(batch.clone());
        loader.recycle(batch);
    }
    batches
}

#[test]
fn batches_do_not_depend_on_threads_slots_or_the_kind_of_store() {
    let (_dir, base) = pairs(19, [12, 16]);
    let base = DataSettings { hr_size: Some(8), ..base };
    let want = recycled(&Dataset::open(&base).unwrap(), 3, 0);
    assert_eq!(want.len(), 4);
    for num_workers in [0, 1, 3] {
        for (prefetch_factor, store) in [(1, StoreMode::Mmap), (4, StoreMode::Read)] {
            let dataset = Dataset::open(&DataSettings { num_workers, prefetch_factor, store, ..base.clone() }).unwrap();
            assert_eq!(recycled(&dataset, 3, 0), want, "{num_workers} workers");
            assert_eq!(
                all(Loader::start(&dataset, 3, 0, Share::WHOLE).unwrap()),
                want,
                "{num_workers} workers, nothing recycled"
            );
        }
    }
}

#[test]
fn a_resumed_epoch_goes_on_with_the_same_batches() {
    let (_dir, settings) = pairs(19, [12, 16]);
    let dataset = Dataset::open(&DataSettings { hr_size: Some(8), num_workers: 2, ..settings }).unwrap();
    let whole = recycled(&dataset, 1, 0);
    for first in 0..=4 {
        assert_eq!(recycled(&dataset, 1, first), whole[first..]);
    }
    assert_ne!(recycled(&dataset, 2, 0), whole);
}

#[test]
fn lr_and_hr_show_the_same_ground() {
    let (_dir, settings) = pairs(6, [12, 16]);
    for hr_size in [None, Some(4), Some(8)] {
        let dataset = Dataset::open(&DataSettings { hr_size, ..settings.clone() }).unwrap();
        let spec = dataset.train_spec();
        assert_eq!(spec.lr, Some((PixelType::U16, spec.hr.1 / 2, spec.hr.2 / 2)));
        let mut loader = Loader::start(&dataset, 0, 0, Share::WHOLE).unwrap();
        let batch = loader.next().unwrap().unwrap();
        let lr = batch.lr.unwrap();
        for slot in 0..batch.hr.batch {
            let values = |raw: &[u8]| values_as_f32(raw, PixelType::U16).collect::<Vec<_>>();
            let (high, low) = (values(batch.hr.image(slot)), values(lr.image(slot)));
            for (p, &v) in low.iter().enumerate() {
                assert_eq!(v, high[p / lr.width * 2 * batch.hr.width + p % lr.width * 2], "{}", batch.samples[slot]);
            }
        }
    }
}

#[test]
fn every_file_comes_equally_often_whatever_the_length_of_an_epoch() {
    let (_dir, settings) = pairs(10, [4, 4]);
    for (len, epochs) in [(10, 1), (4, 5), (25, 2), (30, 1)] {
        let settings = DataSettings { patches_per_epoch: Some(len), train_batch: 1, ..settings.clone() };
        let dataset = Dataset::open(&settings).unwrap();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for epoch in 0..epochs {
            for batch in recycled(&dataset, epoch, 0) {
                *counts.entry(batch.samples[0].file.clone()).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|&n| n == len * epochs as usize / 10), "{len}: {counts:?}");
    }
}

#[test]
fn geometry_codes_are_drawn_in_training_only() {
    let (_dir, settings) = pairs(8, [12, 16]);
    let settings = DataSettings { patches_per_epoch: Some(400), ..settings };
    let codes = |settings: &DataSettings| {
        let batches = recycled(&Dataset::open(settings).unwrap(), 0, 0);
        let mut codes: Vec<u8> = batches.into_iter().flat_map(|b| b.augment).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    };
    let square = DataSettings { hr_size: Some(8), ..settings.clone() };
    assert_eq!(codes(&square), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(codes(&settings), [0, 1, 2, 3], "a 12 x 16 patch cannot be transposed");
    assert_eq!(codes(&DataSettings { augment: false, ..square.clone() }), [0]);
    let dataset = Dataset::open(&square).unwrap();
    assert!(all(dataset.val_batches(0, 2, (0..64).collect()).unwrap()).iter().all(|b| b.augment == [0, 0]));
}

#[test]
fn validation_goes_by_size_in_a_fixed_order_and_pads_the_last_batch() {
    let (dir, settings) = pairs(4, [12, 16]);
    // Five pixels wide: cut to four, a multiple of the scale.
    write_pairs(dir.path(), "val", 2, [6, 4]);
    let dataset = Dataset::open(&settings).unwrap();
    let sizes = dataset.val_sizes();
    let shapes: Vec<_> = sizes.iter().map(|s| (s.hr_height, s.hr_width, s.lr, s.count)).collect();
    assert_eq!(shapes, [(6, 4, Some((3, 2)), 2), (12, 16, Some((6, 8)), 1)]);
    let batches = all(dataset.val_batches(1, 3, (0..64).collect()).unwrap());
    assert_eq!((batches.len(), batches[0].n, batches[0].indices.as_slice()), (1, 1, &[2, 2, 2][..]));
    assert_eq!(batches[0].hr.image(0), batches[0].hr.image(2));
    let batches = all(dataset.val_batches(0, 1, (0..64).collect()).unwrap());
    assert_eq!(batches.iter().map(|b| b.indices[0]).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(dataset.held_out_areas().count(), 3);
}

#[test]
fn an_example_folder_keeps_its_last_files_for_validation() {
    for (count, validation) in [(2, 1), (10, 2), (20, 4), (21, 20), (25, 20)] {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..count {
            let path = dir.path().join(format!("hr_{i:03}.npz"));
            write_npz(&path, "x", PixelType::U8, &[5, 7], &[i as f32; 35]);
        }
        fs::write(dir.path().join("notes.txt"), "not an image").unwrap();
        let dataset = Dataset::open(&settings(DatasetKind::Example, dir.path())).unwrap();
        assert_eq!(dataset.train_len(), count - validation);
        let told = dataset.notes().iter().any(|note| note.contains("Data.normalization identity has no effect"));
        assert!(told, "{:?}", dataset.notes());
        let spec = dataset.train_spec();
        assert_eq!((spec.hr, spec.lr), ((PixelType::F32, 4, 6), None), "down to a multiple of the scale");
        let values: Vec<f32> =
            all(dataset.val_batches(0, 1, (0..64).collect()).unwrap()).iter().map(|b| b.hr.to_f32()[0]).collect();
        // As opensr-srgan does: values of a file with a maximum above 1.5 are reflectance × 10000.
        let want = |i: usize| if i > 1 { i as f32 / 10_000.0 } else { i as f32 };
        assert_eq!(values, (count - validation..count).map(want).collect::<Vec<_>>());
    }
}

#[test]
fn files_of_different_types_are_kept_as_float() {
    let (dir, settings) = pairs(4, [4, 4]);
    write_npy(&dir.path().join("train/HR/image_002.npy"), PixelType::I16, &[4, 4], &[-5.0; 16]);
    let dataset = Dataset::open(&settings).unwrap();
    assert!(
        dataset.notes().iter().any(|note| note.contains("int16 values beside uint16 ones")),
        "{:?}",
        dataset.notes()
    );
    let spec = dataset.train_spec();
    assert_eq!((spec.hr.0, spec.lr.unwrap().0), (PixelType::F32, PixelType::U16));
    let batch = &recycled(&dataset, 0, 0)[0];
    for (slot, sample) in batch.samples.iter().enumerate() {
        let values: Vec<f32> = values_as_f32(batch.hr.image(slot), PixelType::F32).collect();
        let number: usize = sample.file[sample.file.len() - 7..sample.file.len() - 4].parse().unwrap();
        assert_eq!(values, if number == 2 { vec![-5.0; 16] } else { ramp(number, 16) });
    }
}

#[test]
fn a_reading_error_arrives_in_order_and_ends_the_epoch() {
    for num_workers in [0, 3] {
        let (dir, settings) = pairs(16, [8, 8]);
        let settings = DataSettings { num_workers, store: StoreMode::Read, ..settings };
        let dataset = Dataset::open(&settings).unwrap();
        // Somebody cuts the store off while it is in use.
        for entry in fs::read_dir(dir.path().join("store")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().unwrap() == "npy" {
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(200).unwrap();
            }
        }
        let mut loader = Loader::start(&dataset, 0, 0, Share::WHOLE).unwrap();
        let results: Vec<bool> = loader.by_ref().map(|b| b.is_ok()).collect();
        assert_eq!(results.iter().filter(|ok| !**ok).count(), 1, "{num_workers} workers: {results:?}");
        assert!(!results[results.len() - 1] && loader.next().is_none());
    }
}

#[test]
fn dropping_a_loader_in_the_middle_ends_its_threads() {
    let (_dir, settings) = pairs(8, [8, 8]);
    let settings = DataSettings { num_workers: 3, patches_per_epoch: Some(4_000_000), ..settings };
    let dataset = Dataset::open(&settings).unwrap();
    let mut loader = Loader::start(&dataset, 0, 0, Share::WHOLE).unwrap();
    loader.next().unwrap().unwrap();
    assert_eq!(loader.remaining(), 999_999);
    let start = Instant::now();
    drop(loader);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn waiting_is_measured() {
    let (_dir, settings) = pairs(8, [8, 8]);
    let mut loader = Loader::start(&Dataset::open(&settings).unwrap(), 0, 0, Share::WHOLE).unwrap();
    assert_eq!(loader.waited(), Duration::ZERO);
    loader.next().unwrap().unwrap();
    assert!(loader.waited() > Duration::ZERO);
}
