use std::collections::HashMap;

use super::*;
use crate::ops::Case;
use crate::ops::image_metrics::ImageMetrics;
use crate::ops::ssim::Ssim;
use crate::ops::tests::random;
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Cpu, CpuTarget, Device, bytes_of};
use crate::types::DType;

pub fn cases() -> Vec<Case> {
    let pair = |shape: [usize; 4]| [shape, shape];
    let with_d = |shape: [usize; 4]| [shape, shape, [1, 1, 1, 4]];
    let losses = PixelLosses { max_val: 1.0 };
    vec![
        Case::new(losses, &pair([2, 3, 5, 4])).without_gradient(),
        Case::new(PixelLosses { max_val: 0.7 }, &pair([1, 31, 70, 6])).without_gradient(),
        Case::new(losses, &pair([2, 1, 9, 3])).without_gradient(),
        Case::new(losses, &pair([1, 7, 1, 13])).without_gradient(),
        Case::new(losses, &pair([2, 3, 4, 1])).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([2, 3, 5, 4])).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([1, 31, 70, 6])).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([2, 1, 9, 3])).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([1, 7, 1, 13])).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([2, 3, 4, 1])).without_gradient(),
        Case::new(losses, &pair([1, 3, 5, 4])).with_data(with_dark_pixels).without_gradient(),
        Case::new(PixelLossesGrad, &with_d([1, 3, 5, 4])).with_data(with_dark_pixels).without_gradient(),
    ]
}

/// Some pixels of each image are so dark that the spectral angle takes its plain formula.
fn with_dark_pixels(operand: usize, shape: Shape) -> Tensor64 {
    let mut image = random(shape, 80 + operand as u64);
    for (i, v) in image.data.iter_mut().enumerate() {
        match i / shape.c() % 5 {
            k if operand < 2 && k == operand => *v = 0.0,
            // The product of the norms is below the least one.
            3 if operand < 2 => *v *= f64::from(1e-5f32),
            _ => {}
        }
        *v = f64::from(*v as f32);
    }
    image
}

const SHAPE: Shape = Shape([2, 7, 6, 3]);

/// 0.45 + 0.5 sin(k·i) over the elements of an N,H,W,C image.
fn image(k: f64) -> Vec<f32> {
    (0..SHAPE.len()).map(|i| (0.45 + 0.5 * (i as f64 * k).sin()) as f32).collect()
}

/// A tape with the losses of `sr` and `hr` and the gradient of ⟨losses, `d_output`⟩ by `sr`.
fn losses_and_gradient(shape: Shape, max_val: f32, d_output: [f32; 4]) -> (Tape, Value, Value) {
    let mut tape = Tape::new();
    let sr = tape.input("sr", shape, DType::F32);
    let hr = tape.input("hr", shape, DType::F32);
    let losses = tape.push(PixelLosses { max_val }, &[sr, hr]).unwrap();
    let d = tape.constant(Shape::vector(COMPONENTS), d_output.to_vec());
    let grad = tape.gradients(&[(losses, d)], &[sr]).unwrap()[0].unwrap();
    (tape, losses, grad)
}

fn run(tape: Tape, outputs: &[Value], sr: &[f32], hr: &[f32]) -> Vec<Vec<f32>> {
    let outputs = outputs.iter().map(|v| (String::new(), *v)).collect();
    let program = Program { name: "losses", tape, outputs, checks: vec![], commits: vec![] };
    let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 2 })).unwrap();
    let mut cpu = Cpu::new(2).unwrap();
    let id = cpu.load(plan).unwrap();
    cpu.upload(id, "sr", bytes_of(sr)).unwrap();
    cpu.upload(id, "hr", bytes_of(hr)).unwrap();
    cpu.poison().unwrap();
    cpu.run(id).unwrap().outputs
}

fn assert_near(got: &[f32], want: &[f64], tol: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= tol * want.abs(), "{got} for {want}");
    }
}

