//! Weight tables of bicubic resizing along one axis, as PyTorch's `interpolate(mode="bicubic",
//! align_corners=False)`: Keys' cubic convolution (IEEE ASSP 29, 1981), a = -0.75 at the four nearest
//! samples; with antialiasing a = -0.5 and the kernel stretched by the reduction factor (as Pillow does).
//! The ops that resize images apply such a table to rows and to columns.

/// Weights of a resize along one axis: output `i` is the sum over `t < taps` of
/// `weights[i * taps + t] * input[start[i] + t]`. Every window lies inside the input.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeTaps {
    /// Weights per output.
    pub taps: usize,
    /// First input of each output's window.
    pub start: Vec<usize>,
    /// Weights, `start.len() * taps`; each output's sum to 1 up to rounding.
    pub weights: Vec<f32>,
}

/// The weights that resize `in_len` samples to `out_len`, both > 0.
///
/// Without `antialias` samples beyond the border repeat the border; with it the kernel is cut off there and
/// normalised again.
pub fn resize_taps(in_len: usize, out_len: usize, antialias: bool) -> ResizeTaps {
    let scale = in_len as f32 / out_len as f32;
    let windows: Vec<(usize, Vec<f32>)> = (0..out_len)
        .map(|i| if antialias { antialiased(i, scale, in_len) } else { interpolated(i, scale, in_len) })
        .collect();
    let taps = windows.iter().map(|(_, w)| w.len()).max().unwrap_or(0);
    let mut table = ResizeTaps { taps, start: Vec::with_capacity(out_len), weights: vec![0.0; out_len * taps] };
    for (row, (first, weights)) in table.weights.chunks_exact_mut(taps.max(1)).zip(&windows) {
        // A window shorter than the others is moved left where it would leave the input; zeros fill it.
        let start = (*first).min(in_len - taps);
        row[first - start..][..weights.len()].copy_from_slice(weights);
        table.start.push(start);
    }
    table
}

/// The four nearest samples; the weights of those beyond a border are added to the border's.
fn interpolated(i: usize, scale: f32, in_len: usize) -> (usize, Vec<f32>) {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let position = scale * (i as f32 + 0.5) - 0.5;
    let left = position.floor();
    let t = (position - left).clamp(0.0, 1.0);
    let clamped = |offset: isize| (left as isize + offset).clamp(0, in_len as isize - 1) as usize;
    let (first, last) = (clamped(-1), clamped(2));
    let mut weights = vec![0.0; last - first + 1];
    for (offset, weight) in (-1..).zip([far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]) {
        weights[clamped(offset) - first] += weight;
    }
    (first, weights)
}

/// Every sample under the kernel stretched by `scale` (not under 1).
fn antialiased(i: usize, scale: f32, in_len: usize) -> (usize, Vec<f32>) {
    const A: f32 = -0.5;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let center = scale * (i as f32 + 0.5);
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(in_len);
    let kernel = |x: f32| match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    };
    let mut weights: Vec<f32> = (first..end).map(|j| kernel((j as f32 - center + 0.5) * (1.0 / stretch))).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= total);
    (first, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        r#in: usize,
        out: usize,
        antialias: bool,
        weights: Vec<Vec<f32>>,
    }

    /// Against PyTorch's own weights: reductions by 2, 4 and 8, odd sizes, enlargements.
    #[test]
    fn weights_are_those_of_pytorch() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/bicubic_weights.json")).unwrap();
        assert_eq!(cases.len(), 20);
        for case in cases {
            let table = resize_taps(case.r#in, case.out, case.antialias);
            let name = format!("{} -> {}, antialias {}", case.r#in, case.out, case.antialias);
            assert_eq!((table.start.len(), table.weights.len()), (case.out, case.out * table.taps), "{name}");
            for (i, want) in case.weights.iter().enumerate() {
                let mut got = vec![0.0; case.r#in];
                got[table.start[i]..][..table.taps].copy_from_slice(&table.weights[i * table.taps..][..table.taps]);
                for (g, w) in got.iter().zip(want) {
                    assert!((g - w).abs() <= 5e-7, "{name}, output {i}: {got:?}, PyTorch {want:?}");
                }
            }
        }
    }

    #[test]
    fn windows_lie_inside_and_weights_sum_to_one() {
        for (in_len, out_len) in [(1, 1), (1, 4), (2, 3), (37, 5), (300, 75), (5, 40)] {
            for antialias in [false, true] {
                let table = resize_taps(in_len, out_len, antialias);
                assert!(table.start.iter().all(|s| s + table.taps <= in_len));
                for weights in table.weights.chunks_exact(table.taps) {
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{in_len} -> {out_len} {antialias}");
                }
            }
        }
    }
}
