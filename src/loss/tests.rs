use std::collections::HashMap;

use super::*;
use crate::config::{Config, Losses};
use crate::graph::{Tape, Tensor64, Value};
use crate::metrics::Metric;
use crate::ops::conv2d::{Conv2d, Geometry};
use crate::ops::leaky_relu::LeakyRelu;
use crate::types::{DType, Shape};

type Given = HashMap<String, Tensor64>;

fn tensor(shape: Shape, f: impl Fn(f64) -> f64) -> Tensor64 {
    Tensor64::new(shape, (0..shape.len()).map(|i| f64::from(f(i as f64) as f32)).collect())
}

/// The values of `outputs`, each as its elements.
fn evaluate(tape: &Tape, given: &Given, outputs: &[Value]) -> Vec<Vec<f64>> {
    let values = tape.evaluate_f64(given).unwrap();
    outputs.iter().map(|v| tape.value_of(&values, *v).data.clone()).collect()
}

fn assert_near(got: f64, want: f64, what: &str) {
    // Targets such as 0.9 are f32 on the tape.
    assert!((got - want).abs() <= 3e-7 * want.abs().max(0.1), "{what}: {got} for {want}");
}

/// Logits 2 sin(1.3 i) of HR and 2 cos(0.7 i) of SR.
fn logits(tape: &mut Tape) -> (Value, Value, Given) {
    let shape = Shape([2, 2, 2, 1]);
    let (real, fake) = (tape.input("real", shape, DType::F32), tape.input("fake", shape, DType::F32));
    let given = [
        ("real".to_owned(), tensor(shape, |i| 2.0 * (1.3 * i).sin())),
        ("fake".to_owned(), tensor(shape, |i| 2.0 * (0.7 * i).cos())),
    ];
    (real, fake, given.into())
}

#[test]
fn adversarial_losses_and_their_gradients_are_those_of_torch() {
    // torch, float64, target 0.9: D's loss, G's loss, ∂D/∂real[1], ∂D/∂fake[2], ∂G/∂fake[3].
    let torch = [
        (
            Adversarial::Bce,
            [0.7837970470246705, 1.00570326154712, -0.001691880959277324, 0.03651091006063768, -0.09161998830154966],
        ),
        (
            Adversarial::RelativisticBce { over_ranks: false },
            [1.3545827406777948, 1.1981442235104245, -0.050975360269501696, 0.0984277450300316, -0.08780493318567273],
        ),
        (Adversarial::Wasserstein, [-0.5482661612331867, 0.18811605498194695, -0.125, 0.125, -0.125]),
    ];
    for (kind, want) in torch {
        let mut tape = Tape::new();
        let (real, fake, given) = logits(&mut tape);
        let d = discriminator_loss(&mut tape, kind, real, fake, 0.9).unwrap();
        let g = generator_loss(&mut tape, kind, fake, Some(real)).unwrap();
        let one = tape.scalar(1.0);
        let d_grads = tape.gradients(&[(d, one)], &[real, fake]).unwrap();
        let g_grad = tape.gradients(&[(g, one)], &[fake]).unwrap()[0].unwrap();
        let got = evaluate(&tape, &given, &[d, g, d_grads[0].unwrap(), d_grads[1].unwrap(), g_grad]);
        let got = [got[0][0], got[1][0], got[2][1], got[3][2], got[4][3]];
        for (got, want) in got.into_iter().zip(want) {
            assert_near(got, want, &format!("{kind:?}"));
        }
    }
}

#[test]
fn probabilities_are_plain_and_relative_means_of_sigmoids() {
    let want = [0.5748077865827914, 0.4605042478558973, 0.6075242576742739, 0.4001777826518226];
    for (kind, count) in
        [(Adversarial::Bce, 2), (Adversarial::RelativisticBce { over_ranks: false }, 4), (Adversarial::Wasserstein, 2)]
    {
        let mut tape = Tape::new();
        let (real, fake, given) = logits(&mut tape);
        let found = probabilities(&mut tape, kind, real, fake).unwrap();
        assert_eq!(found.len(), count);
        let values: Vec<Value> = found.iter().map(|f| f.1).collect();
        for ((got, want), (metric, _)) in evaluate(&tape, &given, &values).iter().zip(want).zip(&found) {
            assert_near(got[0], want, metric.name());
        }
    }
}

#[test]
fn the_relativistic_loss_needs_both_sides() {
    let mut tape = Tape::new();
    let (_, fake, _) = logits(&mut tape);
    assert!(generator_loss(&mut tape, Adversarial::RelativisticBce { over_ranks: false }, fake, None).is_err());
    assert!(generator_loss(&mut tape, Adversarial::Bce, fake, None).is_ok());
}

/// A small discriminator on an image, and the R1 penalty of its logits.
fn penalised(gamma: f32) -> (Tape, Value, Value, Value, Given) {
    let (image, first, second) = (Shape([2, 4, 5, 3]), Shape([4, 3, 3, 3]), Shape([1, 3, 3, 4]));
    let mut tape = Tape::new();
    let y = tape.input("y", image, DType::F32);
    let (w1, w2) = (tape.input("w1", first, DType::F32), tape.input("w2", second, DType::F32));
    let hidden = tape.push(Conv2d(Geometry::same(3)), &[y, w1]).unwrap();
    let hidden = tape.push(LeakyRelu { slope: 0.2 }, &[hidden]).unwrap();
    let logits = tape.push(Conv2d(Geometry::same(3)), &[hidden, w2]).unwrap();
    let penalty = r1_penalty(&mut tape, logits, y, gamma).unwrap();
    let given = [
        ("y".to_owned(), tensor(image, |i| 0.5 + 0.4 * (1.7 * i).sin())),
        ("w1".to_owned(), tensor(first, |i| 0.2 + 0.5 * (0.9 * i + 0.4).sin())),
        ("w2".to_owned(), tensor(second, |i| 0.1 + 0.5 * (2.3 * i).cos())),
    ];
    (tape, logits, penalty, w1, given.into())
}

