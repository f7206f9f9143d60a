//! Evaluations of untrained networks: the numbers, the files, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use srgan::Result;
use srgan::data::Split;
use srgan::evaluate::{EvaluateOptions, Evaluation, evaluate};
use srgan::log::Messages;
use srgan::train::DeviceOptions;

use crate::common::{SMALL, Scratch, Shared, ground};

const DATA: &str = "normalization: identity, rgb_bands: [2, 1, 0]";

/// A configuration for the scene `s.npy` of 96 × 100 × 3, of which the lower half is held out: two rows of four patches.
fn config(scratch: &Scratch, data: &str) -> PathBuf {
    scratch.floats("s.npy", &[96, 100, 3], ground);
    let (scene, store) = (scratch.path("s.npy"), scratch.path("stores"));
    let path = scratch.path("cfg.yaml");
    let yaml = format!(
        "Data: {{dataset_type: Scenes, scenes: [{}], store_dir: {}, hr_size: 24, val_fraction: 0.5, val_batch_size: 4, {data}}}\n\
         Model: {{in_bands: 3}}\nTraining: {{device: cpu, Losses: {{ssim_win: 7}}}}\nGenerator: {SMALL}\n\
         Discriminator: {{model_type: patchgan, n_blocks: 1}}\n",
        scene.display(),
        store.display()
    );
    fs::write(&path, yaml).unwrap();
    path
}

fn options(checkpoints: &[&Path], config: &Path) -> EvaluateOptions {
    EvaluateOptions {
        checkpoints: checkpoints.iter().map(|path| path.to_path_buf()).collect(),
        config: config.into(),
        overrides: vec!["Training.num_threads=1".into()],
        split: Split::Val,
        opensr_test: false,
        report: None,
        live: false,
        torch_hub: None,
    }
}

/// Evaluates, and returns what was said.
fn run(options: &EvaluateOptions) -> Result<(Evaluation, String)> {
    let said = Shared::default();
    let device = DeviceOptions { messages: Some(Messages::plain(said.clone())), ..DeviceOptions::default() };
    Ok((evaluate(options, &device)?, said.text()))
}

#[track_caller]
fn refused(options: &EvaluateOptions) -> String {
    let error = run(options).expect_err("it was evaluated");
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

fn number(json: &Value, path: &str) -> f64 {
    json.pointer(path).unwrap_or_else(|| panic!("{path} of {json:#}")).as_f64().unwrap()
}

#[test]
fn bicubic_and_checkpoints_are_measured_on_the_same_patches() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let first = scratch.checkpoint("first.safetensors", SMALL, 3, DATA);
    let second = scratch.checkpoint("second.safetensors", &SMALL.replace("n_channels: 4", "n_channels: 6"), 3, DATA);
    let (evaluation, said) = run(&options(&[&first, &second], &cfg)).unwrap();
    assert!(said.contains("first.safetensors: averaged weights of step 7"), "{said}");
    let names: Vec<&str> = evaluation.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["bicubic", "first", "second"]);
    assert_eq!(evaluation.places.len(), 8, "two rows of four patches");
    assert!(evaluation.methods.iter().all(|method| method.values.len() == 8));
    let json = evaluation.to_json();
    assert_eq!(number(&json, "/methods/0/overall/psnr/patches"), 8.0);
    // What differs is the difference of the means, and an interval lies around its mean.
    for measure in ["psnr", "ssim", "sam", "ergas"] {
        let [bicubic, sr] = [0, 1].map(|m| number(&json, &format!("/methods/{m}/overall/{measure}/mean")));
        let difference = number(&json, &format!("/methods/1/difference_from/bicubic/{measure}/mean"));
        assert!((sr - bicubic - difference).abs() < 1e-9 && bicubic.is_finite() && sr != bicubic, "{measure}");
        let [low, high] = [0, 1].map(|end| number(&json, &format!("/methods/0/overall/{measure}/ci95/{end}")));
        assert!(low < bicubic && bicubic < high && (high + low - 2.0 * bicubic).abs() < 1e-9, "{measure}");
    }
    // An untrained network is no match for bicubic.
    assert!(number(&json, "/methods/1/difference_from/bicubic/psnr/ci95/1") < 0.0);
    assert_eq!(json.pointer("/methods/2/bands").unwrap().as_array().unwrap().len(), 3);
    let text = evaluation.to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains(".safetensors")), "{text}");
    for part in ["PSNR [dB] ↑", "SAM [°] ↓", "over bicubic", "over first", "± 95 %", "band"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn mean_squared_errors_of_bands_make_those_of_the_image() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, DATA);
    let (evaluation, _) = run(&options(&[&checkpoint], &cfg)).unwrap();
    for values in evaluation.methods.iter().flat_map(|method| &method.values) {
        let error = |psnr: f64| 10f64.powf(-psnr / 10.0);
        let of_bands: f64 = values.bands.iter().map(|band| error(band[0])).sum::<f64>() / 3.0;
        assert!((of_bands / error(values.overall[0]) - 1.0).abs() < 1e-4, "{values:?}");
        let similarity: f64 = values.bands.iter().map(|band| band[1]).sum::<f64>() / 3.0;
        assert!((similarity - values.overall[1]).abs() < 1e-5);
        let ergas = (values.bands.iter().map(|band| band[2] * band[2]).sum::<f64>() / 3.0).sqrt();
        assert!((ergas - values.overall[3]).abs() < 1e-9 * ergas);
    }
}

