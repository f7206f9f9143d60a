//! Exported generators, read back: the same weights by every way, and the same map.

use std::fs;
use std::path::{Path, PathBuf};

use srgan::checkpoint::{CheckpointFile, TensorFile, TensorRef};
use srgan::export::{Choice, ExportOptions, Format, export};
use srgan::log::Messages;
use srgan::predict::PredictOptions;

use crate::common::{GLOBAL, LOCAL, SMALL, Scratch, Shared, ground, map, options, read_floats};

fn exported(checkpoint: &Path, options: ExportOptions) -> srgan::Result<String> {
    let said = Shared::default();
    export(checkpoint, &options, &Messages::plain(said.clone())).map(|()| said.text())
}

fn to(out: PathBuf) -> ExportOptions {
    ExportOptions { out: Some(out), ..ExportOptions::default() }
}

#[track_caller]
fn refused(checkpoint: &Path, options: ExportOptions, words: &[&str]) {
    let error = exported(checkpoint, options).expect_err("it was exported");
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    words.iter().for_each(|word| assert!(text.contains(word), "{word} is not in {text}"));
}

#[test]
fn every_family_gives_the_same_map_after_a_round_trip() {
    let scratch = Scratch::new();
    let scene = scratch.floats("s.npy", &[19, 23, 3], ground);
    for (name, generator) in LOCAL.into_iter().chain([("rcab", GLOBAL)]) {
        let checkpoint = scratch.checkpoint(&format!("{name}.safetensors"), generator, 3, "normalization: identity");
        let map_of = |options: &PredictOptions, file: &str| {
            map(&scene, &scratch.path(file), options).unwrap_or_else(|e| panic!("{name}: {e}"));
            read_floats(&scratch.path(file)).1
        };
        let want = map_of(&options(&checkpoint), &format!("{name}.npy"));
        let plain = scratch.path(&format!("{name}-plain.safetensors"));
        exported(&checkpoint, to(plain.clone())).unwrap();
        assert_eq!(map_of(&options(&plain), &format!("{name}-plain.npy")), want, "{name}");
        let torch = scratch.path(&format!("{name}.ckpt"));
        exported(&checkpoint, ExportOptions { discriminator: true, ..to(torch.clone()) }).unwrap();
        for live in [false, true] {
            let config = Some(scratch.path(&format!("{name}.yaml")));
            let named = PredictOptions { config, live, ..options(&torch) };
            assert_eq!(map_of(&named, &format!("{name}-torch-{live}.npy")), want, "{name}, live {live}");
        }
    }
}

#[test]
fn an_archive_of_pytorch_is_stored_aligned_and_complete() {
    let scratch = Scratch::new();
    let (_, standard) = LOCAL[0];
    let checkpoint = scratch.checkpoint("m.safetensors", standard, 3, "normalization: identity");
    let out = scratch.path("gan.ckpt");
    exported(&checkpoint, ExportOptions { discriminator: true, ..to(out.clone()) }).unwrap();
    let mut archive = zip::ZipArchive::new(fs::File::open(&out).unwrap()).unwrap();
    for i in 0..archive.len() {
        let member = archive.by_index(i).unwrap();
        assert_eq!(member.compression(), zip::CompressionMethod::Stored);
        assert!(member.data_start().is_multiple_of(64), "{} at {}", member.name(), member.data_start());
    }
    let mut written = TensorFile::open(&out).unwrap();
    let mut own = TensorFile::open(&checkpoint).unwrap();
    let names: Vec<String> = own.entries().iter().map(|e| e.name.clone()).collect();
    let networks = ["generator.", "discriminator.", "ema."];
    let names: Vec<_> = names.into_iter().filter(|n| networks.iter().any(|p| n.starts_with(p))).collect();
    for name in &names {
        assert_eq!(written.read(name).unwrap(), own.read(name).unwrap(), "{name}");
    }
    let counts = written.entries().iter().filter(|e| e.name.ends_with("num_batches_tracked"));
    assert_eq!(
        counts.clone().count(),
        2 * names.iter().filter(|n| n.starts_with("generator.") && n.ends_with("running_var")).count()
    );
    assert!(counts.clone().count() > 0 && counts.clone().all(|e| e.shape.is_empty()));
    let again = scratch.path("again.ckpt");
    exported(&checkpoint, ExportOptions { discriminator: true, ..to(again.clone()) }).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&out).unwrap(), "the same weights give another file");
    assert_eq!(archive.by_index(0).unwrap().last_modified().year(), 1980, "a time makes files differ");
}

