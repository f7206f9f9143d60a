//! Data that cannot be used is refused with a message that says what, where and what to do.

use super::super::source;
use super::*;
use crate::rng::{Rng, Stream};

/// Changed copies of each file.
const MUTATIONS: usize = 60;

/// Writes `bytes` as one HR file of an otherwise good data set and returns the message.
fn with_bad_file(name: &str, bytes: &[u8]) -> String {
    let (dir, settings) = pairs(2, [4, 4]);
    let good = fs::read(dir.path().join("train/LR/image_000.npy")).unwrap();
    fs::write(dir.path().join("train/HR").join(name), bytes).unwrap();
    let lr = dir.path().join("train/LR").join(name);
    if name.ends_with(".npy") {
        fs::write(lr, good).unwrap();
    } else {
        write_npz(&lr, "x", PixelType::U16, &[2, 2], &[0.0; 4]);
    }
    let message = refused(&settings);
    assert!(message.contains(name), "the file is not named: {message}");
    message
}

#[test]
fn damaged_numpy_files() {
    let good = npy_bytes(PixelType::U16, &[4, 4], &[1.0; 16]);
    for len in [0, 5, 9, 60, good.len() - 1] {
        with_bad_file("bad.npy", &good[..len]);
    }
    assert!(with_bad_file("bad.npy", &good[..good.len() - 1]).contains("cut off: 160 bytes expected, 159 there"));
    assert!(with_bad_file("bad.npy", b"no array at all").contains("not an .npy file"));
    for (descr, shape) in [("<c16", &[4, 4][..]), ("|O", &[4, 4]), ("<U3", &[4, 4]), ("<c8", &[4, 4])] {
        let message = with_bad_file("bad.npy", &NpyHeader::with_descr(descr, shape));
        assert!(message.contains(descr) && message.contains("save it as"), "{message}");
    }
    for shape in [&[16][..], &[2, 2, 2, 2], &[], &[0, 4], &[usize::MAX, 4], &[0, usize::MAX, usize::MAX]] {
        with_bad_file("bad.npy", &NpyHeader::with_descr("<u2", shape));
    }
}

#[test]
fn damaged_npz_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    write_npz(&path, "hr", PixelType::U16, &[8, 8], &ramp(3, 64));
    let good = fs::read(&path).unwrap();
    for len in [0, 10, good.len() / 2, good.len() - 1] {
        with_bad_file("bad.npz", &good[..len]);
    }
    // One flipped byte in the compressed data: the checksum tells.
    let mut flipped = good.clone();
    flipped[120] ^= 0x10;
    with_bad_file("bad.npz", &flipped);
    fs::write(&path, b"").unwrap();
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    npz.zip_writer().start_file("readme.txt", Default::default()).unwrap();
    drop(npz);
    assert!(with_bad_file("bad.npz", &fs::read(&path).unwrap()).contains("holds no array"));
}

#[test]
fn damaged_tiff_and_png_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff");
    let dir = tempfile::tempdir().unwrap();
    for (name, bands) in [("tiled_lzw_pred2_u16.tif", 3), ("one_strip_big_endian_u16.tif", 3), ("f64.tif", 1)] {
        let good = fs::read(folder.join(name)).unwrap();
        let lengths = [0, 1, 7, 20, good.len() / 4, good.len() / 2, good.len() - 3];
        for len in lengths {
            let path = dir.path().join(format!("{len}.tif"));
            fs::write(&path, &good[..len]).unwrap();
            let settings = DataSettings { in_bands: bands, ..scene_settings(dir.path(), path) };
            assert!(refused(&settings).contains(".tif"), "{name}, {len} bytes");
        }
    }
    let path = dir.path().join("a.png");
    fs::write(&path, b"\x89PNG\r\n\x1a\nrest").unwrap();
    assert!(refused(&scene_settings(dir.path(), path)).contains("not a readable PNG file"));
    let path = dir.path().join("a.vrt");
    fs::write(&path, b"").unwrap();
    assert!(refused(&scene_settings(dir.path(), path)).contains("unknown kind of file"));
}

/// Opens a file and reads its first pieces and masks; whatever is in it, it must not panic.
fn read_some(path: &Path) -> bool {
    let Ok(mut source) = source::open(path, Layout::Hwc) else { return false };
    let bands: Vec<usize> = (0..source.info().bands.min(5)).collect();
    let mut row = 0;
    for _ in 0..8 {
        let (mut values, mut flags) = (Vec::new(), Vec::new());
        match source.next_rows(&bands, &mut values) {
            Ok(0) => return true,
            Ok(rows) if source.read_mask(row, rows, &mut flags).is_ok() => row += rows,
            _ => return false,
        }
    }
    false
}

