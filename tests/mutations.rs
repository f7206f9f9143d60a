//! Every parser of files on damaged and hostile copies of the fixtures: each is an error or another reading, never a
//! panic, a hang, or memory beyond a limit. A mutation fuzzer without instrumentation, since that of libFuzzer needs a
//! nightly compiler: the inputs follow from a seed, so that each run is the same. `SRGAN_MUTATIONS=100000` runs a long
//! campaign, `SRGAN_MUTATION_SEED` another one; what fails is kept in the folder that the message names.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use npyz::WriterBuilder;
use srgan::checkpoint::{CheckpointFile, Meta, TensorFile, TensorRef};
use srgan::config::Config;
use srgan::data::{DataSettings, Dataset, DatasetKind, StoreMode};
use srgan::ops::prepare::Normalization;
use srgan::rng::{Rng, Stream};

/// Address space of this process.
const MEMORY: u64 = 4 << 30;
/// A single input that takes longer hangs: a hundred times what the slowest takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a whole number"))
}

/// An input of a parser: a name for its ending, and its bytes.
type Input = (String, Vec<u8>);

fn fixtures(folder: &str, endings: &[&str]) -> Vec<Input> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending));
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let inputs: Vec<Input> = paths.iter().filter(|p| wanted(p)).map(|p| (name(p), fs::read(p).unwrap())).collect();
    assert!(!inputs.is_empty(), "{folder}");
    inputs
}

/// Numbers at which sizes, counts and offsets go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, i64::MAX as u64, u64::MAX];

