use std::collections::HashMap;

use super::*;
use crate::ops::Case;
use crate::ops::tests::{devices, random};
use crate::plan::{Plan, PlanOptions, Program};
use crate::types::DType;

/// The distance and its gradient for features of this extent.
pub fn cases_of(shape: Shape) -> Vec<Case> {
    let (weight, d_output) = ([1, 1, 1, shape.c()], [shape.n(), 1, 1, 1]);
    let mut cases = vec![Case::new(LpipsDistance, &[shape.0, shape.0, weight])];
    // One number over its own length has no gradient, only what rounding leaves of it.
    if shape.c() > 1 {
        cases.push(Case::new(LpipsDistanceGrad, &[shape.0, shape.0, weight, d_output]));
    }
    cases.into_iter().map(|case| case.with_data(features).without_gradient()).collect()
}

pub fn cases() -> Vec<Case> {
    let shapes = [[2, 3, 5, 4], [1, 1, 1, 64], [3, 7, 6, 13], [1, 9, 31, 192], [2, 2, 3, 384], [2, 20, 33, 16]];
    shapes.into_iter().flat_map(|shape| cases_of(Shape(shape))).collect()
}

/// Features of which some are 0 as behind a ReLU, in some pixels all of those of one map or of both; weights are not
/// negative.
fn features(operand: usize, shape: Shape) -> Tensor64 {
    let mut data = random(shape, 40 + operand as u64);
    let channels = shape.c();
    for (i, v) in data.data.iter_mut().enumerate() {
        *v = match (operand, i / channels % 7) {
            (0, 3 | 5) | (1, 4 | 5) => 0.0,
            // A pixel's first channel is not 0.
            (0 | 1, _) if i % channels > 0 && *v < -0.5 => 0.0,
            _ => v.abs(),
        };
    }
    data
}

const SHAPE: Shape = Shape([2, 3, 4, 5]);
const WEIGHT: [f32; 5] = [0.2, 0.4, 0.6, 0.8, 1.0];

/// max(sin(k·i), 0) over the elements of N,H,W,C features.
fn map(k: f64) -> Vec<f32> {
    (0..SHAPE.len()).map(|i| (i as f64 * k).sin().max(0.0) as f32).collect()
}

/// A tape with the distances of a and b and the gradients of ⟨distances, `d_output`⟩ by both.
fn distances_and_gradients(shape: Shape, weight: &[f32], d_output: &[f32]) -> (Tape, [Value; 3]) {
    let mut tape = Tape::new();
    let [a, b] = ["a", "b"].map(|name| tape.input(name, shape, DType::F32));
    let weight = tape.constant(Shape::vector(shape.c()), weight.to_vec());
    let distances = tape.push(LpipsDistance, &[a, b, weight]).unwrap();
    let d = tape.constant(Shape([shape.n(), 1, 1, 1]), d_output.to_vec());
    let grads = tape.gradients(&[(distances, d)], &[a, b]).unwrap();
    (tape, [distances, grads[0].unwrap(), grads[1].unwrap()])
}

/// Distances and both gradients of features of extent [`SHAPE`] on every device.
fn run(a: &[f32], b: &[f32], d_output: [f32; 2]) -> Vec<[Vec<f32>; 3]> {
    let on = |mut device: Box<dyn crate::runtime::Device>| {
        let (tape, values) = distances_and_gradients(SHAPE, &WEIGHT, &d_output);
        let outputs = values.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect();
        let program = Program { name: "lpips", tape, outputs, checks: vec![], commits: vec![] };
        let id = device.load(Plan::compile(&program, PlanOptions::new(device.target())).unwrap()).unwrap();
        device.upload(id, "a", bytemuck::cast_slice(a)).unwrap();
        device.upload(id, "b", bytemuck::cast_slice(b)).unwrap();
        device.poison().unwrap();
        device.run(id).unwrap().outputs.try_into().unwrap()
    };
    devices().into_iter().map(on).collect()
}

fn assert_near(got: f64, want: f64) {
    assert!((got - want).abs() <= 3e-6 * want.abs(), "{got} for {want}");
}

