//! Arrays, pictures and stacks give the pixels that are in them; the store that is made of them.

use std::os::unix::fs::FileExt;

use super::super::source;
use super::*;

#[test]
fn numpy_axes_orders_and_byte_orders() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let (height, width, bands) = (5, 7, 3);
    let value = |y: usize, x: usize, b: usize| (y * 100 + x * 10 + b) as u16;
    let hwc = |i: usize| value(i / bands / width, i / bands % width, i % bands);
    let chw = |i: usize| value(i / width % height, i % width, i / width / height);
    // Shape (rows, columns, bands) in Fortran order: the first axis is contiguous.
    let hwc_fortran = |i: usize| value(i % height, i / height % width, i / height / width);
    type Case<'a> = (Layout, &'a str, &'a [usize], bool, &'a dyn Fn(usize) -> u16);
    let cases: [Case; 4] = [
        (Layout::Hwc, "<u2", &[5, 7, 3], false, &hwc),
        (Layout::Chw, "<u2", &[3, 5, 7], false, &chw),
        (Layout::Hwc, ">u2", &[5, 7, 3], false, &hwc),
        (Layout::Hwc, "<u2", &[5, 7, 3], true, &hwc_fortran),
    ];
    for (case, (layout, descr, shape, fortran, at)) in cases.into_iter().enumerate() {
        let mut bytes = NpyHeader::with_descr(descr, shape);
        if fortran {
            let text = String::from_utf8_lossy(&bytes[10..]).replace("False, ", "True,  ");
            bytes.splice(10.., text.bytes());
        }
        for i in 0..height * width * bands {
            bytes.extend(if descr == ">u2" { at(i).to_be_bytes() } else { at(i).to_le_bytes() });
        }
        fs::write(&path, bytes).unwrap();
        let mut request = request(&path, dir.path(), &[2, 0]);
        request.name = format!("case{case}");
        request.layout = layout;
        let want: Vec<f32> =
            (0..height * width).flat_map(|p| [2, 0].map(|b| f32::from(value(p / width, p % width, b)))).collect();
        assert_eq!(stored_values(&request), (PixelType::U16, want), "case {case}");
    }
}

#[test]
fn npz_takes_the_array_called_hr_and_png_all_channels() {
    let dir = tempfile::tempdir().unwrap();
    let npz = dir.path().join("a.npz");
    let mut writer = npyz::npz::NpzWriter::create(&npz).unwrap();
    for (key, first) in [("mask", 9.0), ("hr", 5.0)] {
        writer.zip_writer().start_file(format!("{key}.npy"), Default::default()).unwrap();
        writer.zip_writer().write_all(&npy_bytes(PixelType::F32, &[1, 2], &[first, 1.5])).unwrap();
    }
    drop(writer);
    assert_eq!(stored_values(&request(&npz, dir.path(), &[0])), (PixelType::F32, vec![5.0, 1.5]));

    let png_path = dir.path().join("a.png");
    let mut encoder = png::Encoder::new(fs::File::create(&png_path).unwrap(), 2, 1);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    let values: Vec<u16> = vec![1, 300, 65_535, 4, 5, 6, 7, 8];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&bytes).unwrap();
    let want = values.iter().map(|&v| f32::from(v)).collect();
    assert_eq!(stored_values(&request(&png_path, dir.path(), &[0, 1, 2, 3])), (PixelType::U16, want));
}

/// The pictures hold 4·row + 2·column + 30·band; JPEG changes values by a little.
#[test]
fn jpeg_pictures_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    for (name, bands) in [("rgb.jpg", &[0, 1, 2][..]), ("grey.jpeg", &[0])] {
        let request = request(&folder.join(name), dir.path(), bands);
        let (dtype, values) = stored_values(&request);
        assert_eq!((dtype, values.len()), (PixelType::U8, 24 * 40 * bands.len()));
        for (i, value) in values.iter().enumerate() {
            let pixel = i / bands.len();
            let want = (pixel / 40 * 4 + pixel % 40 * 2 + i % bands.len() * 30) as f32;
            assert!((value - want).abs() < 8.0, "{name}: {value} at {i}, {want} wanted");
        }
        let mut notes = Vec::new();
        open_or_build(&request, &mut notes).unwrap();
        assert!(notes[0].contains("it is a JPEG file"), "{notes:?}");
    }
}

