//! Small examples of the convolution's three passes.

use super::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad, Geometry};
use crate::ops::Case;
use crate::types::Shape;

/// Each geometry in all three.
pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let depthwise = Geometry { stride: 1, pad: 3, dilation: 3, depthwise: true };
    let wide = Geometry { pad: 2, ..depthwise };
    for (g, input, weight, gradient) in [
        (Geometry::same(3), [2, 5, 6, 3], [4, 3, 3, 3], true),
        (Geometry::same(1), [1, 3, 2, 5], [2, 1, 1, 5], true),
        (Geometry { stride: 2, pad: 1, ..Geometry::same(4) }, [2, 6, 7, 2], [3, 4, 4, 2], true),
        (Geometry { stride: 2, ..Geometry::same(3) }, [1, 5, 6, 2], [3, 3, 3, 2], true),
        (depthwise, [2, 6, 5, 3], [3, 3, 3, 1], true),
        // Several blocks of work along every axis.
        (Geometry::same(3), [2, 12, 13, 20], [70, 3, 3, 20], false),
        (Geometry { stride: 2, ..Geometry::same(3) }, [1, 17, 14, 36], [20, 3, 3, 36], false),
        (wide, [1, 20, 21, 36], [36, 5, 5, 1], false),
    ] {
        let (input, weight) = (Shape(input), Shape(weight));
        let output = g.output(input, weight).expect("the case's extents fit");
        let case = |case: Case| if gradient { case } else { case.without_gradient() };
        cases.push(case(Case::new(Conv2d(g), &[input.0, weight.0]).contiguous(&[1])));
        let d_input = Conv2dInputGrad { geometry: g, input };
        cases.push(case(Case::new(d_input, &[output.0, weight.0]).contiguous(&[1])));
        cases.push(case(Case::new(Conv2dWeightGrad { geometry: g, weight }, &[input.0, output.0])));
    }
    cases
}