/// A changed copy of one of the inputs.
fn mutated(rng: &mut Rng, inputs: &[Input]) -> Input {
    let below = |rng: &mut Rng, n: usize| rng.below(n.max(1) as u32) as usize;
    let (name, original) = &inputs[below(rng, inputs.len())];
    let mut bytes = original.clone();
    for _ in 0..1 + below(rng, 4) {
        // Headers are where sizes stand: half of the changes are near the start.
        let reach = if rng.below(2) == 0 { bytes.len().min(512) } else { bytes.len() };
        let at = below(rng, reach);
        let rest = bytes.len() - at.min(bytes.len());
        match rng.below(8) {
            0 if rest > 0 => bytes[at] ^= 1 << rng.below(8),
            1 if rest > 0 => bytes[at] = rng.below(256) as u8,
            2 | 3 => {
                let value = NUMBERS[below(rng, NUMBERS.len())];
                let width = [2, 4, 8][below(rng, 3)].min(rest);
                let text = if rng.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
                let from = if text[0] == 0 { 8 - width } else { 0 };
                bytes[at..at + width].copy_from_slice(&text[from..from + width]);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = at + below(rng, rest.min(64) + 1);
                bytes.drain(at..end);
            }
            6 => {
                let piece = bytes[at..at + rest.min(1 + below(rng, 64))].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[below(rng, inputs.len())].1;
                let from = below(rng, other.len());
                let piece = &other[from..other.len().min(from + 1 + below(rng, 64))];
                let end = bytes.len().min(at + piece.len());
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }
    (name.clone(), bytes)
}

/// Mutations for each parser, unless the environment asks for more.
const MUTATIONS: u64 = 3000;

/// Runs `parse` on mutations of `inputs`, as a file in a folder of its own; a parser that is `slower` than others gets as
/// many times fewer.
fn survives(parser: &str, inputs: &[Input], slower: u64, parse: impl Fn(&Path)) {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(|| {
        let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
        // SAFETY: `limit` outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    });
    let (count, seed) = (number("SRGAN_MUTATIONS", MUTATIONS) / slower, number("SRGAN_MUTATION_SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    let keep = |index: u64, (name, bytes): &Input| {
        fs::create_dir_all(&kept).unwrap();
        let path = kept.join(format!("{parser}-{seed}-{index}-{name}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    // Before it is parsed, each input is named to a thread that ends a process that hangs.
    let (started, inputs_begun) = channel::<PathBuf>();
    let watch = std::thread::spawn(move || {
        let mut current = None;
        loop {
            match inputs_begun.recv_timeout(PATIENCE) {
                Ok(path) => current = Some(path),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("hangs: {current:?}");
                    std::process::abort();
                }
            }
        }
    });
    for index in 0..count {
        let input = mutated(&mut Rng::new(seed, Stream::Crop, index, 0), inputs);
        let path = dir.path().join(&input.0);
        fs::write(&path, &input.1).unwrap();
        started.send(path.clone()).unwrap();
        if catch_unwind(AssertUnwindSafe(|| parse(&path))).is_err() {
            panic!("{parser} panics on {}", keep(index, &input).display());
        }
        fs::remove_file(&path).unwrap();
    }
    drop(started);
    watch.join().unwrap();
}

fn settings(scene: &Path, in_bands: usize) -> DataSettings {
    let folder = scene.parent().unwrap();
    DataSettings {
        kind: DatasetKind::Scenes,
        split: Default::default(),
        root_dir: None,
        scenes: vec![vec![scene.to_owned()]],
        layout: None,
        bands: None,
        nodata: None,
        mask: true,
        apply_scale: true,
        value_scale: 1.0,
        value_offset: 0.0,
        normalization: Some(Normalization::Identity),
        check_range: false,
        in_bands,
        scale: 2,
        hr_size: Some(8),
        patches_per_epoch: Some(4),
        val_fraction: 0.25,
        augment: false,
        store_dir: Some(folder.join("store")),
        store: StoreMode::Mmap,
        seed: 1,
        train_batch: 1,
        val_batch: 1,
        num_workers: 0,
        prefetch_factor: 1,
    }
}

/// Reads a scene of any number of bands to its end.
fn read_scene(path: &Path) {
    for in_bands in 1..=4 {
        let opened = Dataset::open(&settings(path, in_bands));
        let _ = fs::remove_dir_all(path.with_file_name("store"));
        if opened.is_ok() {
            return;
        }
    }
}

/// Reads all tensors of a file.
fn read_tensors(path: &Path) {
    if let Ok(mut file) = TensorFile::open(path) {
        for entry in file.entries().to_vec() {
            let _ = file.read(&entry.name);
        }
    }
    let _ = TensorFile::open_checkpoint(path);
}

#[test]
fn tiff() {
    survives("tiff", &fixtures("tests/fixtures/tiff", &["tif"]), 2, read_scene);
}

#[test]
fn pictures() {
    let mut inputs = fixtures("tests/fixtures/pictures", &["jpeg", "jpg"]);
    for (name, color, depth) in [
        ("grey.png", png::ColorType::Grayscale, png::BitDepth::Sixteen),
        ("rgb.png", png::ColorType::Rgb, png::BitDepth::Eight),
        ("rgba.png", png::ColorType::Rgba, png::BitDepth::Eight),
    ] {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 24, 40);
        encoder.set_color(color);
        encoder.set_depth(depth);
        let values = 24 * 40 * color.samples() * if depth == png::BitDepth::Sixteen { 2 } else { 1 };
        let pixels: Vec<u8> = (0..values).map(|i| (i * 7 % 251) as u8).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        inputs.push((name.to_owned(), bytes));
    }
    survives("pictures", &inputs, 2, read_scene);
}

#[test]
fn arrays() {
    let npy =
        |shape: &str| format!("{:<117}\n", format!("{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}"));
    let file = |shape: &str| [&b"\x93NUMPY\x01\x00\x76\x00"[..], npy(shape).as_bytes(), &[7; 2048]].concat();
    let mut inputs = vec![("a.npy".to_owned(), file("(32, 32)")), ("b.npy".to_owned(), file("(32, 16, 2)"))];
    // The archives of torch are zip files too, whose members are no arrays.
    inputs.extend(fixtures("tests/fixtures/torch", &["pth"]).into_iter().map(|(n, b)| (format!("{n}.npz"), b)));
    let mut zip = Vec::new();
    let mut archive = npyz::npz::NpzWriter::new(std::io::Cursor::new(&mut zip));
    let array = archive.array::<u16>("hr", Default::default()).unwrap().default_dtype().shape(&[32, 32]);
    let mut array = array.begin_nd().unwrap();
    array.extend((0..1024).map(|i| i as u16)).unwrap();
    array.finish().unwrap();
    drop(archive);
    inputs.push(("c.npz".to_owned(), zip));
    survives("arrays", &inputs, 2, read_scene);
}

#[test]
fn configurations() {
    let mut inputs = fixtures("configs", &["yaml"]);
    inputs.extend(fixtures("src/config/tests", &["yaml"]));
    survives("configurations", &inputs, 1, |path| {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        if let Ok((config, _)) = Config::from_yaml(&text, Some(path), &[]) {
            let again = Config::from_yaml(&config.to_yaml(), None, &[]).unwrap().0;
            assert_eq!(again, config, "what is read is written and read again");
        }
    });
}

#[test]
fn checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let meta = Meta { config: "Model: {in_bands: 4}\n".into(), step: 7, ..Meta::default() };
    let tensors = vec![
        TensorRef { name: "generator.w", shape: &[2, 3], data: &[1.0; 6] },
        TensorRef { name: "ema.w", shape: &[], data: &[0.5] },
    ];
    CheckpointFile { tensors, meta: &meta }.write_atomic(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    // Without its checksums, so that what lies behind them is reached.
    let at = whole.windows(6).position(|bytes| bytes == b"crc32c").unwrap();
    let mut unchecked = whole.clone();
    unchecked[at] = b'x';
    let inputs = [("a.safetensors".to_owned(), whole), ("b.safetensors".to_owned(), unchecked)];
    survives("checkpoints", &inputs, 1, read_tensors);
}

#[test]
fn torch_files() {
    survives("torch", &fixtures("tests/fixtures/torch", &["pth", "ckpt", "safetensors"]), 1, read_tensors);
}

/// A damaged store is noticed and built again: what is read is always what the scene holds.
#[test]
fn patch_stores() {
    let dir = tempfile::tempdir().unwrap();
    let scene = dir.path().join("scene.tif");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff/mask_beside_u16.tif"), &scene).unwrap();
    let open = || Dataset::open(&DataSettings { bands: Some(vec![1]), val_fraction: 0.5, ..settings(&scene, 1) });
    let first_pixels = |dataset: &Dataset| dataset.held_out_areas().next().unwrap().unwrap().hr;
    let whole = first_pixels(&open().unwrap());
    let store = dir.path().join("store");
    let mut paths: Vec<PathBuf> = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<Input> =
        paths.iter().map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(p).unwrap())).collect();
    survives("stores", &inputs, 20, |path| {
        for (name, bytes) in &inputs {
            fs::write(store.join(name), bytes).unwrap();
        }
        fs::copy(path, store.join(path.file_name().unwrap())).unwrap();
        assert!(first_pixels(&open().unwrap()) == whole, "other pixels than the scene's");
    });
}