#[test]
fn a_plain_npy_scene_is_used_where_it_is_as_long_as_nobody_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("scene.npy"), PixelType::I16, &[3, 4, 2], &ramp(0, 24));
    let store_dir = dir.path().join("store");
    let request = request(&path, &store_dir, &[0, 1]);
    assert_eq!(stored_values(&request), (PixelType::I16, ramp(0, 24)));
    let copies = fs::read_dir(&store_dir).unwrap().filter(|e| e.as_ref().unwrap().path().extension().unwrap() == "npy");
    assert_eq!(copies.count(), 0);

    let store = open_or_build(&request, &mut Vec::new()).unwrap();
    let read = || store.copy_crop(0, Crop { row: 2, column: 0, height: 1, width: 4 }, &mut [0; 16]);
    assert!(read().is_ok());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(read().unwrap_err().to_string().contains("scene.npy: the file was changed while it was in use"));
    file.set_len(140).unwrap();
    assert!(read().unwrap_err().to_string().contains("scene.npy"), "cut off, it is an error and no signal");
}

#[test]
fn a_store_is_reused_and_built_again_when_damaged_foreign_or_out_of_date() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("scene.npy");
    let store = dir.path().join("store");
    write_npy(&source, PixelType::U16, &[4, 4, 2], &ramp(0, 32));
    let request = request(&source, &store, &[1]);
    let want: Vec<f32> = ramp(0, 32).into_iter().skip(1).step_by(2).collect();
    let file_of = |ext: &str| {
        let all = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path());
        all.filter(|p| p.extension().unwrap() == ext).max_by_key(|p| p.metadata().unwrap().modified().unwrap()).unwrap()
    };
    assert_eq!(stored_values(&request).1, want);
    let data = file_of("npy");

    let made = data.metadata().unwrap().modified().unwrap();
    assert_eq!(stored_values(&request).1, want);
    assert_eq!(data.metadata().unwrap().modified().unwrap(), made, "a store that is right is used again");

    let bytes = fs::read(&data).unwrap();
    let last = bytes.len() - 1;
    for damage in ["cut off", "missing", "another byte", "index", "foreign", "no images"] {
        match damage {
            "cut off" => fs::write(&data, &bytes[..last]).unwrap(),
            "missing" => fs::remove_file(&data).unwrap(),
            "another byte" => {
                let mut bytes = bytes.clone();
                bytes[last] ^= 0x40;
                fs::write(&data, &bytes).unwrap();
            }
            "index" => fs::write(file_of("json"), "{").unwrap(),
            "foreign" => edit(&file_of("json"), |index| index["key"] = "another".into()),
            _ => edit(&file_of("json"), |index| index["images"] = serde_json::json!([])),
        }
        assert_eq!(stored_values(&request).1, want, "{damage}");
    }
    // A source of the same size and time with one other value in it.
    let time = source.metadata().unwrap().modified().unwrap();
    let mut values = ramp(0, 32);
    values[1] = 77.0;
    write_npy(&source, PixelType::U16, &[4, 4, 2], &values);
    fs::File::options().write(true).open(&source).unwrap().set_modified(time).unwrap();
    assert_eq!(stored_values(&request).1[0], 77.0, "exchanged source");
    write_npy(&source, PixelType::U16, &[4, 5, 2], &ramp(1, 40));
    let want: Vec<f32> = ramp(1, 40).into_iter().skip(1).step_by(2).collect();
    assert_eq!(stored_values(&request).1, want, "changed source");
    assert!(fs::read_dir(&store).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.')));
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut index = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

/// The files of a store of one scene with one of two bands.
fn unpacked(dir: &Path, size: [usize; 2], mode: StoreMode) -> (StoreRequest, PathBuf) {
    let source = dir.join("scene.npy");
    let values = ramp(0, size[0] * size[1] * 2);
    write_npy(&source, PixelType::U16, &[size[0], size[1], 2], &values);
    let request = StoreRequest { mode, ..request(&source, &dir.join("store"), &[1]) };
    open_or_build(&request, &mut Vec::new()).unwrap();
    let mut files = fs::read_dir(dir.join("store")).unwrap().map(|e| e.unwrap().path());
    let data = files.find(|path| path.extension().is_some_and(|e| e == "npy")).unwrap();
    (request, data)
}

#[test]
fn a_store_that_is_cut_while_it_is_used_is_an_error_and_no_signal() {
    for mode in [StoreMode::Mmap, StoreMode::Read] {
        let dir = tempfile::tempdir().unwrap();
        let (request, data) = unpacked(dir.path(), [64, 64], mode);
        let store = open_or_build(&request, &mut Vec::new()).unwrap();
        let mut bytes = vec![0; 64 * 2];
        let mut read = || store.copy_crop(0, Crop { row: 60, column: 0, height: 1, width: 64 }, &mut bytes);
        read().unwrap();
        fs::File::options().write(true).open(&data).unwrap().set_len(300).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains(data.to_str().unwrap()) && error.contains("was cut off while it was in use"), "{error}");
        assert_eq!(stored_values(&request).1.len(), 64 * 64, "it is built again");
    }
}

