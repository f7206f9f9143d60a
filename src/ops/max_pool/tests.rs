use super::*;
use crate::ops::Case;
use crate::ops::tests::devices;
use crate::plan::{Plan, PlanOptions, Program};
use crate::types::DType;

pub fn cases() -> Vec<Case> {
    let pool = |size, stride| MaxPool { size, stride };
    let grad = |size, stride, d_output, input| {
        Case::new(MaxPoolGrad { pool: pool(size, stride) }, &[d_output, input]).without_gradient()
    };
    vec![
        Case::new(pool(2, 2), &[[2, 4, 6, 3]]).with_data(all_different),
        Case::new(pool(3, 2), &[[2, 7, 5, 4]]).with_data(all_different),
        Case::new(pool(2, 3), &[[1, 6, 9, 2]]).with_data(all_different),
        Case::new(pool(3, 1), &[[1, 3, 5, 1]]).with_data(all_different),
        Case::new(pool(1, 1), &[[1, 2, 3, 5]]).with_data(all_different),
        Case::new(pool(2, 2), &[[2, 41, 18, 64]]).without_gradient(),
        Case::new(pool(3, 2), &[[1, 13, 14, 70]]).with_data(often_equal).without_gradient(),
        grad(2, 2, [2, 2, 3, 3], [2, 4, 6, 3]).with_data(all_different),
        grad(2, 2, [2, 2, 3, 20], [2, 5, 7, 20]).with_data(often_equal),
        grad(2, 3, [1, 2, 3, 2], [1, 6, 9, 2]).with_data(often_equal),
        // Several items of rows with windows that cover rows of two.
        grad(3, 2, [1, 22, 8, 36], [1, 45, 18, 36]).with_data(often_equal),
        grad(3, 2, [2, 2, 2, 70], [2, 6, 5, 70]),
        grad(4, 1, [1, 20, 37, 40], [1, 23, 40, 40]).with_data(often_equal),
    ]
}

/// Numbers that are farther apart than a difference quotient's step.
fn all_different(_operand: usize, shape: Shape) -> Tensor64 {
    let len = shape.len();
    let data = (0..len).map(|i| f64::from((i * 7919 % len) as f32 / len as f32 - 0.5));
    Tensor64::new(shape, data.collect())
}

/// Whole numbers of which there are so few that most windows have several maxima.
fn often_equal(operand: usize, shape: Shape) -> Tensor64 {
    let data = (0..shape.len()).map(|i| (2.0 * ((1.3 + operand as f64) * i as f64).sin()).round());
    Tensor64::new(shape, data.collect())
}

/// The maxima of `x` and the gradient of ⟨maxima, 1, 2, 3, …⟩ on every device.
fn maxima_and_gradients(pool: MaxPool, shape: Shape, x: &[f32]) -> Vec<[Vec<f32>; 2]> {
    let run = |mut device: Box<dyn crate::runtime::Device>| {
        let mut tape = Tape::new();
        let input = tape.input("x", shape, DType::F32);
        let maxima = tape.push(pool, &[input]).unwrap();
        let pooled = tape.shape(maxima);
        let d_output = tape.constant(pooled, (1..=pooled.len()).map(|i| i as f32).collect());
        let grad = tape.gradients(&[(maxima, d_output)], &[input]).unwrap()[0].unwrap();
        let outputs = vec![("maxima".into(), maxima), ("grad".into(), grad)];
        let program = Program { name: "max_pool", tape, outputs, checks: vec![], commits: vec![] };
        let id = device.load(Plan::compile(&program, PlanOptions::new(device.target())).unwrap()).unwrap();
        device.upload(id, "x", bytemuck::cast_slice(x)).unwrap();
        device.poison().unwrap();
        device.run(id).unwrap().outputs.try_into().unwrap()
    };
    devices().into_iter().map(run).collect()
}