/// Files with a few changed bytes, more of them near the ends, where headers and tables are: an error or other pixels, but
/// no panic.
#[test]
fn files_with_changed_bytes_do_not_panic() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let dir = tempfile::tempdir().unwrap();
    write_npz(&dir.path().join("a.npz"), "hr", PixelType::U16, &[8, 8], &ramp(3, 64));
    write_npy(&dir.path().join("a.npy"), PixelType::U16, &[8, 8], &ramp(3, 64));
    let mut encoder = png::Encoder::new(fs::File::create(dir.path().join("a.png")).unwrap(), 8, 8);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[7; 192]).unwrap();
    let mut files: Vec<PathBuf> =
        [&fixtures.join("tiff"), &fixtures.join("pictures"), &fixtures.join("jp2"), dir.path()]
            .into_iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()))
            .filter(|path| source::is_supported(path))
            .collect();
    files.sort();
    let mut rng = Rng::new(5, Stream::Crop, 0, 0);
    for path in files {
        assert!(read_some(&path), "{} is a good file", path.display());
        let good = fs::read(&path).unwrap();
        let target = dir.path().join("changed").with_extension(path.extension().unwrap());
        for _ in 0..MUTATIONS {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(4) {
                let range = if rng.below(3) > 0 { good.len().min(400) } else { good.len() } as u32;
                let place = rng.below(range) as usize;
                let place = if rng.below(2) == 0 { place } else { good.len() - 1 - place };
                bytes[place] = [0, 1, 0x7f, 0xff, rng.below(256) as u8][rng.below(5) as usize];
            }
            fs::write(&target, bytes).unwrap();
            read_some(&target);
        }
    }
}

#[test]
fn sizes_that_do_not_fit() {
    let (dir, settings) = pairs(3, [8, 8]);
    write_npy(&dir.path().join("val/LR/image_001.npy"), PixelType::U16, &[4, 5], &[0.0; 20]);
    let message = refused(&settings);
    assert!(message.contains("val/LR/image_001.npy: 4 × 5 pixels, but its HR file has 8 × 8"), "{message}");
    assert!(message.contains("8 × 10"), "{message}");

    let (dir, settings) = pairs(3, [8, 8]);
    write_pairs(dir.path(), "train", 1, [8, 12]);
    let message = refused(&settings);
    assert!(message.contains("must have one size") && message.contains("Data.hr_size"), "{message}");
    let message = refused(&DataSettings { hr_size: Some(10), ..settings.clone() });
    assert!(message.contains("smaller than a patch of 10 × 10"), "{message}");
    assert!(refused(&DataSettings { hr_size: Some(7), ..settings.clone() }).contains("not a multiple of the scale"));
    assert!(Dataset::open(&DataSettings { hr_size: Some(8), ..settings }).is_ok());
}

#[test]
fn invalid_pixels_outside_scenes() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.5; 16];
        (values[3], values[9]) = (bad, bad);
        let message = with_bad_file("bad.npy", &npy_bytes(PixelType::F32, &[4, 4], &values));
        assert!(message.contains("band 0 (counted from 0) has 2 NaN or infinite pixels"), "{message}");
    }
    let (_dir, settings) = pairs(2, [4, 4]);
    let message = refused(&DataSettings { nodata: Some(3.0), ..settings });
    assert!(message.contains("1 no-data pixels (value 3)"), "{message}");
}

#[test]
fn missing_files_and_folders() {
    let (dir, settings) = pairs(3, [4, 4]);
    fs::remove_file(dir.path().join("train/HR/image_001.npy")).unwrap();
    let message = refused(&settings);
    assert!(message.contains("train/HR/image_001.npy: this HR file is missing"), "{message}");

    let (dir, settings) = pairs(3, [4, 4]);
    fs::remove_dir_all(dir.path().join("val/LR")).unwrap();
    assert!(refused(&settings).contains("val/LR: there is no such folder"));
    fs::create_dir(dir.path().join("val/LR")).unwrap();
    fs::write(dir.path().join("val/LR/.hidden.npy"), "").unwrap();
    assert!(refused(&settings).contains("no image files"));

    let empty = tempfile::tempdir().unwrap();
    let example = super::settings(DatasetKind::Example, empty.path());
    assert!(refused(&example).contains("no image files"));
    write_npz(&empty.path().join("hr_0.npz"), "hr", PixelType::U8, &[4, 4], &[0.0; 16]);
    assert!(refused(&example).contains("at least two are needed"));
    assert!(refused(&DataSettings { root_dir: None, ..example }).contains("Data.root_dir"));
    let none = scene_settings(empty.path(), empty.path().join("none.npy"));
    assert!(refused(&none).contains("none.npy: there is no such file"));
    assert_eq!(Dataset::open(&none).unwrap_err().exit_code(), 2);
    assert!(refused(&DataSettings { scenes: Vec::new(), ..none.clone() }).contains("Data.scenes"));
    assert!(refused(&DataSettings { hr_size: None, ..none }).contains("Data.hr_size"));
}

