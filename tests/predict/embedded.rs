//! A generator that a program holds: images in memory as maps have them, and what is refused.

use srgan::Error;
use srgan::embed::{Generator, OpenOptions, Pixels};
use srgan::predict::PredictOptions;

use crate::common::{GLOBAL, LOCAL, Scratch, map, options, read_floats};

const SIDES: (usize, usize) = (10, 13);
const BANDS: usize = 3;
const PIXELS: usize = SIDES.0 * SIDES.1;

fn open(path: &std::path::Path) -> Generator {
    let overrides = ["Training.device=cpu", "Training.num_threads=2"].map(str::to_owned).to_vec();
    Generator::open(path, &OpenOptions { overrides, ..OpenOptions::default() }).unwrap()
}

fn value(pixel: usize, band: usize) -> f32 {
    900.0 + 700.0 * (0.3 * pixel as f32 + band as f32).sin()
}

/// Runs raw images, one after the other.
fn run(generator: &Generator, lr: &[f32], images: usize) -> Vec<f32> {
    let mut sr = vec![f32::NAN; lr.len() * generator.scale().pow(2)];
    generator.run((lr, &mut sr), (images, SIDES), Pixels::Raw, &mut || false).unwrap();
    sr
}

#[test]
fn an_image_has_the_pixels_of_its_map() {
    let families = LOCAL.into_iter().chain([("rcab", GLOBAL)]);
    for (name, network) in families {
        let scratch = Scratch::new();
        let data = "normalization: normalise_10k_signed, scale: 2, offset: -300";
        let path = scratch.checkpoint("g.safetensors", network, BANDS, data);
        let scene = scratch.floats("s.npy", &[SIDES.0, SIDES.1, BANDS], |i| value(i / BANDS, i % BANDS));
        map(&scene, &scratch.path("map.npy"), &options(&path)).unwrap();
        let (_, interleaved) = read_floats(&scratch.path("map.npy"));

        let generator = open(&path);
        let lr: Vec<f32> = (0..BANDS * PIXELS).map(|i| value(i % PIXELS, i / PIXELS)).collect();
        // The second image is the first once more, behind another one.
        let batch: Vec<f32> = lr.iter().map(|v| v + 50.0).chain(lr.iter().copied()).collect();
        let (sr, both) = (run(&generator, &lr, 1), run(&generator, &batch, 2));
        assert_eq!(both[sr.len()..], sr, "{name}: an image depends on the others");
        let pixels = sr.len() / BANDS;
        let planes: Vec<f32> = (0..sr.len()).map(|i| interleaved[i % pixels * BANDS + i / pixels]).collect();
        assert_eq!(planes, sr, "{name}");
    }
}

#[test]
fn what_is_known_and_what_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.checkpoint("g.safetensors", LOCAL[1].1, BANDS, "normalization: zero_one, bands: [4, 2, 0]");
    let generator = open(&path);
    assert_eq!((generator.bands(), generator.scale(), generator.step()), (BANDS, 2, 7));
    assert_eq!((generator.normalisation(), generator.band_names().len()), ("zero_one", BANDS));
    assert!(generator.description().contains("averaged weights of step 7"), "{}", generator.description());

    let refused = |lr: &[f32], sr_len: usize, stops: bool| {
        let mut sr = vec![0.0; sr_len];
        let run = (lr, sr.as_mut_slice());
        let error = generator.run(run, (1, SIDES), Pixels::Normalised, &mut || stops).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        error.to_string()
    };
    let mut lr = vec![0.2; BANDS * PIXELS];
    assert!(refused(&lr[1..], 4 * lr.len(), false).contains("lr is"));
    assert!(refused(&lr, lr.len(), false).contains("sr is"));
    assert!(refused(&lr, 4 * lr.len(), true).contains("stopped by the calling program"));
    lr[PIXELS + SIDES.1 + 2] = f32::INFINITY;
    assert!(refused(&lr, 4 * lr.len(), false).contains("image 0, band 1, row 1, column 2 is inf"));

    let missing = Generator::open(&scratch.path("none.safetensors"), &OpenOptions::default()).err().unwrap();
    assert!(missing.to_string().contains("none.safetensors"), "{missing}");
}

#[test]
fn a_map_of_a_held_generator_is_that_of_the_program() {
    let scratch = Scratch::new();
    let path = scratch.checkpoint("g.safetensors", LOCAL[1].1, 1, "normalization: normalise_10k");
    let scene = scratch.shorts("s.npy", &[90, 70, 1], |i| (i % 4000) as u16);
    let window = Some(24);
    map(&scene, &scratch.path("a.npy"), &PredictOptions { window, ..options(&path) }).unwrap();
    let generator = open(&path);
    // What the file holds by now does not matter.
    std::fs::write(&path, b"something else").unwrap();
    let out = scratch.path("b.npy");
    let tiled = PredictOptions { window, ..PredictOptions::default() };
    let made = generator.predict((&scene, &out), &tiled, None, &mut || false).unwrap();
    assert_eq!(made, out);
    assert_eq!(std::fs::read(scratch.path("a.npy")).unwrap(), std::fs::read(&out).unwrap());
    let again = generator.predict((&scene, &out), &tiled, None, &mut || false).unwrap_err();
    assert!(again.to_string().contains("this file exists"), "{again}");
}
