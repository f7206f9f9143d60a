//! What is refused, with what was expected and what to do.

use std::fs;

use srgan::export::{ExportOptions, export};
use srgan::log::{Messages, Picture, write_comparison};
use srgan::predict::{MergeOptions, Part, PredictOptions, merge};

use crate::common::{SMALL, Scratch, ground, map, options, refused};

const TEN_K: &str = "normalization: normalise_10k";

#[test]
fn scenes_that_do_not_fit_the_checkpoint() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 3, TEN_K);
    let fits = options(&checkpoint);
    let out = scratch.path("map.tif");
    let scene = scratch.floats("4.npy", &[20, 20, 4], |i| 1e4 * ground(i));
    let (code, error) = refused(&scene, &out, &fits);
    assert!(code == 2 && error.contains("expects 3 bands") && error.contains("[20, 20, 4]"), "{error}");
    assert!(error.contains("--bands"), "{error}");
    let named = |bands: &str| refused(&scene, &out, &PredictOptions { bands: Some(bands.into()), ..fits.clone() }).1;
    assert!(named("0,1").contains("--bands names 2 bands, the checkpoint expects 3"));
    assert!(named("0,1,4").contains("there is no band \"4\"; the file has 4 bands, without names"));
    for (name, scale) in [("bright.npy", 1e6), ("dark.npy", 1.0)] {
        let scene = scratch.floats(name, &[20, 20, 3], |i| scale * ground(i));
        let out = scratch.path(&format!("{name}.tif"));
        let (code, error) = refused(&scene, &out, &fits);
        assert!(code == 2 && error.contains("expects values of 0 to 10000 (normalise_10k); found:"), "{error}");
        assert!(error.contains("--force"), "{error}");
        let said = map(&scene, &out, &PredictOptions { force: true, ..fits.clone() }).unwrap();
        assert!(said.contains("mapped all the same"), "{said}");
    }
}

#[test]
fn outputs_that_are_there_or_cannot_be() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    let scene = scratch.floats("s.npy", &[20, 20], ground);
    let (fits, out) = (options(&checkpoint), scratch.path("map.tif"));
    map(&scene, &out, &fits).unwrap();
    let before = fs::read(&out).unwrap();
    let (code, error) = refused(&scene, &out, &fits);
    assert!(code == 2 && error.contains("this file exists") && error.contains("--overwrite"), "{error}");
    let other = PredictOptions { window: Some(15), resume: true, ..fits.clone() };
    assert!(refused(&scene, &out, &other).1.contains("made of another checkpoint or scene, or with other options"));
    assert!(map(&scene, &out, &PredictOptions { resume: true, ..fits.clone() }).unwrap().contains("is there already"));
    assert_eq!(fs::read(&out).unwrap(), before);
    map(&scene, &out, &PredictOptions { overwrite: true, ..other.clone() }.resumed(false)).unwrap();
    assert!(refused(&scene, &scene, &PredictOptions { overwrite: true, ..fits.clone() }).1.contains("its own scene"));
    assert!(refused(&scene, &scratch.path("map.jpg"), &fits).1.contains("maps are .tif or .npy files"));
    let narrow = PredictOptions { window: Some(8), overlap: Some(8), ..fits };
    assert!(refused(&scene, &scratch.path("x.tif"), &narrow).1.contains("windows of 8 pixels cannot share 8"));
}

/// A picture never takes the place of a file that is there, least of all of the scene.
#[test]
fn pictures_that_are_there() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity, scale: 0.004");
    let scene = scratch.path("s.png");
    Picture::new(20, 20, 1, (0..400).map(|i| (i % 251) as u8).collect()).write_png(&scene).unwrap();
    let before = fs::read(&scene).unwrap();
    let drawn = PredictOptions { preview: true, overwrite: true, ..options(&checkpoint) };
    let (code, error) = refused(&scene, &scratch.path("s.tif"), &drawn);
    assert!(code == 2 && error.contains("the picture of --preview would replace the scene"), "{error}");
    fs::write(scratch.path("map.png"), "precious").unwrap();
    let drawn = PredictOptions { overwrite: false, ..drawn };
    let (code, error) = refused(&scene, &scratch.path("map.tif"), &drawn);
    assert!(code == 2 && error.contains("map.png: this file exists"), "{error}");
    assert_eq!(fs::read(&scene).unwrap(), before);
    assert_eq!(fs::read(scratch.path("map.png")).unwrap(), b"precious");
    assert!(!scratch.path("map.tif").exists());
}