/// Only a sample of a store's blocks is compared when it is opened, the rest when it is first used.
#[test]
fn damage_is_found_where_it_is_first_used_and_mended_at_the_next_start() {
    for mode in [StoreMode::Mmap, StoreMode::Read] {
        let dir = tempfile::tempdir().unwrap();
        // 32 blocks of 1 MiB, of which 16 are in the sample.
        let (request, data) = unpacked(dir.path(), [4096, 4096], mode);
        let written = data.metadata().unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&data).unwrap();
        let row = 128 + 64;
        file.write_all_at(&[0xaa, 0x55], 128 + row as u64 * 8192).unwrap();
        file.set_modified(written).unwrap();
        let store = open_or_build(&request, &mut Vec::new()).unwrap();
        let read = |store: &Store, row| {
            let mut bytes = vec![0; 4096 * 2];
            let crop = Crop { row, column: 0, height: 1, width: 4096 };
            store.copy_crop(0, crop, &mut bytes).map(|()| values_as_f32(&bytes, PixelType::U16).next().unwrap())
        };
        read(&store, 4000).unwrap();
        let error = read(&store, row).unwrap_err().to_string();
        assert!(error.contains("the patch store is damaged near byte") && error.contains("start again"), "{error}");
        let store = open_or_build(&request, &mut Vec::new()).unwrap();
        assert_eq!(read(&store, row).unwrap(), ramp(0, 4096 * 4096 * 2)[row * 4096 * 2 + 1]);
        // A store that somebody touches is compared anew.
        file.set_modified(written).unwrap();
        read(&store, row).unwrap();
    }
}

/// The list of masked pixels is part of what is checked.
#[test]
fn a_damaged_mask_of_a_store_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = write_npy(&dir.path().join("a.npy"), PixelType::F32, &[2, 2], &[1.0, f32::NAN, 3.0, 4.0]);
    let store = dir.path().join("store");
    let request = request(&source, &store, &[0]);
    let runs = || open_or_build(&request, &mut Vec::new()).unwrap().masked_runs().unwrap();
    let want = runs();
    assert_eq!((want.len(), want[0].first), (1, 1));
    let mut files = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path());
    let masked = files.find(|p| p.to_string_lossy().ends_with(".masked.npy")).unwrap();
    let mut bytes = fs::read(&masked).unwrap();
    let last = bytes.len() - 3;
    bytes[last] = 0x40;
    fs::write(&masked, bytes).unwrap();
    assert_eq!(runs(), want);
}

#[test]
fn what_a_killed_build_left_is_removed_and_what_a_living_one_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let (left, in_use) = (store.join(".building-abc"), store.join(".building-def"));
    fs::write(&left, "half a store").unwrap();
    let living = fs::File::create(&in_use).unwrap();
    living.lock().unwrap();
    let source = write_npy(&dir.path().join("a.npy"), PixelType::U8, &[2, 2], &[1.0; 4]);
    stored_values(&request(&source, &store, &[0]));
    assert!(!left.exists() && in_use.exists());
}

/// Builders that start at the same time clean up before each other; none may take another's file for a leftover.
#[test]
fn many_build_in_one_folder_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (dir, store) = (dir.path(), &store);
            scope.spawn(move || {
                for round in 0..10 {
                    let path = dir.join(format!("{number}_{round}.npy"));
                    write_npy(&path, PixelType::U8, &[2, 2, 2], &[3.0; 8]);
                    assert_eq!(stored_values(&request(&path, store, &[1])).1, [3.0; 4]);
                }
            });
        }
    });
}