#[test]
fn values_and_gradient_are_those_of_torch() {
    // The formulas of the file's head in torch, float64, for these images.
    let (mut tape, losses, grad) = losses_and_gradient(SHAPE, 0.8, [1.0, 0.3, 0.2, 0.0]);
    let (sr, hr) = (Value::at(0), Value::at(1));
    let metrics = tape.push(ImageMetrics { max_val: 0.8, ssim_win: 5 }, &[sr, hr]).unwrap();
    let ssim = tape.push(Ssim { window: 5, max_val: 0.8 }, &[sr, hr]).unwrap();
    let got = run(tape, &[losses, ssim, metrics, grad], &image(1.3), &image(1.31));
    let whole = [0.34994349302446826, 0.6798387865077178, 1.077186933398572, 6.2090699395994005];
    assert_near(&got[0], &whole, 1e-6);
    assert_near(&got[1], &[0.23455705819376438], 3e-6);
    let first = [0.19271946982720808, 0.3779659900985911, 1.0790754803049836, 10.994871404694333, 0.7572218497649837];
    let second = [0.5071675162217284, 0.9817115829168443, 1.0752983864921604, 3.987670531541076, -0.288107733377455];
    assert_near(&got[2], &[first, second].concat(), 3e-6);
    let some: Vec<f32> = [0, 1, 2, 50, 125, 251].map(|i| got[3][i]).to_vec();
    let want = [
        0.001368515307620527,
        -0.003625018715274611,
        0.006339819906044444,
        0.009357274711232565,
        -0.011618418833050806,
        -0.010108147698578965,
    ];
    assert_near(&some, &want, 3e-6);
    let norm = got[3].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    assert!((norm / 0.12087619046943181 - 1.0).abs() < 1e-6, "{norm}");
}

#[test]
fn the_gradient_is_that_of_the_reference() {
    for shape in [[2, 3, 4, 4], [1, 5, 3, 1], [1, 1, 6, 2], [2, 4, 1, 7]].map(Shape) {
        let d_output = [0.7, -0.4, 0.9, 0.0];
        let (tape, losses, grad) = losses_and_gradient(shape, 1.0, d_output);
        let mut given = HashMap::new();
        for (name, k) in [("sr", 1.7), ("hr", 0.6)] {
            let data = (0..shape.len()).map(|i| 0.5 + 0.4 * (i as f64 * k).sin()).collect();
            given.insert(name.to_owned(), Tensor64::new(shape, data));
        }
        let objective = |given: &HashMap<String, Tensor64>| {
            let values = tape.evaluate_f64(given).unwrap();
            let losses = &tape.value_of(&values, losses).data;
            losses.iter().zip(d_output).map(|(l, d)| if d == 0.0 { 0.0 } else { l * f64::from(d) }).sum::<f64>()
        };
        let values = tape.evaluate_f64(&given).unwrap();
        for (i, got) in tape.value_of(&values, grad).data.iter().enumerate() {
            let mut moved = given.clone();
            moved.get_mut("sr").unwrap().data[i] += 1e-6;
            let plus = objective(&moved);
            moved.get_mut("sr").unwrap().data[i] -= 2e-6;
            let want = (plus - objective(&moved)) / 2e-6;
            assert!((got - want).abs() < 1e-7, "{shape} element {i}: {got} for {want}");
        }
    }
}

#[test]
fn equal_images_have_an_infinite_psnr_and_no_gradient_but_that_of_tv() {
    let (mut tape, losses, grad) = losses_and_gradient(SHAPE, 1.0, [1.0, 1.0, 0.0, 0.0]);
    let metrics = tape.push(ImageMetrics { max_val: 1.0, ssim_win: 5 }, &[Value::at(0), Value::at(1)]).unwrap();
    let got = run(tape, &[losses, metrics, grad], &image(1.3), &image(1.3));
    assert_eq!((got[0][L1], got[0][PSNR]), (0.0, f32::INFINITY));
    assert_eq!((got[1][PSNR], got[1][5 + PSNR]), (f32::INFINITY, f32::INFINITY));
    assert!(got[2].iter().all(|v| *v == 0.0), "{:?}", got[2]);
}

#[test]
fn a_pixel_that_is_not_a_number_shows_in_every_component() {
    let (tape, losses, _) = losses_and_gradient(SHAPE, 1.0, [1.0, 1.0, 1.0, 0.0]);
    let mut sr = image(1.3);
    sr[17] = f32::NAN;
    let got = run(tape, &[losses], &sr, &image(1.31));
    assert!(got[0].iter().all(|v| v.is_nan()), "{:?}", got[0]);
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let losses = PixelLosses { max_val: 1.0 };
    assert!(losses.shape(&[SHAPE, Shape([2, 7, 6, 4])]).unwrap_err().contains("differ"));
    assert!(losses.shape(&[Shape([0, 7, 6, 4]); 2]).unwrap_err().contains("no pixels"));
    assert!(PixelLosses { max_val: -1.0 }.shape(&[SHAPE; 2]).unwrap_err().contains("max_val"));
    assert!(PixelLossesGrad.shape(&[SHAPE, SHAPE, Shape::SCALAR]).unwrap_err().contains("vector of 4"));
    let mut tape = Tape::new();
    let hr = tape.input("hr", SHAPE, DType::F32);
    let output = tape.push(losses, &[hr, hr]).unwrap();
    let d = tape.constant(Shape::vector(COMPONENTS), vec![1.0; 4]);
    assert!(tape.gradients(&[(output, d)], &[hr]).unwrap_err().to_string().contains("hr"));
}