#[test]
fn a_report_has_the_same_bytes_on_any_number_of_threads() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, DATA);
    let report = |name: &str, threads: usize, batch: usize| {
        let folder = scratch.path(name);
        let overrides = vec![format!("Training.num_threads={threads}"), format!("Data.val_batch_size={batch}")];
        run(&EvaluateOptions { overrides, report: Some(folder.clone()), ..options(&[&checkpoint], &cfg) }).unwrap();
        folder
    };
    let (one, three) = (report("one", 1, 4), report("three", 3, 3));
    let names =
        ["evaluation.txt", "evaluation.json", "patches.csv", "best-1.png", "best-3.png", "worst-1.png", "worst-3.png"];
    for name in names {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(three.join(name)).unwrap(), "{name}");
    }
    let csv = fs::read_to_string(one.join("patches.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 8);
    let columns = csv.lines().next().unwrap();
    assert_eq!(columns.matches("_band_").count(), 9);
    assert!(csv.lines().all(|row| row.matches(',').count() == columns.matches(',').count()), "{csv}");
    let page = fs::read_to_string(one.join("report.html")).unwrap();
    assert!(page.matches("data:image/png").count() == 6 && page.contains("dB over bicubic"));
}

#[test]
fn columns_of_opensr_test_are_added() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, DATA);
    let with = EvaluateOptions { opensr_test: true, ..options(&[&checkpoint], &cfg) };
    let text = refused(&with);
    assert!(text.contains("needs images of 36 a side; the smallest has 24"), "{text}");
    let overrides = vec!["Data.hr_size=44".into()];
    let (evaluation, _) = run(&EvaluateOptions { overrides, ..with }).unwrap();
    let json = evaluation.to_json();
    for column in ["reflectance", "spectral", "synthesis", "hallucination", "omission", "improvement"] {
        for method in 0..2 {
            let mean = number(&json, &format!("/methods/{method}/overall/{column}/mean"));
            assert!(mean.is_finite() && mean >= 0.0, "{column}: {mean}");
        }
    }
    let shares =
        ["hallucination", "omission", "improvement"].map(|c| number(&json, &format!("/methods/1/overall/{c}/mean")));
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    let (bicubic, sr) = ("/methods/0/overall/reflectance/mean", "/methods/1/overall/reflectance/mean");
    assert!(number(&json, bicubic) < number(&json, sr), "bicubic keeps reflectances better than an untrained network");
}