#[test]
fn numpy_types_of_all_widths_are_read_and_lost_digits_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let values = [0.0, 1.0, 100.0];
    type Bytes = fn(f64) -> Vec<u8>;
    let cases: [(&str, PixelType, bool, Bytes); 8] = [
        ("<f8", PixelType::F32, true, |v| v.to_le_bytes().to_vec()),
        (">f8", PixelType::F32, true, |v| v.to_be_bytes().to_vec()),
        ("<f2", PixelType::F32, false, |v| half::f16::from_f64(v).to_le_bytes().to_vec()),
        ("<i4", PixelType::F32, true, |v| (v as i32).to_le_bytes().to_vec()),
        (">u4", PixelType::F32, true, |v| (v as u32).to_be_bytes().to_vec()),
        ("<i8", PixelType::F32, true, |v| (v as i64).to_le_bytes().to_vec()),
        ("<u8", PixelType::F32, true, |v| (v as u64).to_le_bytes().to_vec()),
        ("|i1", PixelType::I16, false, |v| vec![v as u8]),
    ];
    for (number, (descr, dtype, told, encode)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.npy"));
        let mut bytes = NpyHeader::with_descr(descr, &[1, 3]);
        values.iter().for_each(|&v| bytes.extend(encode(v)));
        fs::write(&path, bytes).unwrap();
        let request = request(&path, dir.path(), &[0]);
        assert_eq!(stored_values(&request), (dtype, vec![0.0, 1.0, 100.0]), "{descr}");
        for _ in 0..2 {
            let mut notes = Vec::new();
            open_or_build(&request, &mut notes).unwrap();
            assert_eq!(notes.iter().any(|note| note.contains("kept as float32")), told, "{descr}: {notes:?}");
        }
    }
}

#[test]
fn files_of_one_scene_are_stacked() {
    let dir = tempfile::tempdir().unwrap();
    let a = write_npy(&dir.path().join("a.npy"), PixelType::U8, &[2, 2, 2], &ramp(0, 8));
    let b = write_npy(&dir.path().join("b.npy"), PixelType::U8, &[2, 2], &[90.0, 91.0, 92.0, 93.0]);
    let c = write_npy(&dir.path().join("c.npy"), PixelType::I16, &[2, 2], &[-1.0, -2.0, -3.0, -4.0]);
    let stacked = |files: &[&PathBuf], bands: &[usize]| {
        let mut request = request(&a, dir.path(), bands);
        request.files = vec![files.iter().map(|&file| file.clone()).collect()];
        stored_values(&request)
    };
    let want = vec![90.0, 3.0, 91.0, 9.0, 92.0, 15.0, 93.0, 21.0];
    assert_eq!(stacked(&[&a, &b], &[2, 1]), (PixelType::U8, want));
    assert_eq!(stacked(&[&b, &c], &[0, 1]), (PixelType::F32, vec![90.0, -1.0, 91.0, -2.0, 92.0, -3.0, 93.0, -4.0]));
    // What each file says of no data acts on its own bands.
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff").join(name);
    let scene = source::open_all(&[fixture("tags_nodata_comma.tif"), fixture("sparse_u16.tif")], Layout::Hwc).unwrap();
    let bands = scene.info().bands;
    assert_eq!((scene.info().nodata_of(0), scene.info().nodata_of(bands - 1)), (Some(60_000.0), Some(7.0)));
    let d = write_npy(&dir.path().join("d.npy"), PixelType::U8, &[2, 3], &[0.0; 6]);
    let message = source::open_all(&[a.clone(), d], Layout::Hwc).err().unwrap().to_string();
    assert!(message.contains("2 rows and 3 columns") && message.contains("gdalwarp"), "{message}");
}

#[test]
fn kinds_that_cannot_be_read_name_the_command_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    for (name, words) in [("T31_B02.jp2", "gdal_translate"), ("a.vrt", "gdal_translate"), ("a.doc", "GeoTIFF")] {
        fs::write(dir.path().join(name), "x").unwrap();
        let message = source::open(&dir.path().join(name), Layout::Hwc).err().unwrap().to_string();
        assert!(message.contains("hint:") && message.contains(words), "{message}");
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    fs::write(dir.path().join("a.tif"), pointer).unwrap();
    let message = source::open(&dir.path().join("a.tif"), Layout::Hwc).err().unwrap().to_string();
    assert!(message.contains("git lfs pull"), "{message}");
}
