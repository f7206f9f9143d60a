//! Checkpoint files: what is written is read back, damaged files are refused, old files survive.

use std::fs;
use std::path::Path;

use super::*;
use crate::files::write_atomic;
use crate::testing::{limit_file_size, run_child, task};

/// The test that others run in a process of its own.
const CHILD: &str = "checkpoint::tests::child";

fn meta() -> Meta {
    let mut meta = Meta { step: 520, seed: u64::MAX, config: "Model:\n  in_bands: 4\n".into(), ..Meta::default() };
    meta.plateau_g = PlateauState { best: Some(0.1 + 0.2), bad: 3, cooldown: 1, factor: 0.25 };
    meta.best = vec![BestEntry { path: "best-step=100.safetensors".into(), metric: 1.0 / 3.0, step: 100 }];
    meta.means.insert("train_metrics/psnr".into(), MeanState { sum: f64::INFINITY, count: 7 });
    meta.means.insert("generator/content_loss".into(), MeanState { sum: 1e-17 + 0.7, count: 7 });
    meta
}

fn write(path: &Path, meta: &Meta, tensors: &[(&str, &[usize], &[f32])]) -> crate::Result<()> {
    let tensors = tensors.iter().map(|&(name, shape, data)| TensorRef { name, shape, data }).collect();
    CheckpointFile { tensors, meta }.write_atomic(path)
}

/// A safetensors file with this header and data.
fn raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

fn refusal(path: &Path) -> String {
    let error = TensorFile::open_checkpoint(path).unwrap_err();
    assert!(matches!(error, crate::Error::Checkpoint { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn a_checkpoint_is_read_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    // Longer than one buffer, with every special value.
    let mut long: Vec<f32> = (0..50_001).map(|i| (i as f32).sin()).collect();
    long[..4].copy_from_slice(&[f32::NAN, -0.0, f32::NEG_INFINITY, f32::MIN_POSITIVE / 2.0]);
    let tensors: [(&str, &[usize], &[f32]); 4] = [
        ("generator.head.weight", &[3, 16667], &long),
        ("generator.scalar", &[], &[0.5]),
        ("ema.empty", &[0, 3], &[]),
        ("discriminator.bias", &[2], &[1.0, 2.0]),
    ];
    write(&path, &meta(), &tensors).unwrap();

    let (mut file, read) = TensorFile::open_checkpoint(&path).unwrap();
    assert_eq!(read, meta());
    for (name, shape, data) in tensors {
        let entry = file.entries().iter().find(|e| e.name == name).unwrap();
        assert_eq!(entry.shape, shape);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&file.read(name).unwrap()), bits(data), "{name}");
    }
    assert_eq!(file.shapes("generator.").len(), 2);
    // The format's own package agrees.
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("discriminator.bias").unwrap().data(), [0, 0, 128, 63, 0, 0, 0, 64]);
    let error = file.read_finite("generator.head.weight").unwrap_err().to_string();
    assert!(error.contains("tensor generator.head.weight holds NaN as its value 0"), "{error}");
    assert_eq!(file.read_finite("discriminator.bias").unwrap(), [1.0, 2.0]);
}

#[test]
fn reading_names_the_tensor_that_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    write(&path, &meta(), &[("w", &[2], &[1.0, 2.0])]).unwrap();
    let (mut file, _) = TensorFile::open_checkpoint(&path).unwrap();
    assert!(file.read("v").unwrap_err().to_string().contains("no tensor v"));
    let error = file.read_into("w", &mut [0.0; 3]).unwrap_err().to_string();
    assert!(error.contains("tensor w has 2 values where 3 are expected"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    write(&path, &meta(), &[("w", &[64], &[1.0; 64])]).unwrap();
    let bytes = fs::read(&path).unwrap();
    for (length, want) in [
        (0, "only 0 bytes long"),
        (7, "only 7 bytes long"),
        (8, "cut short within its header"),
        (100, "cut short within its header"),
        (bytes.len() - 256, "the file is cut short"),
        (bytes.len() - 1, "the file is cut short"),
    ] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = refusal(&path);
        assert!(error.contains(want), "{length} bytes: {error}");
    }
    fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
    assert!(refusal(&path).contains("1 unknown bytes follow"));
}

