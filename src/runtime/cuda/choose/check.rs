//! Whether a candidate computes what this program's own kernels compute on the same memory, before it may be the
//! fastest.
//!
//! A wrong candidate is no fault of the user's: a kernel that this GPU has never run, or a library's algorithm with a
//! bug.

use crate::Result;
use crate::device::cuda::driver::{Driver, Work};
use crate::device::cuda::launch::KernelLaunch;
use crate::device::cuda::launch::args::DeviceView;
use crate::runtime::cuda::fill::Region;
use crate::types::{Element, Precision};

/// Elements of a store that are compared at most, and the pieces that they lie in if the store has more: results of
/// large layers have hundreds of MiB. The first and the last element are among them.
const ELEMENTS: usize = 1 << 20;
const PIECES: usize = 16;

/// How often a bound one element may deviate, in units of the results' root mean square. Of 2²⁰ normally distributed
/// errors the largest is about five times their root mean square, and the bounds have room on top; an element that was
/// not written at all deviates by about 1.
const PEAK: f64 = 32.0;

/// What a step touches of memory that nothing needs while its plan is loaded. States and constants are left alone.
pub(in crate::runtime::cuda) struct Touched {
    /// What it reads and writes, scratch memory excepted.
    pub regions: Vec<Region>,
    /// Where its results go.
    pub stores: Vec<DeviceView>,
    /// In which precision its products are computed.
    pub precision: Precision,
}

impl Touched {
    /// Fills the memory with the same values each time: products of sums that neither cancel nor overflow, in every
    /// form that elements have. Steps that compute in place find their operand again.
    pub fn fill(&self) -> Vec<KernelLaunch> {
        self.regions.iter().map(Region::kernel).collect()
    }

    /// What the step's work leaves in its stores, from the same memory each time.
    ///
    /// # Errors
    /// Fails if the work does, or the GPU reports an error.
    ///
    /// # Safety
    /// As for [`Driver::start`]; `fill` is that of [`Touched::fill`].
    pub unsafe fn results(&self, driver: &mut dyn Driver, fill: &[Work], work: &[Work]) -> Result<Results> {
        // SAFETY: the caller's.
        fill.iter().chain(work).try_for_each(|entry| unsafe { driver.start(entry) })?;
        let mut stores = Vec::with_capacity(self.stores.len());
        for store in &self.stores {
            let mut values = Vec::new();
            for (first, count) in pieces(span(store)) {
                let size = store.element.size();
                let mut bytes = vec![0; count * size];
                // SAFETY: the piece lies in the store, which the caller promises.
                unsafe { driver.download(&mut bytes, store.ptr.offset_by(first * size))? };
                values.extend(decoded(&bytes, store.element));
            }
            stores.push(values);
        }
        Ok(Results(stores))
    }

    /// How far other results are from those of the own kernel, in units of what rounding explains.
    pub fn distance(&self, own: &Results, other: &Results) -> Distance {
        let all = self.stores.iter().zip(own.0.iter().zip(&other.0));
        let distances = all.map(|(store, (own, other))| {
            let bound = bound(self.precision, store.element);
            Distance { relative: relative(store, own, other), bound }
        });
        let first = Distance { relative: 0.0, bound: 1.0 };
        distances.fold(first, |most, next| if next.excess() > most.excess() { next } else { most })
    }
}

/// What the compared elements of each store are.
pub(in crate::runtime::cuda) struct Results(Vec<Vec<f32>>);

impl Results {
    /// Whether all values are the same to the bit.
    pub fn has_bits_of(&self, other: &Results) -> bool {
        let bits =
            |results: &Results| -> Vec<u32> { results.0.iter().flatten().map(|value| value.to_bits()).collect() };
        bits(self) == bits(other)
    }
}

/// How far results are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::runtime::cuda) struct Distance {
    /// The L2 norm of the difference over that of the own results, or what one element deviates, if that says more.
    pub relative: f64,
    /// What rounding explains.
    pub bound: f64,
}

