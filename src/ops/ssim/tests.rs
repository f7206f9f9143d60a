use super::*;
use crate::ops::Case;
use crate::ops::tests::random;

pub fn cases() -> Vec<Case> {
    let case = |window, max_val, shape| Case::new(Ssim { window, max_val }, &[shape, shape]).without_gradient();
    vec![
        case(11, 1.0, [2, 19, 21, 4]),
        case(7, 0.8, [1, 4, 40, 3]),
        case(4, 1.0, [1, 5, 3, 6]),
        case(1, 1.0, [1, 1, 1, 1]),
        case(11, 1.0, [2, 35, 37, 4]),
        // A window whose outer taps weigh nothing.
        case(41, 1.0, [1, 21, 40, 2]).with_data(alike),
        // Several tiles in a row.
        case(5, 1.0, [1, 18, 20, 201]),
    ]
}

/// Images whose similarity is not near 0, where a mean of both signs would have no digits left.
fn alike(operand: usize, shape: Shape) -> Tensor64 {
    let (base, own) = (random(shape, 90), random(shape, 91 + operand as u64));
    let values = base.data.iter().zip(&own.data).map(|(b, v)| f64::from((0.7 * b.abs() + 0.1 * v) as f32));
    Tensor64::new(shape, values.collect())
}

#[test]
fn equal_images_are_alike_and_unequal_ones_less() {
    let image = Tensor64::from_fn(Shape([1, 12, 9, 2]), |[_, y, x, c]| 0.4 + 0.3 * ((3 * y + x + c) as f64).sin());
    let blurred = Tensor64::new(image.shape, image.data.iter().map(|v| 0.5 * v + 0.2).collect());
    let ssim = Ssim { window: 7, max_val: 1.0 };
    let same = ssim.reference_means(&image, &image)[0];
    assert!((same - 1.0).abs() < 1e-6, "{same}");
    let less = ssim.reference_means(&image, &blurred)[0];
    assert!(less > 0.5 && less < 0.9, "{less}");
}

#[test]
fn images_smaller_than_the_window_are_refused_with_what_to_do() {
    let ssim = Ssim { window: 11, max_val: 1.0 };
    let image = |h, w| [Shape([1, h, w, 3]); 2];
    assert_eq!(ssim.shape(&image(6, 6)), Ok(Shape::SCALAR));
    for (h, w) in [(5, 6), (6, 5)] {
        let error = ssim.shape(&image(h, w)).unwrap_err();
        assert!(error.contains("6 x 6") && error.contains("ssim_win"), "{error}");
    }
    assert!(ssim.shape(&[Shape([1, 8, 8, 3]), Shape([1, 8, 8, 4])]).is_err());
    assert!(Ssim { max_val: 0.0, ..ssim }.shape(&image(8, 8)).unwrap_err().contains("max_val"));
}

#[test]
fn borders_are_reflected_without_repeating_the_edge() {
    let row: Vec<usize> = (0..9).map(|i| reflect(i, 2, 5)).collect();
    assert_eq!(row, [2, 1, 0, 1, 2, 3, 4, 3, 2]);
}