#[test]
fn live_and_averaged_weights_are_told_apart() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, "normalization: identity");
    let weights = |choice: Choice, name: &str| {
        let out = scratch.path(name);
        let said = exported(&checkpoint, ExportOptions { weights: choice, ..to(out.clone()) }).unwrap();
        let file = TensorFile::open(&out).unwrap();
        (said, file.metadata()["weights"].clone(), file.metadata()["scale"].clone())
    };
    let (said, kind, scale) = weights(Choice::Best, "a.safetensors");
    assert!(said.contains("averaged weights of step 7"), "{said}");
    assert_eq!((kind.as_str(), scale.as_str()), ("averaged", "2"));
    assert_eq!(weights(Choice::Live, "b.safetensors").1, "live");
    let plain = scratch.path("b.safetensors");
    refused(
        &plain,
        ExportOptions { weights: Choice::Averaged, ..to(scratch.path("c.onnx")) },
        &["no averaged", "--ema"],
    );
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, "normalization: identity");
    refused(&checkpoint, to(scratch.path("m.bin")), &["--format"]);
    refused(&checkpoint, ExportOptions::default(), &["--format"]);
    refused(&checkpoint, to(checkpoint.clone()), &["there already", "--overwrite"]);
    let torch = ExportOptions { format: Some(Format::Torch), ..to(scratch.path("x.ckpt")) };
    refused(&checkpoint, ExportOptions { normalise: true, ..torch.clone() }, &["--normalise", "onnx"]);
    fs::write(scratch.path("x.yaml"), "precious").unwrap();
    refused(&checkpoint, torch, &["x.yaml", "there already"]);
    let graph = to(scratch.path("x.onnx"));
    refused(&checkpoint, ExportOptions { discriminator: true, ..graph.clone() }, &["--discriminator"]);
    refused(&scratch.path("gone.safetensors"), graph, &["gone.safetensors", "no such file"]);
    assert_eq!(fs::read_to_string(scratch.path("x.yaml")).unwrap(), "precious");
    assert_eq!(scratch.files(), ["m.safetensors", "x.yaml"]);
}

#[test]
fn names_with_the_prefixes_of_wrappers_are_read_and_said() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, "normalization: identity");
    let scene = scratch.floats("s.npy", &[9, 11, 3], ground);
    let live = |path: &Path| PredictOptions { live: true, ..options(path) };
    map(&scene, &scratch.path("want.npy"), &live(&checkpoint)).unwrap();
    let (mut file, meta) = TensorFile::open_checkpoint(&checkpoint).unwrap();
    for prefix in ["module.generator.", "generator._orig_mod.", "module."] {
        let of_generator = file.shapes("generator.");
        let tensors: Vec<_> = of_generator
            .iter()
            .map(|(name, shape)| (name.replacen("generator.", prefix, 1), shape.clone(), file.read(name).unwrap()))
            .collect();
        let tensors = tensors.iter().map(|(name, shape, data)| TensorRef { name, shape, data }).collect();
        let other = scratch.path(&format!("{prefix}safetensors"));
        CheckpointFile { tensors, meta: &meta }.write_atomic(&other).unwrap();
        let said = map(&scene, &scratch.path(&format!("{prefix}npy")), &live(&other)).unwrap();
        assert!(said.contains(&format!("begin with `{prefix}` instead of `generator.`")), "{said}");
        assert_eq!(read_floats(&scratch.path(&format!("{prefix}npy"))), read_floats(&scratch.path("want.npy")));
    }
}
