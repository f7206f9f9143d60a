//! What the tests of CPU kernels share: random operands, a comparator, and a sink that checks its tiles.

use std::sync::Mutex;

use super::{Tile, TileSink};
use crate::rng::{Rng, Stream};

/// Allowed relative L2 error of direct sums in f32.
pub(crate) const DIRECT: f64 = 1e-6;

/// Random numbers of a case.
pub(crate) fn rng(case: u64) -> Rng {
    Rng::new(11, Stream::Init, case, 0)
}

/// Normally distributed values.
pub(crate) fn random(rng: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.normal()).collect()
}

/// The same in f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Relative L2 distance; NaN where any value is NaN.
pub(crate) fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    if error == 0.0 { 0.0 } else { (error / size).sqrt() }
}

/// Fails for NaN too.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], bound: f64, what: &str) {
    let distance = distance(got, want);
    assert!(distance <= bound, "{what}: relative error {distance:e}, allowed {bound:e}");
}

#[test]
#[should_panic(expected = "relative error NaN")]
fn the_comparator_fails_on_nan() {
    assert_close(&[1.0, f32::NAN], &[1.0, 1.0], 1.0, "a NaN");
}

/// Collects tiles and counts how often each element is stored.
pub(crate) struct Collect {
    sizes: [usize; 4],
    values: Mutex<(Vec<f32>, Vec<u8>)>,
}

impl Collect {
    pub fn new(sizes: [usize; 4]) -> Collect {
        let len = sizes.iter().product();
        Collect { sizes, values: Mutex::new((vec![f32::NAN; len], vec![0; len])) }
    }

    pub fn finish(self, what: &str) -> Vec<f32> {
        let (values, counts) = self.values.into_inner().unwrap();
        assert!(counts.iter().all(|&c| c == 1), "{what}: an element was not stored exactly once");
        values
    }
}

impl TileSink for Collect {
    fn store(&self, tile: &Tile) {
        let [n, h, w, c] = self.sizes;
        assert!(tile.n < n && tile.y < h && tile.x0 + tile.pixels <= w && tile.c0 + tile.channels <= c);
        assert!(tile.row_stride >= tile.channels);
        let (values, counts) = &mut *self.values.lock().unwrap();
        for i in 0..tile.pixels {
            let at = ((tile.n * h + tile.y) * w + tile.x0 + i) * c + tile.c0;
            // SAFETY: inside `store`.
            let from = unsafe { tile.pixel(i) };
            values[at..][..tile.channels].copy_from_slice(from);
            counts[at..][..tile.channels].iter_mut().for_each(|c| *c += 1);
            // The tile belongs to the sink: whatever it leaves there must not matter.
            from.fill(f32::NAN);
        }
    }
}