/// A folder, a product without its ending, and a name of nothing say what could be named instead.
#[test]
fn folders_are_no_scenes() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    let error = |name: &str| refused(&scratch.path(name), &scratch.path("map.tif"), &options(&checkpoint)).1;
    for folder in ["empty", "many", "product"] {
        fs::create_dir(scratch.path(folder)).unwrap();
    }
    let text = error("empty");
    assert!(text.contains("a folder, not an image") && text.contains("there is no image in it"), "{text}");
    for i in 0..5 {
        scratch.floats(&format!("many/{i}.npy"), &[20, 20], ground);
    }
    let text = error("many");
    assert!(text.contains("of which there are 5") && text.contains("many/0.npy") && !text.contains("4.npy"), "{text}");
    fs::write(scratch.path("product/MTD_MSIL2A.xml"), "<a/>").unwrap();
    assert!(error("product").contains("whose folder does not end in .SAFE"));
    assert!(error("nothing").contains("there is no such file"));
    fs::write(scratch.path("a.doc"), "x").unwrap();
    assert!(error("a.doc").contains("unknown kind of file; known are .npy"));
}

/// Commands that could not write their file say so before they work for it.
#[test]
fn outputs_in_folders_that_are_not_there() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    let missing = |error: srgan::Error| {
        let text = error.to_string();
        assert!(error.exit_code() == 2 && text.contains("none: there is no such folder"), "{text}");
    };
    let messages = Messages::plain(std::io::sink());
    // Not even the part is looked at.
    let parts = [scratch.path("x.tif.part-1-of-1")];
    missing(merge(&parts, &scratch.path("none/x.tif"), MergeOptions::default(), &messages).unwrap_err());
    for name in ["none/x.onnx", "none/x.ckpt", "none/x.safetensors"] {
        let options = ExportOptions { out: Some(scratch.path(name)), ..ExportOptions::default() };
        missing(export(&checkpoint, &options, &messages).unwrap_err());
    }
    fs::create_dir(scratch.path("run")).unwrap();
    fs::write(scratch.path("run/metrics.csv"), "step\n").unwrap();
    missing(write_comparison(&[scratch.path("run")], &scratch.path("none/page.html")).unwrap_err());
    // `predict` makes the folders of its maps.
    let scene = scratch.floats("s.npy", &[20, 20], ground);
    map(&scene, &scratch.path("new/er/map.tif"), &options(&checkpoint)).unwrap();
    assert!(scratch.path("new/er/map.tif").is_file());
}

/// Options with another answer to `--resume`.
trait Resumed {
    fn resumed(self, resume: bool) -> Self;
}

impl Resumed for PredictOptions {
    fn resumed(self, resume: bool) -> Self {
        PredictOptions { resume, ..self }
    }
}

#[test]
fn damaged_scenes_and_checkpoints() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 4, "normalization: identity, scale: 0.004");
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let whole = fs::read(fixtures.join("tiff/rgb_nir_lzw_pred2_u16.tif")).unwrap();
    let scene = scratch.path("cut.tif");
    for length in [whole.len() - 1, whole.len() / 2, 100, 9, 0] {
        fs::write(&scene, &whole[..length]).unwrap();
        let (code, error) = refused(&scene, &scratch.path("map.tif"), &options(&checkpoint));
        assert!(code == 2 && error.contains("cut.tif"), "{length} bytes: {error}");
    }
    assert!(!scratch.path("map.tif").exists());
    fs::write(&scene, &whole).unwrap();
    let torch = options(&fixtures.join("torch/opensr.ckpt"));
    assert!(refused(&scene, &scratch.path("map.tif"), &torch).1.contains("--config FILE"));
    let bad = scratch.checkpoint("bad.safetensors", SMALL, 4, "normalization: identity, scale: 0.004");
    let mut bytes = fs::read(&bad).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&bad, bytes).unwrap();
    let (code, error) = refused(&scene, &scratch.path("bad.tif"), &options(&bad));
    assert!(code == 2 && error.contains("is damaged"), "{error}");
    let missing = options(&scratch.path("none.safetensors"));
    assert!(refused(&scene, &scratch.path("map.tif"), &missing).1.contains("there is no such file"));
    assert!(
        refused(&scratch.path("none.tif"), &scratch.path("map.tif"), &options(&checkpoint)).1.contains("no such file")
    );
    let third = PredictOptions { part: Some(Part { index: 3, count: 3 }), ..options(&checkpoint) };
    map(&scene, &scratch.path("map.tif"), &third).unwrap();
    assert!(scratch.path("map.tif.part-3-of-3").exists());
}
