//! Vectors of plain Rust.

use super::Simd;

/// N lanes, P vectors a panel.
#[derive(Clone, Copy)]
pub(crate) struct Plain<const N: usize, const P: usize>;

/// Four lanes: what SSE2 holds in a register.
pub(crate) type Portable = Plain<4, 2>;

/// AVX-512's sizes without its instructions, so that any machine tests what depends on them.
#[cfg(test)]
pub(crate) type Emulated = Plain<16, 4>;

impl<const N: usize, const P: usize> Simd for Plain<N, P> {
    type V = [f32; N];
    const LANES: usize = N;
    const PANEL: usize = P;
    #[inline(always)]
    unsafe fn splat(a: f32) -> Self::V {
        [a; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: N readable floats, by the trait's contract.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: N writable floats, by the trait's contract.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let (mut v, mut half) = (v, N / 2);
        while half > 0 {
            (0..half).for_each(|i| v[i] += v[i + half]);
            half /= 2;
        }
        v[0]
    }
}