fn norm_of(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn distances_and_gradients_are_those_of_the_package() {
    // normalize_tensor, NetLinLayer and spatial_average of lpips 0.1.4 in float64, and the backward pass of torch.
    for [distances, by_a, by_b] in run(&map(1.3), &map(1.31), [1.0, -2.0]) {
        assert_near(f64::from(distances[0]), 0.058836168858632375);
        assert_near(f64::from(distances[1]), 0.4315377568876175);
        let want = [
            (1, -0.0006050838460575992, 0.0005923121770611004),
            (2, 0.0011310027915185606, -0.0011485594919869169),
            (7, 0.005425540915548511, -0.005620069539932548),
            (77, 0.055427676500142506, -0.04349008450012153),
        ];
        for (i, a, b) in want {
            assert_near(f64::from(by_a[i]), a);
            assert_near(f64::from(by_b[i]), b);
        }
        assert_near(norm_of(&by_a), 0.523476344424275);
        assert_near(norm_of(&by_b), 0.583996092444635);
    }
}

#[test]
fn the_gradients_are_those_of_the_reference() {
    for shape in [[2, 2, 3, 4], [1, 1, 1, 7], [3, 1, 2, 2], [1, 2, 2, 1]].map(Shape) {
        let d_output: Vec<f32> = (0..shape.n()).map(|n| 0.7 - 0.5 * n as f32).collect();
        let weight: Vec<f32> = (0..shape.c()).map(|c| 0.3 + 0.25 * c as f32).collect();
        let (tape, [distances, by_a, by_b]) = distances_and_gradients(shape, &weight, &d_output);
        let given = [("a", 1), ("b", 2)].map(|(name, seed)| (name.to_owned(), random(shape, seed)));
        let given: HashMap<String, Tensor64> = given.into();
        let objective = |given: &HashMap<String, Tensor64>| {
            let values = tape.evaluate_f64(given).unwrap();
            let terms = tape.value_of(&values, distances).data.iter().zip(&d_output);
            terms.map(|(distance, d)| distance * f64::from(*d)).sum::<f64>()
        };
        let values = tape.evaluate_f64(&given).unwrap();
        for (name, grad) in [("a", by_a), ("b", by_b)] {
            for (i, got) in tape.value_of(&values, grad).data.iter().enumerate() {
                let mut moved = given.clone();
                moved.get_mut(name).unwrap().data[i] += 1e-6;
                let plus = objective(&moved);
                moved.get_mut(name).unwrap().data[i] -= 2e-6;
                let want = (plus - objective(&moved)) / 2e-6;
                assert!((got - want).abs() < 1e-8, "{shape} {name} element {i}: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_pixel_of_zeros_has_no_gradient() {
    let (mut a, mut b) = (map(1.3), map(1.31));
    let [zero_a, zero_b] = [(SHAPE.w() + 2) * 5, (SHAPE.h() * SHAPE.w() + 1) * 5];
    a[zero_a..zero_a + 5].fill(0.0);
    b[zero_b..zero_b + 5].fill(0.0);
    for [distances, by_a, by_b] in run(&a, &b, [1.0, 1.0]) {
        // Distances as above; torch's gradients are NaN in these pixels.
        assert_near(f64::from(distances[0]), 0.08201831237153857);
        assert_near(f64::from(distances[1]), 0.48636650937155124);
        assert!(by_a.iter().chain(&by_b).all(|v| v.is_finite()));
        assert_eq!((norm_of(&by_a[zero_a..zero_a + 5]), norm_of(&by_b[zero_b..zero_b + 5])), (0.0, 0.0));
        assert!(norm_of(&by_b[zero_a..zero_a + 5]) > 0.0 && norm_of(&by_a[zero_b..zero_b + 5]) > 0.0);
    }
    for all in run(&[0.0; SHAPE.len()], &[0.0; SHAPE.len()], [1.0, 1.0]) {
        assert!(all.iter().flatten().all(|v| *v == 0.0));
    }
}

#[test]
fn equal_features_have_neither_distance_nor_gradient() {
    for all in run(&map(1.3), &map(1.3), [1.0, 3.0]) {
        assert!(all.iter().flatten().all(|v| *v == 0.0), "{all:?}");
    }
}

#[test]
fn a_feature_that_is_not_a_number_shows_in_its_image() {
    let mut a = map(1.3);
    a[SHAPE.len() / 2 + 7] = f32::NAN;
    for [distances, by_a, _] in run(&a, &map(1.31), [1.0, 1.0]) {
        assert!(!distances[0].is_nan() && distances[1].is_nan());
        assert!(by_a[SHAPE.len() / 2 + 7].is_nan());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let weight = Shape::vector(5);
    assert!(LpipsDistance.shape(&[SHAPE, Shape([2, 3, 4, 6]), weight]).unwrap_err().contains("differ"));
    assert!(LpipsDistance.shape(&[SHAPE, SHAPE, Shape::vector(4)]).unwrap_err().contains("5 channels"));
    assert!(
        LpipsDistance.shape(&[Shape([2, 0, 4, 5]), Shape([2, 0, 4, 5]), weight]).unwrap_err().contains("no pixels")
    );
    assert!(LpipsDistanceGrad.shape(&[SHAPE, SHAPE, weight, Shape::SCALAR]).unwrap_err().contains("2 images"));
    let mut tape = Tape::new();
    let a = tape.input("a", SHAPE, DType::F32);
    let weight = tape.input("weight", weight, DType::F32);
    let distances = tape.push(LpipsDistance, &[a, a, weight]).unwrap();
    let d = tape.constant(Shape([2, 1, 1, 1]), vec![1.0; 2]);
    assert!(tape.gradients(&[(distances, d)], &[weight]).unwrap_err().to_string().contains("weights"));
}
