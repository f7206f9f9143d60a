//! Scenes: the split by area and the masks.

use super::*;
use crate::data::{Batch, Loader, Share};
use crate::rng::{Rng, Stream};

const HEIGHT: usize = 61;
const WIDTH: usize = 83;
const SIZE: usize = 8;
/// Rows from here on are held out: a quarter of 61 is 15.
const SPLIT: usize = 46;

/// A float scene of distinct values, `bad` pixels NaN, infinite or no-data in turn.
fn scene(dir: &Path, bad: &[(usize, usize)]) -> PathBuf {
    let mut values: Vec<f32> = (0..HEIGHT * WIDTH).map(|i| i as f32).collect();
    for (&(y, x), value) in bad.iter().zip([f32::NAN, f32::INFINITY, -1.0].into_iter().cycle()) {
        values[y * WIDTH + x] = value;
    }
    write_npy(&dir.join("scene.npy"), PixelType::F32, &[HEIGHT, WIDTH], &values)
}

fn random_bad(seed: u64, count: usize) -> Vec<(usize, usize)> {
    let mut rng = Rng::new(seed, Stream::Crop, 0, 0);
    (0..count).map(|_| (rng.below(HEIGHT as u32) as usize, rng.below(WIDTH as u32) as usize)).collect()
}

/// The rectangle of scene pixels that a slot shows, checked value by value.
fn shown(batch: &Batch, slot: usize) -> (usize, usize) {
    let sample = &batch.samples[slot];
    let size = batch.hr.image_bytes();
    let one = super::super::RawImages { data: batch.hr.data[slot * size..][..size].to_vec(), batch: 1, ..batch.hr };
    for (i, value) in one.to_f32().into_iter().enumerate() {
        let (y, x) = (sample.row + i / batch.hr.width, sample.column + i % batch.hr.width);
        assert_eq!(value, (y * WIDTH + x) as f32, "{sample}");
    }
    (sample.row, sample.column)
}

#[test]
fn patches_stay_in_their_area_and_off_masked_pixels() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        let bad = random_bad(seed, 1 + 4 * seed as usize);
        let path = scene(dir.path(), &bad);
        let settings = DataSettings {
            nodata: Some(-1.0),
            patches_per_epoch: Some(600),
            store_dir: Some(dir.path().join(format!("store{seed}"))),
            ..scene_settings(dir.path(), path)
        };
        let dataset = Dataset::open(&settings).unwrap();
        let mut bottom_rows = 0;
        for batch in Loader::start(&dataset, seed, 0, Share::WHOLE).unwrap() {
            let batch = batch.unwrap();
            for slot in 0..batch.n {
                // `shown` compares with the clean values, so a masked pixel in a patch fails there.
                let (row, _) = shown(&batch, slot);
                assert!(row + SIZE <= SPLIT, "row {row} reaches into the held-out area");
                bottom_rows += usize::from(row + SIZE == SPLIT);
            }
        }
        assert!(bottom_rows > 0, "the last training rows are never drawn");
        let mut seen = Vec::new();
        for batch in dataset.val_batches(0, 3, (0..64).collect()).unwrap() {
            let batch = batch.unwrap();
            seen.extend((0..batch.n).map(|slot| shown(&batch, slot)));
        }
        let clean = |&(row, column): &(usize, usize)| {
            !bad.iter().any(|&(y, x)| (row..row + SIZE).contains(&y) && (column..column + SIZE).contains(&x))
        };
        let grid = (0..WIDTH / SIZE).map(|i| (SPLIT, i * SIZE));
        assert_eq!(seen, grid.filter(clean).collect::<Vec<_>>());
        assert_eq!(dataset.val_sizes()[0].count, seen.len());
    }
}

#[test]
fn draws_reach_every_place_of_every_scene() {
    let dir = tempfile::tempdir().unwrap();
    let a = write_npy(&dir.path().join("a.npy"), PixelType::U8, &[17, 9], &[1.0; 153]);
    let b = write_npy(&dir.path().join("b.npy"), PixelType::U8, &[17, 8], &[2.0; 136]);
    let settings = DataSettings { patches_per_epoch: Some(400), val_fraction: 0.47, ..scene_settings(dir.path(), a) };
    let dataset =
        Dataset::open(&DataSettings { scenes: vec![settings.scenes[0].clone(), vec![b]], ..settings }).unwrap();
    // 9 training rows: two places down and, in the first scene only, two across.
    let mut places: Vec<_> = Loader::start(&dataset, 0, 0, Share::WHOLE)
        .unwrap()
        .flat_map(|batch| batch.unwrap().samples)
        .map(|s| (s.file.ends_with("b.npy"), s.row, s.column))
        .collect();
    places.sort_unstable();
    let count = places.len();
    places.dedup_by_key(|p| *p);
    assert_eq!(count, 400);
    let want = [(false, 0, 0), (false, 0, 1), (false, 1, 0), (false, 1, 1), (true, 0, 0), (true, 1, 0)];
    assert_eq!(places, want);
}

