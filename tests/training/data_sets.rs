//! The data sets of opensr-srgan train from end to end.

use std::io::Write;

use srgan::data::PixelType;

use crate::common::{Scratch, meta, npy, scene_value};

/// Writes `count` files of 16 × 16 pixels as `hr_<i>.npz`.
fn write_npz(scratch: &Scratch, folder: &str, count: usize) {
    for i in 0..count {
        let path = scratch.write(&format!("{folder}/hr_{i:03}.npz"), b"");
        let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
        let zip = npz.zip_writer();
        zip.start_file("hr.npy", Default::default()).unwrap();
        zip.write_all(&npy(PixelType::U16, &[16, 16, 3], |p| scene_value(p + 96 * i))).unwrap();
        zip.finish().unwrap();
    }
}

/// Writes `train` and `val` with pairs of 16 × 16 and 8 × 8 pixels; HR pixels are those of LR, twice as large.
pub fn write_pairs(scratch: &Scratch, root: &str) {
    for (phase, count) in [("train", 6), ("val", 2)] {
        for i in 0..count {
            let low = |p: usize| scene_value(p + 96 * i) / 1e4;
            let high = |p: usize| low(((p / 48 / 2) * 8 + p / 3 % 16 / 2) * 3 + p % 3);
            let hr = npy(PixelType::F32, &[16, 16, 3], high);
            scratch.write(&format!("{root}/{phase}/HR/image_{i}.npy"), &hr);
            scratch.write(&format!("{root}/{phase}/LR/image_{i}.npy"), &npy(PixelType::F32, &[8, 8, 3], low));
        }
    }
}

/// Trains 8 steps, some of them adversarial, and checks that they were all done and measured.
#[track_caller]
fn check(scratch: &Scratch, args: &[&str]) {
    let args = [args, &["Data.hr_size=null", "Training.max_steps=8", "--run-dir", "run"]].concat();
    scratch.train(&args).exits(0).says(&["held-out imagery", "bicubic", "files of the run"]);
    let state = meta(&scratch.last("run"));
    assert_eq!((state.step, state.counters.adam_g, state.counters.adam_d), (8, 8, 2));
    assert!(scratch.numbers("run", "val_metrics/psnr").iter().all(|v| v.is_finite()));
}

#[test]
fn example_dataset() {
    let scratch = Scratch::new();
    write_npz(&scratch, "example", 10);
    check(&scratch, &["Data.dataset_type=ExampleDataset", "Data.root_dir=example"]);
}

#[test]
fn lrhr_folder_dataset() {
    let scratch = Scratch::new();
    write_pairs(&scratch, "pairs");
    check(&scratch, &["Data.dataset_type=LRHRFolderDataset", "Data.root_dir=pairs", "Data.normalization=zero_one"]);
}