impl Distance {
    fn excess(&self) -> f64 {
        self.relative / self.bound
    }

    /// Whether the other results are wrong.
    pub fn is_wrong(&self) -> bool {
        self.relative.is_nan() || self.relative > self.bound
    }
}

/// The relative L2 distance that rounding explains, on operands of random signs.
///
/// Sums in f32: with K terms, added one after the other, the distance of two orders is about √(K/2) · 2⁻²⁴, 5e-5 for
/// the million pixels of a weight gradient; Winograd's and Fourier's methods stay below that too. 2⁻¹³ = 1.2e-4 is
/// still less than what factors rounded to tf32 would cost where f32 was asked for, 3e-4.
///
/// Factors in tf32: each is rounded, or cut off as some libraries do, to 11 bits: up to 2⁻¹⁰ for a product of two.
/// Products of bf16 are exact, but matrix units cut off sums at every step, which adds up over the terms of a weight
/// gradient. 2⁻⁸ is four times the former. A kernel that leaves out one of K terms is 1/√K away: 2⁻⁸ finds one of 65
/// 536.
///
/// Stores in bf16: rounding to 8 bits costs 1.5e-3 (2⁻⁸/√3 of the power of two below a value), and a library's result
/// is rounded once more before what follows. 2⁻⁷ is five times the former.
fn bound(precision: Precision, element: Element) -> f64 {
    let products = match precision {
        Precision::F32 => 2f64.powi(-13),
        Precision::Tf32 | Precision::Bf16 => 2f64.powi(-8),
    };
    match element {
        Element::F32 => products,
        Element::Bf16 => products + 2f64.powi(-7),
    }
}

/// Elements from a store's first to one past its last.
fn span(store: &DeviceView) -> usize {
    if store.shape.is_empty() { 0 } else { (store.shape.pixels() - 1) * store.stride + store.shape.c() }
}

/// First element and number of the pieces of a span that are compared.
fn pieces(span: usize) -> Vec<(usize, usize)> {
    if span <= ELEMENTS {
        return vec![(0, span)];
    }
    let count = ELEMENTS / PIECES;
    (0..PIECES).map(|i| ((span - count) * i / (PIECES - 1), count)).collect()
}

fn decoded(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Element::Bf16 => bytes.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
    }
}

/// The distance of two stores. Elements between the channels of a slice belong to others, and are the same in both
/// unless one has written there. Where the own result is not finite, nothing can be said; elsewhere the other one must
/// be.
fn relative(store: &DeviceView, own: &[f32], other: &[f32]) -> f64 {
    let channels = if store.shape.pixels() == 1 { usize::MAX } else { store.shape.c() };
    let places = pieces(span(store)).into_iter().flat_map(|(first, count)| first..first + count);
    let (mut norm, mut apart, mut count, mut most) = (0.0, 0.0, 0usize, 0f64);
    for ((own, other), at) in own.iter().zip(other).zip(places).filter(|((own, _), _)| own.is_finite()) {
        let difference = f64::from(*own) - f64::from(*other);
        if !difference.is_finite() {
            return f64::INFINITY;
        }
        most = most.max(difference.abs());
        if at % store.stride < channels {
            norm += f64::from(*own).powi(2);
            apart += difference.powi(2);
            count += 1;
        }
    }
    if most == 0.0 {
        return 0.0;
    }
    let rms = (norm / count.max(1) as f64).sqrt();
    (apart / norm).sqrt().max(most / rms / PEAK)
}