#[test]
fn other_files_are_refused_each_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    fs::write(&path, b"PK\x03\x04 a zip file of another program").unwrap();
    assert!(refusal(&path).contains("damaged (the zip archive has no end record)"));

    fs::write(&path, b"\x89PNG a picture").unwrap();
    let error = refusal(&path);
    assert!(
        error.contains("not a safetensors file (its first 8 bytes") && error.contains("nor one of PyTorch"),
        "{error}"
    );

    raw(&path, "{ no json", b"");
    assert!(refusal(&path).contains("not a safetensors file (header:"));

    raw(&path, r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, &[0; 4]);
    assert!(refusal(&path).contains("not a safetensors file (header:"), "a shape that does not fit its bytes");

    raw(&path, r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
    assert!(refusal(&path).contains(r#"no metadata "srgan""#));

    raw(&path, r#"{"__metadata__":{"srgan":"{\"format\":2,\"step\":\"five\"}"}}"#, b"");
    let error = refusal(&path);
    assert!(error.contains("format 2 is newer") && error.contains("update srgan-train"), "{error}");

    raw(&path, r#"{"__metadata__":{"srgan":"{\"step\":5}"}}"#, b"");
    assert!(refusal(&path).contains("missing field `format`"));

    raw(&path, r#"{"__metadata__":{"srgan":"{\"format\":1,\"step\":-5}"}}"#, b"");
    assert!(refusal(&path).contains(r#"metadata "srgan""#));

    let header = r#"{"__metadata__":{"srgan":"{\"format\":1}"},"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    raw(&path, header, &[0; 8]);
    assert!(refusal(&path).contains("tensor w is of type F64"));

    let error = TensorFile::open(&dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("there is no such file"), "{error}");
}

#[test]
fn absent_fields_take_defaults_and_unknown_ones_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    raw(
        &path,
        r#"{"__metadata__":{"srgan":"{\"format\":1,\"step\":9,\"future\":[1],\"counters\":{\"adam_g\":4}}"}}"#,
        b"",
    );
    let (_, meta) = TensorFile::open_checkpoint(&path).unwrap();
    assert_eq!((meta.step, meta.counters.adam_g, meta.counters.adam_d, meta.plateau_g.factor), (9, 4, 0, 1.0));
}

#[test]
fn half_precision_tensors_of_other_programs_are_widened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let header = r#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"h":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"n":{"dtype":"I64","shape":[1],"data_offsets":[6,14]}}"#;
    raw(&path, header, &[0x80, 0x3f, 0x49, 0xc0, 0x00, 0xc0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let mut file = TensorFile::open(&path).unwrap();
    assert_eq!(file.read("b").unwrap(), [1.0, -3.140_625]);
    assert_eq!(file.read("h").unwrap(), [-2.0]);
    let error = file.read("n").unwrap_err().to_string();
    assert!(error.contains("tensor n is of type I64"), "{error}");
}

#[test]
fn wrong_tensors_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    assert!(write(&path, &meta(), &[("w", &[3], &[1.0, 2.0])]).is_err(), "shape and values differ");
    assert!(write(&path, &meta(), &[("w", &[1], &[1.0]), ("w", &[1], &[2.0])]).is_err(), "a name twice");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A changed byte anywhere is found: in the header when the file is opened, in a tensor when it is read.
#[test]
fn a_changed_byte_is_found_by_the_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    write(&path, &meta(), &[("a", &[3], &[1.0, 2.0, 3.0]), ("b", &[], &[0.5])]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let data = bytes.len() - 16;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(&path, changed).unwrap();
        let read = TensorFile::open_checkpoint(&path).and_then(|(mut file, _)| Ok((file.read("a")?, file.read("b")?)));
        let error = read.unwrap_err().to_string();
        assert!(at < data || error.contains("is damaged: its bytes do not have the checksum"), "byte {at}: {error}");
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(TensorFile::open(&path).unwrap().read("a").unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn numbers_that_no_run_can_reach_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    type Change = fn(&mut Meta);
    let changes: [(&str, Change); 5] = [
        ("plateau_g.factor is -1.5", |meta| meta.plateau_g.factor = -1.5),
        ("plateau_d.factor is 2", |meta| meta.plateau_d.factor = 2.0),
        ("plateau_d.factor is 0", |meta| meta.plateau_d.factor = 0.0),
        ("step is 18446744073709551615", |meta| meta.step = u64::MAX),
        ("data_position is", |meta| meta.data_position = 1 << 60),
    ];
    for (part, change) in changes {
        let mut meta = meta();
        change(&mut meta);
        write(&path, &meta, &[]).unwrap();
        let error = refusal(&path);
        assert!(error.contains(part), "{error}");
    }
}

/// The process that is killed or meets a full disk; run by the two tests below.
#[test]
#[ignore = "a part of other tests"]
fn child() {
    let Some(task) = task() else { return };
    let (task, path) = task.split_once(':').unwrap();
    match task {
        "kill" => {
            // Everything is written; the rename never comes.
            let killed = |out: &mut dyn crate::files::Output| {
                out.write_all(&[1; 1 << 20])?;
                out.flush()?;
                // SAFETY: raise takes a signal number and touches no memory.
                unsafe { libc::raise(libc::SIGKILL) };
                Ok(())
            };
            write_atomic(Path::new(path), killed).unwrap();
        }
        _ => {
            limit_file_size(4096);
            let error = write(Path::new(path), &meta(), &[("w", &[1 << 20], &vec![2.0; 1 << 20])]).unwrap_err();
            println!("refused: {error}");
        }
    }
}

#[test]
fn a_kill_before_the_rename_keeps_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    write(&path, &meta(), &[("w", &[1], &[1.0])]).unwrap();
    let (code, text) = run_child(CHILD, &format!("kill:{}", path.display()));
    assert_eq!(code, None, "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the kill came too early: no temporary file");
    let (mut file, _) = TensorFile::open_checkpoint(&path).unwrap();
    assert_eq!(file.read("w").unwrap(), [1.0]);
    write(&path, &meta(), &[("w", &[1], &[3.0])]).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file stayed");
}

#[test]
fn a_disk_that_takes_no_more_keeps_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LAST);
    write(&path, &meta(), &[("w", &[1], &[1.0])]).unwrap();
    let (code, text) = run_child(CHILD, &format!("full:{}", path.display()));
    assert_eq!(code, Some(0), "{text}");
    for part in ["refused: cannot write", LAST, "previous file is unchanged", "free some space"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let (mut file, _) = TensorFile::open_checkpoint(&path).unwrap();
    assert_eq!(file.read("w").unwrap(), [1.0]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
}
