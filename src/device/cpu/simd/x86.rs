//! Vectors of x86-64.

use std::arch::x86_64::*;

use super::simd_set;

/// Eight lanes of AVX2 with FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

simd_set! {
    Avx2: [__m256; 8], 2 vectors a panel;
    fn splat(a: f32) -> __m256 { _mm256_set1_ps(a) }
    fn load(p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
    fn store(p: *mut f32, v: __m256) { _mm256_storeu_ps(p, v) }
    fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
    fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
    fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
    fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
    fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fnmadd_ps(a, b, c) }
    fn sum(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// Sixteen lanes of AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

simd_set! {
    Avx512: [__m512; 16], 4 vectors a panel;
    fn splat(a: f32) -> __m512 { _mm512_set1_ps(a) }
    fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
    fn store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
    fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
    fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
    fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
    fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
    fn sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
}