/// What the user is told about a wrong candidate.
pub(in crate::runtime::cuda) fn warning(algorithm: &str, path: &str, signature: &str, distance: Distance) -> String {
    let Distance { relative, bound } = distance;
    let how = if relative.is_finite() {
        format!("is {relative:.1e} away from that of this program's own kernel, of which rounding explains {bound:.1e}")
    } else {
        "is not finite where that of this program's own kernel is".to_owned()
    };
    format!("{algorithm} is not used for {path} ({signature}) and steps like it: its result {how}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::driver::DevicePtr;
    use crate::types::Shape;

    fn store(shape: Shape, stride: usize, element: Element) -> DeviceView {
        DeviceView { ptr: DevicePtr(256), shape, stride, element }
    }

    /// Values of either sign from 1/2 to 2.
    fn values(count: usize) -> Vec<f32> {
        let value =
            |i: usize| (0.5 + 1.5 * ((i * 7919) % 1000) as f32 / 1000.0) * if i.is_multiple_of(3) { -1.0 } else { 1.0 };
        (0..count).map(value).collect()
    }

    fn distance(precision: Precision, store: DeviceView, own: &[f32], other: &[f32]) -> Distance {
        let touched = Touched { regions: vec![], stores: vec![store], precision };
        touched.distance(&Results(vec![own.to_vec()]), &Results(vec![other.to_vec()]))
    }

    #[test]
    fn rounding_passes_and_errors_do_not() {
        let shape = Shape([1, 1, 1000, 8]);
        let own = values(shape.len());
        let off =
            |by: f32| own.iter().enumerate().map(|(i, v)| v * (1.0 + by * [1.0, -1.0][i % 2])).collect::<Vec<_>>();
        for (precision, element, fine, wrong) in [
            (Precision::F32, Element::F32, 5e-5, 3e-4),
            (Precision::Tf32, Element::F32, 1e-3, 5e-3),
            (Precision::Bf16, Element::F32, 1e-3, 5e-3),
            (Precision::Bf16, Element::Bf16, 5e-3, 2e-2),
        ] {
            let of = |by| distance(precision, store(shape, 8, element), &own, &off(by)).is_wrong();
            assert!(!of(0.0) && !of(fine) && of(wrong), "{precision} {element:?}");
        }
    }

    /// One element of so many that the norm of the difference says nothing.
    #[test]
    fn a_single_wrong_element_is_found() {
        let shape = Shape([1, 256, 256, 16]);
        let own = values(shape.len());
        let with = |at: usize, value: f32| {
            let mut other = own.clone();
            other[at] = value;
            distance(Precision::Bf16, store(shape, 16, Element::Bf16), &own, &other).is_wrong()
        };
        let last = own.len() - 1;
        assert!(!with(last, own[last]));
        assert!(with(last, -own[last]) && with(0, 0.0) && with(5, f32::NAN) && with(6, f32::INFINITY));
    }

    #[test]
    fn what_lies_between_channels_must_stay() {
        let (slice, span) = (store(Shape([1, 1, 100, 4]), 16, Element::F32), 99 * 16 + 4);
        let own = values(span);
        let mut other = own.clone();
        other[16 + 4] += 1.0;
        assert!(distance(Precision::F32, slice, &own, &other).is_wrong());
        // Where the own result says nothing, nothing is said.
        let mut own = own;
        own[16 + 4] = f32::NAN;
        assert!(!distance(Precision::F32, slice, &own, &other).is_wrong());
        // All zeros are right only where the own result is.
        let (zeros, one) = (vec![0.0; span], [vec![0.0; span - 1], vec![1.0]].concat());
        assert!(!distance(Precision::F32, slice, &zeros, &zeros).is_wrong());
        assert!(distance(Precision::F32, slice, &zeros, &one).is_wrong());
    }

    #[test]
    fn large_stores_are_compared_in_pieces_from_the_first_element_to_the_last() {
        assert_eq!(pieces(0), [(0, 0)]);
        assert_eq!(pieces(ELEMENTS), [(0, ELEMENTS)]);
        for span in [ELEMENTS + 1, 3 * ELEMENTS + 5, 1 << 33] {
            let all = pieces(span);
            assert_eq!((all.len(), all[0].0), (PIECES, 0));
            assert_eq!(all.last().map(|(first, count)| first + count), Some(span));
            assert_eq!(all.iter().map(|p| p.1).sum::<usize>(), ELEMENTS);
        }
    }
}