/// Central differences of `f` by every element of `name`.
fn differences(given: &Given, name: &str, f: impl Fn(&Given) -> f64) -> Vec<f64> {
    let (h, len) = (1e-5, given[name].data.len());
    let moved = |i: usize, by: f64| {
        let mut moved = given.clone();
        moved.get_mut(name).unwrap().data[i] += by;
        f(&moved)
    };
    (0..len).map(|i| (moved(i, h) - moved(i, -h)) / (2.0 * h)).collect()
}

#[test]
fn the_r1_penalty_and_its_gradient_are_those_of_finite_differences() {
    let (mut tape, logits, penalty, w1, given) = penalised(1.5);
    let sum = differences(&given, "y", |g| evaluate(&tape, g, &[logits])[0].iter().sum());
    let want = 0.5 * 1.5 / 2.0 * sum.iter().map(|d| d * d).sum::<f64>();
    assert!(want > 0.1);
    assert_near(evaluate(&tape, &given, &[penalty])[0][0], want, "penalty");

    let one = tape.scalar(1.0);
    let grad = tape.gradients(&[(penalty, one)], &[w1]).unwrap()[0].unwrap();
    let want = differences(&given, "w1", |g| evaluate(&tape, g, &[penalty])[0][0]);
    for (got, want) in evaluate(&tape, &given, &[grad])[0].iter().zip(want) {
        assert_near(*got, want, "gradient");
    }
}

#[test]
fn a_penalty_on_the_wrong_image_is_refused() {
    let (mut tape, logits, ..) = penalised(1.0);
    let other = tape.input("other", Shape([2, 4, 5, 3]), DType::F32);
    assert!(r1_penalty(&mut tape, logits, other, 1.0).is_err());
}

const SHAPE: Shape = Shape([1, 8, 9, 4]);

/// Weights of l1, sam and tv alone.
fn weights(l1: f64, sam: f64, tv: f64) -> Losses {
    let cfg = Config::default().training.losses;
    Losses { l1_weight: l1, sam_weight: sam, perceptual_weight: 0.0, tv_weight: tv, max_val: 1.0, ssim_win: 5, ..cfg }
}

/// Content loss, l1, sam, tv, psnr and ssim with `weights`, and the gradient by SR; the images are equal if `equal`.
fn content_of(weights: &Losses, equal: bool) -> (Vec<Vec<f64>>, Option<Vec<f64>>) {
    let mut tape = Tape::new();
    let (sr, hr) = (tape.input("sr", SHAPE, DType::F32), tape.input("hr", SHAPE, DType::F32));
    let terms = content(&mut tape, &Images { sr, hr, perceptual: None }, weights).unwrap();
    let one = tape.scalar(1.0);
    let grad = tape.gradients(&[(terms.total, one)], &[sr]).unwrap()[0];
    let image = |k: f64| tensor(SHAPE, |i| 0.5 + 0.4 * (k * i).sin());
    let given = [("sr".to_owned(), image(1.7)), ("hr".to_owned(), image(if equal { 1.7 } else { 1.6 }))].into();
    let metrics = [Metric::TrainL1, Metric::TrainSam, Metric::TrainTv, Metric::TrainPsnr, Metric::TrainSsim];
    let wanted: Vec<Value> = [terms.total].into_iter().chain(metrics.map(|m| terms.get(m).unwrap())).collect();
    let values = evaluate(&tape, &given, &wanted);
    (values, grad.map(|g| evaluate(&tape, &given, &[g]).remove(0)))
}

#[test]
fn content_is_the_weighted_sum_and_terms_of_weight_zero_are_metrics_only() {
    let (v, all) = content_of(&weights(1.0, 0.5, 0.25), false);
    assert_near(v[0][0], v[1][0] + 0.5 * v[2][0] + 0.25 * v[3][0], "total");
    let parts = [(1.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.25)].map(|(l1, sam, tv)| {
        let (alone, grad) = content_of(&weights(l1, sam, tv), false);
        assert_eq!(alone[1..], v[1..], "metrics do not depend on weights");
        grad.unwrap()
    });
    for (i, sum) in all.unwrap().iter().enumerate() {
        assert_near(*sum, parts.iter().map(|p| p[i]).sum(), "gradient");
    }
}

#[test]
fn without_weights_there_is_no_loss_and_no_gradient() {
    let (v, grad) = content_of(&weights(0.0, 0.0, 0.0), false);
    assert_eq!((v[0][0], grad), (0.0, None));
}

#[test]
fn an_infinite_psnr_does_not_reach_the_total() {
    let (v, grad) = content_of(&weights(1.0, 0.0, 0.0), true);
    assert_eq!((v[0][0], v[4][0]), (0.0, f64::INFINITY));
    assert!(grad.unwrap().iter().all(|g| *g == 0.0));
}