#[test]
fn equal_maxima_and_borders_are_treated_as_in_torch() {
    // torch.nn.functional.max_pool2d of round(2 sin(1.3 i)) over N,H,W,C, and what its backward makes of 1, 2, 3, …
    let maxima = [1., 2., 2., 1., 2., 2., 2., 2.];
    let mut grad = [0.; 40];
    for (i, v) in [(1, 2.), (2, 1.), (6, 3.), (7, 4.), (16, 5.), (20, 7.), (21, 8.), (25, 6.)] {
        grad[i] = v;
    }
    let overlapping = [2.; 12];
    let mut overlapping_grad = [0.; 70];
    let sums = [(1, 2.), (6, 3.), (11, 6.), (16, 1.), (21, 4.), (30, 7.), (35, 10.), (40, 16.), (45, 8.), (50, 9.)];
    for (i, v) in sums.into_iter().chain([(69, 12.)]) {
        overlapping_grad[i] = v;
    }
    let image = |shape: Shape| often_equal(0, shape).data.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let plain = Shape([1, 5, 4, 2]);
    for [got, got_grad] in maxima_and_gradients(MaxPool { size: 2, stride: 2 }, plain, &image(plain)) {
        assert_eq!((got, got_grad), (maxima.to_vec(), grad.to_vec()));
    }
    let wide = Shape([1, 5, 7, 2]);
    for [got, got_grad] in maxima_and_gradients(MaxPool { size: 3, stride: 2 }, wide, &image(wide)) {
        assert_eq!((got, got_grad), (overlapping.to_vec(), overlapping_grad.to_vec()));
    }
}

#[test]
fn what_is_not_a_number_is_a_maximum_as_in_torch() {
    const NAN: f32 = f32::NAN;
    const LOW: f32 = f32::NEG_INFINITY;
    let x = [[1., NAN, 0., 3.], [NAN, 2., 5., 5.], [LOW; 4], [LOW; 4]].concat();
    // The same in torch: of several NaN of a window it takes the last.
    let want = [
        (2, 2, [NAN, 5., LOW, LOW], [(4, 1.), (6, 2.), (8, 3.), (10, 4.)].to_vec()),
        (3, 1, [NAN, NAN, NAN, 5.], [(1, 2.), (4, 4.), (6, 4.)].to_vec()),
    ];
    for (size, stride, maxima, sums) in want {
        let mut grad = [0.; 16];
        sums.into_iter().for_each(|(i, v)| grad[i] = v);
        for [got, got_grad] in maxima_and_gradients(MaxPool { size, stride }, Shape([1, 4, 4, 1]), &x) {
            let same = got.iter().zip(maxima).all(|(a, b)| *a == b || a.is_nan() && b.is_nan());
            assert!(same && got.len() == 4, "{got:?} for {maxima:?}");
            assert_eq!(got_grad, grad, "windows of {size}");
        }
    }
}

#[test]
fn the_windows_that_cover_rows_are_those_that_have_one_of_them() {
    for (size, stride) in (1..6).flat_map(|size| (1..6).map(move |stride| (size, stride))) {
        let (pool, windows) = (MaxPool { size, stride }, 4);
        let len = size + (windows - 1) * stride + 3;
        for (start, end) in (0..len).flat_map(|start| (start + 1..=len).map(move |end| (start, end))) {
            let has = |i: &usize| i * stride < end && i * stride + size > start;
            let want: Vec<usize> = (0..windows).filter(has).collect();
            let got: Vec<usize> = pool.covering(start..end, windows).collect();
            assert_eq!(got, want, "{pool:?}, {start}..{end}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = MaxPool { size: 3, stride: 2 };
    assert_eq!(pool.shape(&[Shape([1, 3, 4, 2])]), Ok(Shape([1, 1, 1, 2])));
    for shape in [[1, 2, 8, 2], [1, 8, 2, 2]] {
        assert!(pool.shape(&[Shape(shape)]).unwrap_err().contains("at least 3x3 pixels"));
    }
    for empty in [MaxPool { size: 0, stride: 2 }, MaxPool { size: 3, stride: 0 }] {
        assert!(empty.shape(&[Shape([1, 8, 8, 2])]).unwrap_err().contains("no maxima"));
    }
    let grad = MaxPoolGrad { pool };
    let input = Shape([1, 7, 8, 2]);
    assert_eq!(grad.shape(&[Shape([1, 3, 3, 2]), input]), Ok(input));
    assert!(grad.shape(&[Shape([1, 3, 4, 2]), input]).unwrap_err().contains("1x3x3x2"));
    assert!(grad.shape(&[Shape([1, 3, 4, 2]), Shape([1, 2, 2, 2])]).unwrap_err().contains("at least"));
}
