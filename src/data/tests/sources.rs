//! Every kind of file gives the pixels that are in it.

use std::path::PathBuf;

use super::*;
use crate::data::pixels::values_as_f32;
use crate::data::store::{Crop, StoreRequest, open_or_build};
use crate::data::{Layout, PixelType, StoreMode, source};

const HEIGHT: usize = 45;
const WIDTH: usize = 53;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff").join(name)
}

fn request(path: &Path, dir: &Path, bands: &[usize]) -> StoreRequest {
    StoreRequest {
        name: "test".into(),
        files: vec![path.into()],
        dir: dir.into(),
        bands: Some(bands.to_vec()),
        in_bands: bands.len(),
        layout: Layout::Hwc,
        nodata: None,
        mask: true,
        dtype: None,
        mode: StoreMode::Mmap,
    }
}

/// All values of a single-image store.
fn stored_values(request: &StoreRequest) -> (PixelType, Vec<f32>) {
    let store = open_or_build(request, &mut Vec::new()).unwrap();
    let (height, width) = (store.images[0].height, store.images[0].width);
    let mut bytes = vec![0; height * width * store.bands * store.dtype.bytes()];
    store.copy_crop(0, Crop { row: 0, column: 0, height, width }, &mut bytes).unwrap();
    (store.dtype, values_as_f32(&bytes, store.dtype).collect())
}

/// The pixels that `make_data_fixtures.py` writes.
fn fixture_value(y: usize, x: usize, band: usize, dtype: PixelType) -> f32 {
    let value = ((y * 37 + x * 11 + band * 101) % 251) as f32;
    match dtype {
        PixelType::I16 => value - 100.0,
        PixelType::F32 => value / 4.0,
        PixelType::U8 | PixelType::U16 => value,
    }
}

#[test]
fn tiff_files_of_gdal_and_tifffile() {
    let cases: [(&str, PixelType, &[usize]); 9] = [
        ("tiled_lzw_pred2_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("tiled_deflate_pred3_f32_planar.tif", PixelType::F32, &[3, 1]),
        ("tiled_deflate_pred3_f32.tif", PixelType::F32, &[0, 1]),
        ("striped_deflate_pred2_i16.tif", PixelType::I16, &[4, 0, 2]),
        ("striped_none_u8_planar.tif", PixelType::U8, &[2, 1, 0]),
        ("rgb_nir_lzw_pred2_u16.tif", PixelType::U16, &[0, 1, 2, 3]),
        ("rgb_nir_none_u8.tif", PixelType::U8, &[4, 3]),
        ("big_endian_bigtiff_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("one_strip_big_endian_u16.tif", PixelType::U16, &[0, 2]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, dtype, bands) in cases {
        let (got_type, values) = stored_values(&request(&fixture(name), dir.path(), bands));
        assert_eq!((got_type, values.len()), (dtype, HEIGHT * WIDTH * bands.len()), "{name}");
        for (i, &value) in values.iter().enumerate() {
            let (pixel, band) = (i / bands.len(), bands[i % bands.len()]);
            let (y, x) = (pixel / WIDTH, pixel % WIDTH);
            assert_eq!(value, fixture_value(y, x, band, dtype), "{name}: row {y}, column {x}, band {band}");
        }
    }
}

#[test]
fn the_nodata_tag_is_read_and_tiles_left_out_hold_it() {
    let nodata = |name| source::open(&fixture(name), Layout::Hwc).unwrap().info().nodata;
    assert_eq!(nodata("tiled_lzw_pred2_u16.tif"), Some(0.0));
    assert_eq!(nodata("striped_deflate_pred2_i16.tif"), Some(-9999.0));
    assert_eq!(nodata("rgb_nir_none_u8.tif"), None);
    let dir = tempfile::tempdir().unwrap();
    let sparse = request(&fixture("sparse_u16.tif"), dir.path(), &[0]);
    let (_, values) = stored_values(&sparse);
    for (i, &value) in values.iter().enumerate() {
        let written = i / WIDTH < 16 && i % WIDTH < 16;
        assert_eq!(value, if written { 3.0 } else { 7.0 });
    }
    let masked = open_or_build(&sparse, &mut Vec::new()).unwrap().masked_runs().unwrap();
    let pixels: u32 = masked.iter().map(|run| run.end - run.first).sum();
    assert_eq!(pixels as usize, HEIGHT * WIDTH - 16 * 16);
}

#[test]
fn tiff_files_that_cannot_be_used_say_why() {
    let message = |name| source::open(&fixture(name), Layout::Hwc).err().expect(name).to_string();
    assert!(message("jpeg_u8.tif").contains("colour model 6"));
    assert!(message("zstd_u16.tif").contains("compression 50000"));
    assert!(message("f64.tif").contains("F64"));
}

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

#[test]
fn a_plain_npy_scene_is_used_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("scene.npy"), PixelType::I16, &[3, 4, 2], &ramp(0, 24));
    let store = dir.path().join("store");
    assert_eq!(stored_values(&request(&path, &store, &[0, 1])), (PixelType::I16, ramp(0, 24)));
    let copies = fs::read_dir(&store).unwrap().filter(|e| e.as_ref().unwrap().path().extension().unwrap() == "npy");
    assert_eq!(copies.count(), 0);
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

    // Reused: a marked byte survives.
    let mut bytes = fs::read(&data).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&data, &bytes).unwrap();
    assert_ne!(stored_values(&request).1, want);

    for damage in ["cut off", "missing", "index", "foreign"] {
        match damage {
            "cut off" => fs::write(&data, &bytes[..last]).unwrap(),
            "missing" => fs::remove_file(&data).unwrap(),
            "index" => fs::write(file_of("json"), "{").unwrap(),
            _ => {
                let index = fs::read_to_string(file_of("json")).unwrap();
                fs::write(file_of("json"), index.replace("\"key\": \"", "\"key\": \"x")).unwrap();
                fs::write(&data, &bytes).unwrap();
            }
        }
        assert_eq!(stored_values(&request).1, want, "{damage}");
    }
    write_npy(&source, PixelType::U16, &[4, 5, 2], &ramp(1, 40));
    let want: Vec<f32> = ramp(1, 40).into_iter().skip(1).step_by(2).collect();
    assert_eq!(stored_values(&request).1, want, "changed source");
    assert!(fs::read_dir(&store).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.')));
}
