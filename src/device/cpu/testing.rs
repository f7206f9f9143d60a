//! What the tests of CPU kernels share: random operands, a comparator, and a sink that checks its tiles.

use std::sync::Mutex;

use super::{Isa, IsaKind, Tile, TileSink};
use crate::rng::{Rng, Stream};

/// Allowed relative L2 error of direct sums in f32.
pub(crate) const DIRECT: f64 = 1e-6;

/// Whether the tests run under a memory checker, which takes 20 to 100 times as long: tests/memcheck.sh says so.
pub(crate) fn is_memcheck() -> bool {
    std::env::var_os("SRGAN_MEMCHECK").is_some()
}

/// All cases; under a memory checker the first one of each kind.
pub(crate) fn of_each_kind<T: Copy>(kinds: &[&[T]]) -> Vec<T> {
    let each = if is_memcheck() { 1 } else { usize::MAX };
    let cases: Vec<T> = kinds.iter().flat_map(|kind| kind.iter().take(each)).copied().collect();
    assert!(cases.len() >= kinds.len(), "a kind without cases");
    cases
}

/// The instruction sets to test; under a memory checker only those that are used.
pub(crate) fn sets() -> impl Iterator<Item = Isa> {
    Isa::all().filter(|isa| !is_memcheck() || isa.kind() != IsaKind::Emulated)
}

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
    unsafe fn store(&self, mut tile: Tile) {
        let ([n, h, w, c], place) = (self.sizes, tile.place());
        assert!(place.n < n && place.y < h && place.x0 + place.pixels <= w && place.c0 + place.channels <= c);
        let (values, counts) = &mut *self.values.lock().unwrap();
        for i in 0..place.pixels {
            let at = ((place.n * h + place.y) * w + place.x0 + i) * c + place.c0;
            let from = tile.pixel_mut(i);
            values[at..][..place.channels].copy_from_slice(from);
            counts[at..][..place.channels].iter_mut().for_each(|c| *c += 1);
            // The tile belongs to the sink: whatever it leaves there must not matter.
            from.fill(f32::NAN);
        }
    }
}
