//! Vectors of AArch64.

use std::arch::aarch64::*;

use super::simd_set;

/// Four lanes of NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

simd_set! {
    Neon: [float32x4_t; 4], 4 vectors a panel;
    fn splat(a: f32) -> float32x4_t { vdupq_n_f32(a) }
    fn load(p: *const f32) -> float32x4_t { vld1q_f32(p) }
    fn store(p: *mut f32, v: float32x4_t) { vst1q_f32(p, v) }
    fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
    fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
    fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
    fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
    fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmsq_f32(c, a, b) }
    fn sum(v: float32x4_t) -> f32 { vaddvq_f32(v) }
}