#[test]
fn files_that_are_left_out_are_told() {
    let (dir, settings) = pairs(3, [4, 4]);
    let train = dir.path().join("train");
    fs::rename(train.join("HR/image_001.npy"), train.join("HR/IMAGE_001.NPY")).unwrap();
    write_npy(&train.join("HR/more.npy"), PixelType::U16, &[4, 4], &[1.0; 16]);
    fs::write(train.join("LR/a.gif"), "").unwrap();
    fs::write(train.join("LR/b.gif"), "").unwrap();
    let dataset = Dataset::open(&settings).unwrap();
    assert_eq!(dataset.train_len(), 3);
    let notes = dataset.notes().join("\n");
    assert!(notes.contains("LR: left out are files of other kinds: 2 × .gif"), "{notes}");
    assert!(notes.contains("HR: 1 of 4 HR files are left out") && notes.contains("more.npy"), "{notes}");
    std::os::unix::fs::symlink("nowhere.npy", train.join("LR/image_009.npy")).unwrap();
    let message = refused(&settings);
    assert!(message.contains("image_009.npy: a link to a file that is not there"), "{message}");
}

#[test]
fn scenes_are_also_named_by_folder_and_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("scenes");
    for name in ["a.npy", "b.npy"] {
        write_npy(&folder.join(name), PixelType::U8, &[32, 8], &[1.0; 256]);
    }
    let scenes = |path: &str| scene_settings(dir.path(), dir.path().join(path));
    for (path, count) in [("scenes", 2), ("scenes/*.npy", 2), ("scenes/[b]*", 1)] {
        assert_eq!(Dataset::open(&scenes(path)).unwrap().held_out_areas().count(), count, "{path}");
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    for path in ["empty", "scenes/*.tif"] {
        let message = refused(&scenes(path));
        assert!(message.contains("no scene is found here") && message.contains("hint:"), "{message}");
    }
}

#[test]
fn values_out_of_range_are_told_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("a.npy"), PixelType::U16, &[40, 12], &ramp(0, 480));
    let with = |normalization| DataSettings { normalization, ..scene_settings(dir.path(), path.clone()) };
    let message = refused(&with(None));
    assert!(message.contains("Data.normalization") && message.contains("zero_one "), "{message}");
    let message = refused(&with(Some(Normalization::ZeroOne)));
    assert!(message.contains("band 0 of the HR files holds 0 to 1437, of which zero_one clips 99.8 %"), "{message}");
    let accepted = DataSettings { check_range: false, ..with(Some(Normalization::ZeroOne)) };
    assert!(Dataset::open(&accepted).unwrap().warnings()[0].contains("clips 99.8 %"));
    let scaled = DataSettings { value_scale: 1e-3, ..with(Some(Normalization::Normalise10k)) };
    let dataset = Dataset::open(&scaled).unwrap();
    assert!(dataset.warnings()[0].contains("expect values up to 1"), "{:?}", dataset.warnings());
    let right = Dataset::open(&with(Some(Normalization::Normalise10k))).unwrap();
    assert!(right.warnings().is_empty(), "{:?}", right.warnings());
    assert!(right.notes()[0].contains("band 0: 0.0000 · 0.0720 · 0.1437"), "{:?}", right.notes());
}

#[test]
fn axes_are_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("a.npy"), PixelType::U8, &[3, 20, 20], &[1.0; 1200]);
    let settings = DataSettings { in_bands: 3, val_fraction: 0.5, ..scene_settings(dir.path(), path) };
    let message = refused(&settings);
    assert!(message.contains("shape [3, 20, 20]") && message.contains("Data.layout"), "{message}");
    let chw = DataSettings { layout: Some(super::super::Layout::Chw), ..settings };
    assert_eq!(Dataset::open(&chw).unwrap().train_spec().bands, 3);
    let message = refused(&DataSettings { bands: Some(vec![0, 1, 3]), ..chw });
    assert!(message.contains("asks for band 3 (counted from 0), the file has 3"), "{message}");
}

