//! Matrix products against plain sums in f64.

use super::*;
use crate::device::cpu::Pool;
use crate::device::cpu::testing::{Collect, DIRECT, assert_close, random, rng, sets, wide};

/// `a` (m rows of k) times the transpose of `b` (n rows of k).
fn product([m, n, k]: [usize; 3], a: &[f64], b: &[f64]) -> Vec<f64> {
    let dot = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[i % n * k + l]).sum();
    (0..m * n).map(dot).collect()
}

/// A B for all four orders of the operands' memory.
#[test]
fn gemm_is_right_in_every_order() {
    let sizes = [
        [1, 1, 1],
        [2, 70, 300],
        [7, 5, 3],
        [33, 49, 2055],
        [100, 20, 9],
        [97, 300, 70],
        [3, 1, 1024],
        [5, 333, 41],
        [41, 333, 5],
    ];
    for (seed, [m, n, k]) in sizes.into_iter().enumerate() {
        let mut r = rng(4000 + seed as u64);
        let (a, b) = (random(&mut r, m * k), random(&mut r, n * k));
        // `b` holds B transposed, as a linear layer's weight does.
        let want = product([m, n, k], &wide(&a), &wide(&b));
        let transpose = |v: &[f32], rows: usize, cols: usize| -> Vec<f32> {
            (0..rows * cols).map(|i| v[i % rows * cols + i / rows]).collect()
        };
        let (a_t, b_t) = (transpose(&a, m, k), transpose(&b, n, k));
        let orders_a = [Matrix::rows(&a, k), Matrix::rows(&a_t, m).transposed()];
        let orders_b = [Matrix::rows(&b, k).transposed(), Matrix::rows(&b_t, n)];
        for isa in sets() {
            for (a, b) in orders_a.iter().flat_map(|a| orders_b.iter().map(move |b| (*a, *b))) {
                let what = format!("{m}x{n}x{k} {isa:?} {a:?} {b:?}");
                let shape = GemmShape { m, n, k };
                let run = |threads| {
                    let pool = Pool::new(threads);
                    let mut scratch = vec![f32::NAN; gemm_scratch_len(&shape, threads)];
                    let sink = Collect::new([1, 1, m, n]);
                    gemm(&Ctx { pool: &pool, isa }, &shape, a, b, &sink, &mut scratch);
                    sink.finish(&what)
                };
                let got = run(1);
                assert_close(&got, &want, DIRECT, &what);
                assert!((2..4).all(|threads| run(threads).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits())));
            }
        }
    }
}
