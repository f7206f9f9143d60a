//! TIFF files of every kind give the pixels that are in them.

use super::super::source::{self, MaskKind};
use super::*;

const HEIGHT: usize = 45;
const WIDTH: usize = 53;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff").join(name)
}

/// The pixels that `make_data_fixtures.py` writes.
fn fixture_value(name: &str, y: usize, x: usize, band: usize) -> f32 {
    let value = ((y * 37 + x * 11 + band * 101) % 251) as f32;
    match name {
        _ if name.contains("i16") => value - 100.0,
        _ if name.contains("f16") || name.contains("f32") || name.contains("f64") => value / 4.0,
        "int8.tif" => value % 120.0 - 50.0,
        "nbits4_u8.tif" => value.min(15.0),
        _ => value,
    }
}

fn assert_pixels(name: &str, dtype: PixelType, bands: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let (got_type, values) = stored_values(&request(&fixture(name), dir.path(), bands));
    assert_eq!((got_type, values.len()), (dtype, HEIGHT * WIDTH * bands.len()), "{name}");
    for (i, &value) in values.iter().enumerate() {
        let (pixel, band) = (i / bands.len(), bands[i % bands.len()]);
        let (y, x) = (pixel / WIDTH, pixel % WIDTH);
        assert_eq!(value, fixture_value(name, y, x, band), "{name}: row {y}, column {x}, band {band}");
    }
}

