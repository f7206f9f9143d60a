//! The columns against opensr-test 1.3.3 on the same arrays (`tests/peers/make_opensr_fixtures.py`).

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::*;
use crate::rng::{Rng, Stream};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/opensr_test.safetensors");

/// An image of integers of reflectance.
fn planes(all: &SafeTensors, name: &str) -> Planes {
    let tensor = all.tensor(name).unwrap();
    let [bands, height, width] = tensor.shape()[..] else { panic!("{name}: {:?}", tensor.shape()) };
    let reflectance = |b: &[u8]| f64::from(f32::from(u16::from_le_bytes([b[0], b[1]])) / 10_000.0);
    Planes { bands, height, width, values: tensor.data().chunks_exact(2).map(reflectance).collect() }
}

#[test]
fn columns_are_those_of_the_package() {
    let bytes = std::fs::read(FIXTURE).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let scales = &metadata.metadata().as_ref().unwrap()["scales"];
    let scales: BTreeMap<String, usize> = serde_json::from_str(scales).unwrap();
    assert_eq!(scales.len(), 6);
    for (name, scale) in scales {
        let [lr, sr, hr] = ["lr", "sr", "hr"].map(|kind| planes(&all, &format!("{name}.{kind}")));
        let got = scores(&lr, &sr, &hr, scale, &[0, 1, 2]);
        let want = all.tensor(&format!("{name}.scores")).unwrap();
        let want = want.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        for (((column, _), got), want) in COLUMNS.iter().zip(got.values()).zip(want) {
            let same = got.is_nan() && want.is_nan();
            assert!(same || (got - want).abs() <= 1e-3, "{name}: {column} is {got}, the package says {want}");
        }
    }
}

/// Noise of one band that moves by whole pixels, seen through a window.
fn window(rows: i32, columns: i32) -> Planes {
    let value = |y: i32, x: i32| f64::from(Rng::new(9, Stream::Crop, y as u64, x as u32).next_u32()) / 2f64.powi(32);
    let pixel = |i: i32| value(i / 40 - rows + 60, i % 40 - columns + 60);
    Planes { bands: 1, height: 32, width: 40, values: (0..32 * 40).map(pixel).collect() }
}

#[test]
fn shifts_are_found_and_undone() {
    let reference = window(0, 0);
    for (rows, columns) in [(0, 0), (1, 0), (-3, 2), (0, 4)] {
        let found = shift(&reference, &window(rows, columns));
        // What leaves the window on one side and comes in on the other costs a step or two.
        let whole = Shift { rows: f64::from(-rows), columns: f64::from(-columns) };
        assert!((found.rows - whole.rows).abs() < 0.05 && (found.columns - whole.columns).abs() < 0.05, "{found:?}");
        let back = warp(&window(rows, columns), whole);
        let inside = |i: &usize| (4..28).contains(&(i / 40)) && (4..36).contains(&(i % 40));
        let worst = (0..32 * 40).filter(inside).map(|i| (back.values[i] - reference.values[i]).abs());
        assert!(worst.fold(0.0, f64::max) < 1e-12);
    }
    let one = Planes { bands: 1, height: 1, width: 1, values: vec![0.5] };
    assert_eq!(shift(&one, &one), Shift { rows: 0.0, columns: 0.0 });
}

#[test]
fn equal_images_are_consistent_and_add_nothing_to_hr() {
    let hr = Planes { values: window(0, 0).values.iter().map(|v| 0.5 + 0.1 * v).collect(), ..window(0, 0) };
    let wide = hr.resized(64, 80);
    let small = wide.resized(32, 40);
    let same = scores(&small, &wide, &wide, 2, &[0]);
    assert!(same.reflectance < 0.1 && same.spatial < 0.1, "{same:?}");
    assert!(same.improvement > 0.9, "{same:?}");
    let lazy = scores(&small, &small.resized(64, 80), &wide, 2, &[0]);
    assert!(lazy.omission > lazy.improvement && lazy.synthesis < same.synthesis, "{lazy:?}");
}