#[test]
fn an_epoch_is_as_many_patches_as_fit_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let settings = scene_settings(dir.path(), scene(dir.path(), &[]));
    let dataset = Dataset::open(&settings).unwrap();
    assert_eq!(dataset.train_len(), (SPLIT / SIZE) * (WIDTH / SIZE));
    assert_eq!(dataset.steps_per_epoch(4).unwrap(), 12);
    let message = dataset.steps_per_epoch(51).unwrap_err().to_string();
    assert!(message.contains("only 50 training samples"), "{message}");
}

#[test]
fn the_held_out_area_comes_whole_or_in_clean_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let settings = DataSettings { nodata: Some(-1.0), ..scene_settings(dir.path(), scene(dir.path(), &[(2, 2)])) };
    let areas: Vec<Batch> = Dataset::open(&settings).unwrap().held_out_areas().map(Result::unwrap).collect();
    assert_eq!((areas.len(), areas[0].hr.height, areas[0].hr.width), (1, 14, 82));
    assert_eq!(shown(&areas[0], 0), (SPLIT, 0));

    let path = scene(dir.path(), &[(SPLIT + 3, 17), (SPLIT + 14, 0)]);
    let settings = DataSettings { scenes: vec![vec![path]], store_dir: Some(dir.path().join("other")), ..settings };
    let areas: Vec<Batch> = Dataset::open(&settings).unwrap().held_out_areas().map(Result::unwrap).collect();
    let places: Vec<_> = areas.iter().map(|batch| shown(batch, 0)).collect();
    assert_eq!(places, [0, 1, 3, 4, 5, 6, 7, 8, 9].map(|i| (SPLIT, i * SIZE)));
}

#[test]
fn a_scene_whose_held_out_rows_have_no_room_for_a_patch_is_not_validated() {
    let dir = tempfile::tempdir().unwrap();
    let small = write_npy(&dir.path().join("small.npy"), PixelType::F32, &[20, 20], &ramp(0, 400));
    let mut settings = scene_settings(dir.path(), scene(dir.path(), &[]));
    settings.scenes.push(vec![small]);
    let dataset = Dataset::open(&settings).unwrap();
    assert_eq!(dataset.held_out_areas().count(), 1);
    assert!(
        dataset.notes().iter().any(|note| note.contains("small.npy: its 5 held-out rows")),
        "{:?}",
        dataset.notes()
    );
}

#[test]
fn scenes_of_different_types_share_float_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let a = write_npy(&dir.path().join("a.npy"), PixelType::U8, &[16, 16], &[1.0; 256]);
    let b = write_npy(&dir.path().join("b.npy"), PixelType::I16, &[16, 16], &[-2.0; 256]);
    let settings =
        DataSettings { scenes: vec![vec![a.clone()], vec![b]], val_fraction: 0.5, ..scene_settings(dir.path(), a) };
    let dataset = Dataset::open(&settings).unwrap();
    assert_eq!(dataset.train_spec().hr.0, PixelType::F32);
    assert!(dataset.notes()[0].contains("different pixel types"), "{:?}", dataset.notes());
    let areas: Vec<f32> = dataset.held_out_areas().map(|area| area.unwrap().hr.to_f32()[0]).collect();
    assert_eq!(areas, [1.0, -2.0]);
}

#[test]
fn the_sample_chip_opens() {
    let chip = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sentinel2_10m_b2_b3_b4_b8.npy");
    let dir = tempfile::tempdir().unwrap();
    let settings = DataSettings { in_bands: 4, scale: 4, hr_size: Some(64), ..scene_settings(dir.path(), chip) };
    let dataset = Dataset::open(&settings).unwrap();
    assert_eq!(dataset.val_sizes().iter().map(|s| s.count).sum::<usize>(), 4);
    let area = dataset.held_out_areas().next().unwrap().unwrap();
    assert_eq!((area.hr.height, area.hr.width, area.hr.bands), (72, 300, 4));
}

/// An array that needs no store otherwise: with a scale it must not be used as it is.
#[test]
fn a_plain_array_of_floats_is_scaled_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = scene(dir.path(), &[]);
    let settings = DataSettings {
        value_scale: 2.0,
        value_offset: 0.5,
        patches_per_epoch: Some(20),
        ..scene_settings(dir.path(), path)
    };
    let dataset = Dataset::open(&settings).unwrap();
    let mut looked_at = 0;
    for batch in Loader::start(&dataset, 1, 0, Share::WHOLE).unwrap() {
        let batch = batch.unwrap();
        for (i, value) in batch.hr.to_f32().into_iter().enumerate().take(batch.n * SIZE * SIZE) {
            let (sample, at) = (&batch.samples[i / (SIZE * SIZE)], i % (SIZE * SIZE));
            let pixel = (sample.row + at / SIZE) * WIDTH + sample.column + at % SIZE;
            assert_eq!(value, 2.0 * pixel as f32 + 0.5, "{sample}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 500, "{looked_at}");
}
