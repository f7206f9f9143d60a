//! The commands around training: what a file holds, first configurations, the reference, scripts for shells.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use srgan::config::{Config, Normalization};
use srgan::export::{Choice, ExportOptions, export};
use srgan::init::{config_for, demo};
use srgan::inspect::{Inspection, inspect};
use srgan::log::Messages;

use crate::common::{LOCAL, SMALL, Scratch, Shared, ground};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn srgan(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_srgan")).args(args).current_dir(folder).output().unwrap()
}

/// What a command prints that must succeed.
#[track_caller]
fn printed(folder: &Path, args: &[&str]) -> String {
    let output = srgan(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_checkpoint_its_export_and_a_state_dict_of_another_tell_what_they_hold() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", LOCAL[0].1, 3, "normalization: normalise_10k");
    let own = inspect(&checkpoint).unwrap();
    let generator = own.generator.clone().unwrap();
    assert_eq!((generator.bands, generator.scale, generator.blocks), (3, 4, 1));
    assert_eq!((own.step, own.averaged, own.normalisation.as_deref()), (Some(7), Some(1), Some("normalise_10k")));
    assert!(own.kind.starts_with("checkpoint of srgan") && own.non_finite() == 0, "{own}");
    for (out, kind) in [("e.safetensors", "exported by srgan"), ("e.ckpt", "checkpoint of Lightning")] {
        let options = ExportOptions { out: Some(scratch.path(out)), weights: Choice::Live, ..ExportOptions::default() };
        export(&checkpoint, &options, &Messages::plain(Shared::default())).unwrap();
        let other = inspect(&scratch.path(out)).unwrap();
        assert_eq!(other.generator, Some(generator.clone()), "{out}");
        assert_eq!(other.step, Some(7));
        assert!(other.kind.contains(kind), "{}", other.kind);
        let norm = |i: &Inspection, name: &str| i.tensors.iter().find(|t| t.name == name).unwrap().norm.unwrap();
        for tensor in other.tensors.iter().filter(|t| t.dtype == "F32" && t.name.starts_with("generator.")) {
            assert_eq!(norm(&other, &tensor.name), norm(&own, &tensor.name), "{}", tensor.name);
        }
    }
    let module = inspect(&fixture("torch/opensr.ckpt")).unwrap();
    let generator = module.generator.clone().unwrap();
    assert_eq!((generator.block_type.as_deref(), generator.channels, generator.scale), (Some("standard"), 4, 2));
    assert!(module.to_string().contains("generator  "), "{module}");
    let json: serde_json::Value =
        serde_json::from_str(&printed(Path::new("."), &["inspect", "--json", checkpoint.to_str().unwrap()])).unwrap();
    assert_eq!((&json["step"], &json["generator"]["scale"]), (&7.into(), &4.into()));
}

#[test]
fn numbers_that_are_not_finite_are_counted() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, "normalization: identity");
    let out = scratch.path("plain.safetensors");
    let options = ExportOptions { out: Some(out.clone()), ..ExportOptions::default() };
    export(&checkpoint, &options, &Messages::plain(Shared::default())).unwrap();
    let mut bytes = fs::read(&out).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes[end - 12..end - 8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&out, &bytes).unwrap();
    let inspection = inspect(&out).unwrap();
    assert_eq!(inspection.non_finite(), 2);
    assert!(inspection.to_string().contains("2 VALUES are NaN or infinite"), "{inspection}");
    let again = ExportOptions { out: Some(scratch.path("again.onnx")), ..ExportOptions::default() };
    let error = export(&out, &again, &Messages::plain(Shared::default())).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("must be finite") && !scratch.path("again.onnx").exists(), "{error}");
}