#[test]
fn checkpoints_that_do_not_fit_are_refused_with_what_they_expect() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let four = scratch.checkpoint("four.safetensors", SMALL, 4, DATA);
    let scale = scratch.checkpoint("scale.safetensors", &SMALL.replace("factor: 2", "factor: 4"), 3, DATA);
    let method = scratch.checkpoint("method.safetensors", SMALL, 3, "normalization: normalise_10k");
    let order = scratch.checkpoint("order.safetensors", SMALL, 3, "normalization: identity, bands: [2, 1, 0]");
    for (checkpoint, want) in [
        (&four, "expects bands: 4; the configuration says 3"),
        (&scale, "expects a scale of 4; the configuration says 2"),
        (&method, "expects the normalisation normalise_10k; the configuration says identity"),
        (&order, "expects the bands in the order [2, 1, 0]; the configuration says [0, 1, 2]"),
    ] {
        let text = refused(&options(&[checkpoint], &cfg));
        assert!(text.contains(want) && text.contains("hint: set "), "{text}");
    }
    let other = scratch.checkpoint("other.safetensors", SMALL, 3, "normalization: identity, bands: [3, 2, 1]");
    let (_, said) = run(&options(&[&other], &cfg)).unwrap();
    assert!(said.contains("it was trained on the bands [3, 2, 1]"), "{said}");
    refused(&options(&[&scratch.path("none.safetensors")], &cfg));
    let test = EvaluateOptions { split: Split::Test, ..options(&[&other], &cfg) };
    assert!(refused(&test).contains("only an LRHRFolderDataset"), "{}", refused(&test));
}

#[test]
fn the_split_test_is_a_folder_of_its_own() {
    let scratch = Scratch::new();
    for (split, count, scale) in [("train", 2, 1.0), ("val", 1, 1.0), ("test", 3, 0.5)] {
        for kind in ["LR", "HR"] {
            fs::create_dir_all(scratch.path(&format!("d/{split}/{kind}"))).unwrap();
        }
        for i in 0..count {
            scratch.floats(&format!("d/{split}/LR/{i}.npy"), &[12, 12, 3], |i| scale * ground(i));
            scratch.floats(&format!("d/{split}/HR/{i}.npy"), &[24, 24, 3], |i| scale * ground(i));
        }
    }
    let cfg = config(&scratch, DATA);
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, DATA);
    let overrides = |folder: &str| {
        let root = format!("Data.root_dir={}", scratch.path(folder).display());
        vec!["Data.dataset_type=LRHRFolderDataset".into(), "Data.hr_size=null".into(), "Data.scenes=[]".into(), root]
    };
    let of = |split| {
        let options = EvaluateOptions { split, overrides: overrides("d"), ..options(&[&checkpoint], &cfg) };
        run(&options).unwrap().0
    };
    let (val, test) = (of(Split::Val), of(Split::Test));
    assert_eq!((val.places.len(), test.places.len()), (1, 3));
    assert!(test.places[2].file.ends_with("d/test/HR/2.npy") && test.to_string().contains("split test"));
    fs::remove_dir_all(scratch.path("d/test")).unwrap();
    let missing = EvaluateOptions { split: Split::Test, overrides: overrides("d"), ..options(&[&checkpoint], &cfg) };
    assert!(refused(&missing).contains("there is no such folder"));
}

#[test]
fn checkpoints_of_one_name_are_told_apart() {
    let scratch = Scratch::new();
    let cfg = config(&scratch, DATA);
    let checkpoint = scratch.checkpoint("last.safetensors", SMALL, 3, DATA);
    for run in ["a", "b"] {
        fs::create_dir(scratch.path(run)).unwrap();
        fs::copy(&checkpoint, scratch.path(run).join("last.safetensors")).unwrap();
    }
    let (a, b) = (scratch.path("a"), scratch.path("b").join("last.safetensors"));
    let (evaluation, _) = run(&options(&[&a, &b, &b], &cfg)).unwrap();
    let names: Vec<&str> = evaluation.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["bicubic", "a/last", "b/last", "b/last (3)"]);
    assert_eq!(evaluation.methods[1].values, evaluation.methods[2].values);
}
