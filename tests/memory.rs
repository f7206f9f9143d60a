//! Loading does not grow with the data: a scene stays on disk, memory-mapped. A process of its own, so that no
//! other test's memory counts.

#![cfg(target_os = "linux")]

use std::io::{BufWriter, Write};
use std::path::Path;

use srgan::data::{DataSettings, Dataset, DatasetKind, Loader, Share, StoreMode};
use srgan::ops::prepare::Normalization;

/// Anonymous resident memory of this process in KiB.
fn anonymous_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A square uint16 scene of two bands, written row by row.
fn write_scene(path: &Path, side: usize) {
    let header = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({side}, {side}, 2), }}");
    let padded = format!("{header:<117}\n");
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(b"\x93NUMPY\x01\x00").unwrap();
    file.write_all(&(padded.len() as u16).to_le_bytes()).unwrap();
    file.write_all(padded.as_bytes()).unwrap();
    for y in 0..side {
        let row: Vec<u8> = (0..2 * side).flat_map(|x| ((x * 7 + y * 13) as u16 % 9000).to_le_bytes()).collect();
        file.write_all(&row).unwrap();
    }
    file.flush().unwrap();
}

/// Growth of anonymous memory in KiB over two epochs of patches from a scene.
fn growth(side: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let scene = dir.path().join("scene.npy");
    write_scene(&scene, side);
    let settings = DataSettings {
        kind: DatasetKind::Scenes,
        split: Default::default(),
        root_dir: None,
        scenes: vec![vec![scene]],
        layout: None,
        bands: None,
        nodata: None,
        mask: true,
        apply_scale: false,
        value_scale: 1.0,
        value_offset: 0.0,
        normalization: Some(Normalization::Identity),
        check_range: true,
        in_bands: 2,
        scale: 4,
        hr_size: Some(64),
        patches_per_epoch: Some(1600),
        val_fraction: 0.25,
        augment: true,
        store_dir: Some(dir.path().join("store")),
        store: StoreMode::Mmap,
        seed: 1,
        train_batch: 8,
        val_batch: 8,
        num_workers: 2,
        prefetch_factor: 2,
    };
    let before = anonymous_kib();
    let dataset = Dataset::open(&settings).unwrap();
    let mut batches = 0;
    for epoch in 0..2 {
        let mut loader = Loader::start(&dataset, epoch, 0, Share::WHOLE).unwrap();
        while let Some(batch) = loader.next() {
            loader.recycle(batch.unwrap());
            batches += 1;
        }
    }
    assert_eq!(batches, 400);
    anonymous_kib().saturating_sub(before)
}

#[test]
fn anonymous_memory_does_not_grow_with_the_scene() {
    let small = growth(512);
    // 64 MiB of pixels.
    let large = growth(4096);
    assert!(large < small + 8 * 1024, "{large} KiB for a scene 64 times as large, {small} KiB for the small one");
    assert!(large < 24 * 1024, "{large} KiB");
}
