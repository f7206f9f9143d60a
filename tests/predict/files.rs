//! The files of maps, read back by the reader that training uses.

use std::fs;
use std::path::{Path, PathBuf};

use srgan::predict::{Compression, PredictOptions};
use tiff_reader::TiffFile;

use crate::common::{SMALL, Scratch, ground, map, options, read_floats};

/// 45 rows and 53 columns of small integers.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff").join(name)
}

fn shorts(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f32::from(u16::from_ne_bytes([b[0], b[1]]))).collect()
}

#[test]
fn every_compression_holds_the_pixels_of_the_array() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, "normalization: identity");
    let scene = scratch.floats("s.npy", &[40, 30, 3], ground);
    map(&scene, &scratch.path("map.npy"), &options(&checkpoint)).unwrap();
    let (_, want) = read_floats(&scratch.path("map.npy"));
    for compression in [Compression::Deflate, Compression::Zstd, Compression::None] {
        let path = scratch.path(&format!("{compression:?}.tif"));
        map(&scene, &path, &PredictOptions { compression, ..options(&checkpoint) }).unwrap();
        let bytes = TiffFile::open(&path).unwrap().read_image_bytes(0).unwrap();
        let got: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(got, want, "{compression:?}");
    }
    assert_eq!(scratch.files().iter().filter(|name| name.starts_with('.')).count(), 0, "{:?}", scratch.files());
}

#[test]
fn overviews_are_means_of_the_pixels_that_have_a_value() {
    let scratch = Scratch::new();
    let data = "normalization: identity, scale: 0.0001, nodata: 0";
    let generator = SMALL.replace("scaling_factor: 2", "scaling_factor: 4");
    let checkpoint = scratch.checkpoint("m.safetensors", &generator, 2, data);
    let hidden = |pixel: usize| (pixel / 160).is_multiple_of(9) || pixel % 160 > 150;
    let value = |i: usize| if hidden(i / 2) { 0 } else { (1e4 * ground(i)) as u16 };
    let scene = scratch.shorts("s.npy", &[150, 160, 2], value);
    map(&scene, &scratch.path("map.tif"), &options(&checkpoint)).unwrap();
    let tiff = TiffFile::open(scratch.path("map.tif")).unwrap();
    let sizes: Vec<_> = tiff.ifds().iter().map(|ifd| (ifd.height(), ifd.width())).collect();
    assert_eq!(sizes, [(600, 640), (300, 320)]);
    let (full, half) = (shorts(&tiff.read_image_bytes(0).unwrap()), shorts(&tiff.read_image_bytes(1).unwrap()));
    let mut absent = 0;
    for (i, got) in half.iter().enumerate() {
        let (y, x, band) = (i / 2 / 320, i / 2 % 320, i % 2);
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| full[((2 * y + dy) * 640 + 2 * x + dx) * 2 + band]);
        let valid: Vec<f64> = four.iter().filter(|v| **v != 0.0).map(|v| f64::from(*v)).collect();
        let mean = valid.iter().sum::<f64>() / valid.len().max(1) as f64;
        absent += usize::from(valid.is_empty());
        assert_eq!(f64::from(*got), mean.round_ties_even(), "row {y}, column {x}");
    }
    assert!(absent > 1000, "{absent}");
}

#[test]
fn masks_stay_and_valid_pixels_may_have_any_value() {
    let scratch = Scratch::new();
    let data = "normalization: identity, scale: 0.004";
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 2, data);
    for name in ["mask_internal_u16.tif", "mask_beside_u16.tif"] {
        let out = scratch.path(name);
        map(&fixture(name), &out, &options(&checkpoint)).unwrap();
        let tiff = TiffFile::open(&out).unwrap();
        assert_eq!(tiff.ifds().len(), 2);
        let mask = tiff.read_image_bytes(1).unwrap();
        let valid = |y: usize, x: usize| !(y / 2 + x / 2).is_multiple_of(7);
        for (i, flag) in mask.iter().enumerate().take(90 * 106) {
            assert_eq!(*flag != 0, valid(i / 106, i % 106), "{name}: pixel {i}");
        }
        let pixels = shorts(&tiff.read_image_bytes(0).unwrap());
        assert!((0..90 * 106).all(|i| valid(i / 106, i % 106) || pixels[2 * i..2 * i + 2] == [0.0, 0.0]));
        // A map is a scene too: its mask is found again.
        let again = scratch.path(&format!("again-{name}"));
        map(&out, &again, &options(&checkpoint)).unwrap();
        assert_eq!(TiffFile::open(&again).unwrap().ifds()[0].height(), 180);
    }
}

#[test]
fn every_kind_of_file_that_training_reads_is_mapped() {
    let scratch = Scratch::new();
    let mut checkpoints: Vec<(usize, PathBuf)> = Vec::new();
    for (name, bands) in [
        ("tiled_lzw_pred2_u16.tif", 3),
        ("striped_deflate_pred2_i16.tif", 5),
        ("striped_none_u8_planar.tif", 3),
        ("tiled_deflate_pred3_f32_planar.tif", 4),
        ("big_endian_bigtiff_u16.tif", 3),
        ("zstd_u16.tif", 3),
        ("pages_u16.tif", 3),
        ("alpha_u8.tif", 3),
        ("f64.tif", 1),
    ] {
        let known = checkpoints.iter().find(|(n, _)| *n == bands).map(|(_, path)| path.clone());
        let checkpoint = known.unwrap_or_else(|| {
            let data = "normalization: identity, scale: 0.004";
            let path = scratch.checkpoint(&format!("{bands}.safetensors"), SMALL, bands, data);
            checkpoints.push((bands, path.clone()));
            path
        });
        let out = scratch.path(name);
        let tiled = PredictOptions { window: Some(24), ..options(&checkpoint) };
        map(&fixture(name), &out, &tiled).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tiff = TiffFile::open(&out).unwrap();
        let ifd = &tiff.ifds()[0];
        assert_eq!((ifd.height(), ifd.width(), usize::from(ifd.samples_per_pixel())), (90, 106, bands), "{name}");
    }
}

#[test]
fn a_picture_stands_beside_the_map() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 4, "normalization: identity");
    let scene = scratch.floats("s.npy", &[40, 30, 4], ground);
    map(&scene, &scratch.path("map.tif"), &PredictOptions { preview: true, ..options(&checkpoint) }).unwrap();
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(scratch.path("map.png")).unwrap()));
    let reader = decoder.read_info().unwrap();
    assert_eq!((reader.info().height, reader.info().width), (80, 2 * 60 + 4));
}