#[test]
fn scenes_without_room_or_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("a.npy"), PixelType::U16, &[40, 12], &[5.0; 480]);
    let settings = scene_settings(dir.path(), path);
    let message = refused(&DataSettings { hr_size: Some(14), ..settings.clone() });
    assert!(message.contains("14 × 14 does not fit: the scene has 40 rows and 12 columns, 30 rows"), "{message}");
    let message = refused(&DataSettings { nodata: Some(5.0), ..settings.clone() });
    assert!(message.contains("every pixel is masked"), "{message}");
    let message = refused(&DataSettings { val_fraction: 0.1, ..settings.clone() });
    assert!(
        message.contains("Data.val_fraction: no held-out area has room for a 8 × 8 patch: of 40 rows 0.1"),
        "{message}"
    );
    assert!(message.contains("holds out 4, and 8 are needed") && message.contains("hint: 0.19 would do"), "{message}");
    assert!(refused(&DataSettings { val_fraction: 1.0, ..settings }).contains("Data.val_fraction"));

    let mut values = vec![5.0; 480];
    values.iter_mut().step_by(6).for_each(|v| *v = 0.0);
    let path = write_npy(&dir.path().join("b.npy"), PixelType::U16, &[40, 12], &values);
    let message = refused(&DataSettings { nodata: Some(0.0), ..scene_settings(dir.path(), path) });
    assert!(message.contains("no 8 × 8 patch of the 30 training rows is free of masked pixels (80 are)"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_moves_the_store_and_says_so() {
    let (_dir, settings) = pairs(2, [4, 4]);
    // Not even the superuser can make a folder there.
    let settings = DataSettings { store_dir: Some("/sys/srgan-store".into()), ..settings };
    let dataset = Dataset::open(&settings).unwrap();
    let told = |note: &&String| note.starts_with("cannot write to /sys/srgan-store: the patch store is in");
    assert_eq!(dataset.notes().iter().filter(told).count(), 1, "{:?}", dataset.notes());
}

#[test]
fn a_building_that_is_interrupted_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    // Of two bands one is kept, so that the scene is unpacked, in several blocks.
    let path = write_npy(&dir.path().join("a.npy"), PixelType::U16, &[2100, 512, 2], &vec![5.0; 2100 * 512 * 2]);
    let settings = DataSettings { bands: Some(vec![1]), ..scene_settings(dir.path(), path) };
    let open_until = |allowed: u32| {
        let asked = std::cell::Cell::new(0);
        let proceed = || {
            asked.set(asked.get() + 1);
            if asked.get() > allowed { Err(crate::Error::StoppedEarly { by: "SIGTERM" }) } else { Ok(()) }
        };
        Dataset::open_while(&settings, &proceed).map(|_| asked.get())
    };
    for allowed in [0, 1] {
        let error = open_until(allowed).unwrap_err();
        assert!(matches!(error, crate::Error::StoppedEarly { .. }), "{error}");
        assert_eq!(error.exit_code(), 75);
        assert_eq!(fs::read_dir(dir.path().join("store")).unwrap().count(), 0);
    }
    assert!(open_until(u32::MAX).unwrap() > 2);
    assert_eq!(open_until(0).unwrap(), 0, "a store that is there is not built");
}

#[test]
fn contents_tell_files_from_other_files_and_not_from_copies() {
    let contents = |change: &dyn Fn(&Path)| {
        let (dir, settings) = pairs(3, [8, 8]);
        change(dir.path());
        Dataset::open(&settings).unwrap().contents()
    };
    let whole = contents(&|_| {});
    assert_eq!((whole.0, contents(&|_| {})), (3, whole), "in another folder, at another time");
    let fewer = contents(&|root| {
        ["train/LR/image_000.npy", "train/HR/image_000.npy"]
            .iter()
            .for_each(|f| fs::remove_file(root.join(f)).unwrap());
    });
    assert!(fewer.0 == 2 && fewer.1 != whole.1);
    let other = contents(&|root| {
        write_npy(&root.join("train/HR/image_000.npy"), PixelType::U16, &[8, 8], &[9.0; 64]);
    });
    assert!(other.0 == 3 && other.1 != whole.1);
}