#[test]
fn files_of_gdal_and_tifffile() {
    let cases: [(&str, PixelType, &[usize]); 24] = [
        ("tiled_lzw_pred2_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("tiled_deflate_pred3_f32_planar.tif", PixelType::F32, &[3, 1]),
        ("tiled_deflate_pred3_f32.tif", PixelType::F32, &[0, 1]),
        ("striped_deflate_pred2_i16.tif", PixelType::I16, &[4, 0, 2]),
        ("striped_none_u8_planar.tif", PixelType::U8, &[2, 1, 0]),
        ("rgb_nir_lzw_pred2_u16.tif", PixelType::U16, &[0, 1, 2, 3]),
        ("rgb_nir_none_u8.tif", PixelType::U8, &[4, 3]),
        ("big_endian_bigtiff_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("one_strip_big_endian_u16.tif", PixelType::U16, &[0, 2]),
        ("lzw_tiles_edge_u8.tif", PixelType::U8, &[2, 0]),
        ("nbits12_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("nbits4_u8.tif", PixelType::U8, &[0]),
        ("packbits_u16.tif", PixelType::U16, &[1, 0]),
        ("lerc_f32.tif", PixelType::F32, &[0, 1]),
        ("zstd_u16.tif", PixelType::U16, &[0, 1, 2]),
        ("zstd_pred3_f64.tif", PixelType::F32, &[0]),
        ("f64.tif", PixelType::F32, &[0]),
        ("f16.tif", PixelType::F32, &[0, 1]),
        ("int8.tif", PixelType::I16, &[0, 1]),
        ("int32.tif", PixelType::F32, &[1]),
        ("uint32.tif", PixelType::F32, &[0, 1]),
        ("int64.tif", PixelType::F32, &[0, 1]),
        ("pages_u16.tif", PixelType::U16, &[2, 0, 1]),
        ("alpha_u8.tif", PixelType::U8, &[0, 1, 2]),
    ];
    cases.into_iter().for_each(|(name, dtype, bands)| assert_pixels(name, dtype, bands));
}

#[test]
fn tags_that_are_wrong_or_left_out_are_read_as_libtiff_reads_them() {
    for name in ["predictor_ignored", "no_byte_counts", "no_photometric", "fill_order", "one_strip_count_zero"] {
        assert_pixels(&format!("tags_{name}.tif"), PixelType::U16, &[0]);
    }
    for name in ["void_format", "linear_raw", "nodata_comma", "nodata_none"] {
        assert_pixels(&format!("tags_{name}.tif"), PixelType::U16, &[0]);
    }
}

/// JPEG decoders may round differently: the means of bands are compared with those that GDAL finds.
#[test]
fn a_tiff_of_jpeg_tiles_is_read_as_rgb() {
    let dir = tempfile::tempdir().unwrap();
    let (dtype, values) = stored_values(&request(&fixture("jpeg_u8.tif"), dir.path(), &[0, 1, 2]));
    assert_eq!((dtype, values.len()), (PixelType::U8, HEIGHT * WIDTH * 3));
    for (band, want) in [124.809_22, 125.399_16, 124.644_86].into_iter().enumerate() {
        let mean = values.iter().skip(band).step_by(3).sum::<f32>() / (HEIGHT * WIDTH) as f32;
        assert!((mean - want).abs() < 0.5, "band {band}: {mean}, {want} wanted");
    }
}

#[test]
fn the_nodata_tag_is_read_and_tiles_left_out_hold_it() {
    let info = |name| source::open(&fixture(name), Layout::Hwc).unwrap().info().clone();
    assert_eq!(info("tiled_lzw_pred2_u16.tif").nodata, Some(0.0));
    assert_eq!(info("striped_deflate_pred2_i16.tif").nodata, Some(-9999.0));
    assert_eq!(info("rgb_nir_none_u8.tif").nodata, None);
    assert_eq!(info("tags_nodata_comma.tif").nodata, Some(60_000.0));
    let none = info("tags_nodata_none.tif");
    assert!(none.nodata.is_none() && none.notes[0].contains("(\"None\")"), "{:?}", none.notes);
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
fn masks_hide_pixels_unless_they_are_ignored() {
    let cases = [
        ("mask_internal_u16.tif", MaskKind::Internal, &[0, 1][..]),
        ("mask_beside_u16.tif", MaskKind::Sidecar, &[1]),
        ("alpha_u8.tif", MaskKind::Alpha, &[0, 1, 2]),
    ];
    for (name, kind, bands) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut request = request(&fixture(name), dir.path(), bands);
        let mut notes = Vec::new();
        let runs = open_or_build(&request, &mut notes).unwrap().masked_runs().unwrap();
        let mut hidden = vec![false; HEIGHT * WIDTH];
        for run in runs {
            let row = run.row as usize * WIDTH;
            hidden[row + run.first as usize..row + run.end as usize].fill(true);
        }
        let want: Vec<bool> = (0..HEIGHT * WIDTH).map(|i| (i / WIDTH + i % WIDTH).is_multiple_of(7)).collect();
        assert_eq!(hidden, want, "{name}");
        assert!(notes.iter().any(|note| note.contains(kind.name()) && note.contains("leaves out")), "{notes:?}");
        request.values.mask = false;
        let mut notes = Vec::new();
        assert!(open_or_build(&request, &mut notes).unwrap().masked_runs().unwrap().is_empty());
        assert!(notes.iter().any(|note| note.contains("is not used")), "{notes:?}");
        // Where pixels cannot be left out, the file is refused.
        (request.values.mask, request.mask) = (true, false);
        let message = open_or_build(&request, &mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains("its mask hides") && message.contains("Data.mask"), "{message}");
    }
}

#[test]
fn a_damaged_mask_matters_to_those_alone_who_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.tif");
    fs::copy(fixture("mask_beside_u16.tif"), &image).unwrap();
    for damaged in [b"no mask".to_vec(), fs::read(fixture("alpha_u8.tif")).unwrap()[..200].to_vec()] {
        fs::write(dir.path().join("a.tif.msk"), damaged).unwrap();
        let mut request = request(&image, dir.path(), &[1]);
        let message = open_or_build(&request, &mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains("a.tif.msk"), "{message}");
        request.values.mask = false;
        open_or_build(&request, &mut Vec::new()).unwrap();
    }
}

#[test]
fn values_that_scale_and_offset_make_infinite_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_npy(&dir.path().join("a.npy"), PixelType::F32, &[1, 3], &[1.0, -3e38, f32::NAN]);
    let mut request = request(&path, dir.path(), &[0]);
    request.values.scale = 1e3;
    let message = open_or_build(&request, &mut Vec::new()).unwrap_err().to_string();
    assert!(message.contains("a.npy: 1 values become infinite") && message.contains("Data.scale"), "{message}");
    // What has no value is left out, whatever becomes of it.
    request.values.nodata = Some(f64::from(-3e38_f32));
    let runs = open_or_build(&request, &mut Vec::new()).unwrap().masked_runs().unwrap();
    assert_eq!((runs[0].first, runs[0].end), (1, 3));
}

#[test]
fn an_alpha_band_is_left_out_where_it_is_one_too_many_and_a_band_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&fixture("alpha_u8.tif"), dir.path(), &[0, 1, 2]);
    request.bands = None;
    assert_eq!(open_or_build(&request, &mut Vec::new()).unwrap().bands, 3);
    request.in_bands = 4;
    let store = open_or_build(&request, &mut Vec::new()).unwrap();
    assert!(store.bands == 4 && store.masked_runs().unwrap().is_empty());
}

#[test]
fn scale_and_offset_are_applied_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&fixture("scaled_u16.tif"), dir.path(), &[1, 0]);
    let third = |request: &StoreRequest| {
        let (dtype, values) = stored_values(request);
        (dtype, values[2 * 3], values[2 * 3 + 1])
    };
    let value = |band| fixture_value("scaled_u16.tif", 0, 3, band);
    assert_eq!(third(&request), (PixelType::U16, value(1), value(0)));
    let mut notes = Vec::new();
    open_or_build(&request, &mut notes).unwrap();
    assert!(notes[0].contains("scale of 2 and an offset of 0, not applied"), "{notes:?}");
    request.values.apply_scale = true;
    assert_eq!(third(&request), (PixelType::F32, value(1) * 2.0, value(0) * 0.5 + 10.0));
    (request.values.scale, request.values.offset) = (10.0, -5.0);
    assert_eq!(third(&request), (PixelType::F32, value(1) * 20.0 - 5.0, (value(0) * 0.5 + 10.0) * 10.0 - 5.0));
    request.values.apply_scale = false;
    assert_eq!(third(&request), (PixelType::F32, value(1) * 10.0 - 5.0, value(0) * 10.0 - 5.0));
}