#[test]
fn a_look_at_scenes_gives_a_configuration_that_starts() {
    let scratch = Scratch::new();
    let unit = scratch.floats("unit.npy", &[300, 200, 4], ground);
    let reflectance = scratch.shorts("reflectance.npy", &[90, 80, 3], |i| (10_000.0 * ground(i)) as u16);
    let odd = scratch.floats("odd.npy", &[60, 64, 1], |i| 300.0 * ground(i));
    for (scenes, method, size, bands) in [
        (vec![unit.clone()], Normalization::ZeroOne, 128, 4),
        (vec![reflectance], Normalization::Normalise10k, 32, 3),
        (vec![odd], Normalization::ZeroOne, 16, 1),
        (vec![fixture("tiff/striped_none_u8_planar.tif")], Normalization::ZeroOne, 16, 3),
    ] {
        let text = config_for(&scenes).unwrap();
        let (cfg, warnings) = Config::from_yaml(&text, None, &[]).unwrap();
        assert_eq!(warnings, Vec::<String>::new(), "{text}");
        let data = &cfg.data;
        assert_eq!((data.normalization, data.hr_size, cfg.model.in_bands), (Some(method), Some(size), bands), "{text}");
        fs::write(scratch.path("cfg.yaml"), &text).unwrap();
        let name = scenes[0].display();
        let small = ["Generator.n_blocks=1", "Generator.n_channels=16", "Training.num_threads=1"];
        let dry = [&["train", "-c", "cfg.yaml", "--dry-run", "--device", "cpu"], &small[..]].concat();
        let output = srgan(scratch.path("").as_path(), &dry);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}\n{text}");
        assert!(!said.contains("clips"), "{name}: {said}");
    }
    let refused = |scenes: &[std::path::PathBuf], word: &str| {
        let error = config_for(scenes).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
    };
    refused(&[scratch.floats("tiny.npy", &[20, 20, 3], ground)], "too small");
    refused(&[scratch.floats("void.npy", &[64, 64, 1], |_| f32::NAN)], "has a value");
    refused(&[unit, scratch.floats("three.npy", &[300, 200, 3], ground)], "3 bands");
    refused(&[scratch.path("gone.npy")], "no such file");
}

#[test]
fn the_demo_is_written_whole_and_never_over_files() {
    let scratch = Scratch::new();
    let folder = scratch.path("demo");
    assert_eq!(demo(&folder).unwrap(), "srgan train -c configs/demo.yaml");
    let dry = printed(&folder, &["train", "-c", "configs/demo.yaml", "--dry-run", "--device", "cpu"]);
    assert!(dry.contains("steps per epoch"), "{dry}");
    let error = demo(&folder).unwrap_err().to_string();
    assert!(error.contains("demo.yaml") && error.contains("there already"), "{error}");
}

#[test]
fn configurations_are_printed_and_explained() {
    let scratch = Scratch::new();
    fs::write(scratch.path("cfg.yaml"), "Model: {in_bands: 3}\nTraining: {seed: '${Model.in_bands}'}\n").unwrap();
    let folder = scratch.path("");
    let complete = printed(&folder, &["config", "cfg.yaml", "Generator.n_blocks=5"]);
    let (cfg, _) = Config::from_yaml(&complete, None, &[]).unwrap();
    assert_eq!((cfg.training.seed, cfg.generator.n_blocks, cfg.generator.out_channels), (3, 5, 3));
    let json: serde_json::Value = serde_json::from_str(&printed(&folder, &["config", "cfg.yaml", "--json"])).unwrap();
    assert_eq!((&json["Training"]["seed"], &json["Generator"]["res_scale"]), (&3.into(), &0.2.into()));
    assert!(printed(&folder, &["config", "--keys", "Data.hr_size"]).starts_with("Data.hr_size\n"));
    assert!(printed(&folder, &["config", "--keys"]).contains("\nTruncatedVGG.j\n"));
    assert!(printed(&folder, &["config", "--schema"]).contains("draft-07"));
    let wrong = srgan(&folder, &["config", "--keys", "Dataa"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean `Data`"));
}

#[test]
fn shells_get_scripts_and_man_gets_pages() {
    let scratch = Scratch::new();
    let folder = scratch.path("");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&folder, &["completions", shell]);
        assert!(script.contains("export") && script.contains("normalise"), "{shell}");
    }
    assert!(printed(&folder, &["completions", "bash", "--for", "srgan-train"]).contains("run-dir"));
    printed(&folder, &["man", "man1"]);
    for page in ["srgan.1", "srgan-export.1", "srgan-train.1", "srgan-config.1"] {
        let text = fs::read_to_string(scratch.path("man1").join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}
