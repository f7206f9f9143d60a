//! Vectors of f32 behind one trait, so that a kernel is written once and compiled per instruction set.

#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{Isa, IsaKind};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
#[cfg(test)]
pub(crate) use plain::Emulated;
pub(crate) use plain::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Widest vector of any instruction set, in lanes: what scratch memory is sized for.
pub(crate) const MAX_LANES: usize = 16;
/// Widest panel of any instruction set, in floats.
pub(crate) const MAX_PANEL: usize = 4 * MAX_LANES;

/// A set of vector registers.
///
/// # Safety
/// All functions may be called only where the processor has the instruction set, and `load` and `store` only
/// on addresses with `LANES` readable or writable floats (of any alignment).
pub(crate) trait Simd: Copy {
    /// A register.
    type V: Copy;
    /// Floats in a register.
    const LANES: usize;
    /// Vectors of a panel, the operand that register blocks of six rows read whole: two where there are 16
    /// registers, four where there are 32, so that 12 or 24 of them accumulate.
    const PANEL: usize;
    unsafe fn splat(a: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c − a b
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sum of the lanes.
    unsafe fn sum(v: Self::V) -> f32;
}

/// Implements [`Simd`] for `$set` from functions written without their attributes.
macro_rules! simd_set {
    ($set:ty: [$v:ty; $lanes:expr], $panel:literal vectors a panel;
        $(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        impl $crate::device::cpu::simd::Simd for $set {
            type V = $v;
            const LANES: usize = $lanes;
            const PANEL: usize = $panel;
            $(
                #[inline(always)]
                unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the trait's contract: the instruction set is there and addresses are valid.
                    unsafe { $body }
                }
            )*
        }
    };
}
use simd_set;

/// Lanes of `isa`, and vectors of its panels.
fn sizes(isa: Isa) -> (usize, usize) {
    fn of<S: Simd>() -> (usize, usize) {
        (S::LANES, S::PANEL)
    }
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 => of::<Avx512>(),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => of::<Avx2>(),
        #[cfg(target_arch = "aarch64")]
        IsaKind::Neon => of::<Neon>(),
        #[cfg(test)]
        IsaKind::Emulated => of::<Emulated>(),
        _ => of::<Portable>(),
    }
}

/// Floats in a register of `isa`.
pub(crate) fn lanes(isa: Isa) -> usize {
    sizes(isa).0
}

/// Floats of a whole panel of `isa`.
pub(crate) fn panel_width(isa: Isa) -> usize {
    let (lanes, vectors) = sizes(isa);
    lanes * vectors
}

/// Floats of the panel that starts at channel `first` of `channels`: a whole one, or the last's whole vectors.
pub(crate) fn panel_width_at(isa: Isa, channels: usize, first: usize) -> usize {
    let (lanes, vectors) = sizes(isa);
    (channels - first).next_multiple_of(lanes).min(lanes * vectors)
}

/// `isa`, or the narrower set whose vectors divide `channels`, a multiple of 8.
pub(crate) fn dividing(isa: Isa, channels: usize) -> Isa {
    if channels.is_multiple_of(lanes(isa)) { isa } else { isa.narrower() }
}

/// Compiles a kernel that is generic over [`Simd`] once per instruction set; the generated function takes an
/// [`Isa`] first and calls the fitting copy. What the body calls must be `#[inline(always)]`.
macro_rules! simd_kernel {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$s:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::device::cpu::Isa, $($arg: $ty),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn generic<$s: $crate::device::cpu::simd::Simd>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { generic::<$crate::device::cpu::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { generic::<$crate::device::cpu::simd::Avx2>($($arg),*) }
            }
            // SAFETY: an `Isa` of a kind exists only where the processor has those instructions; the caller's
            // promise is passed on.
            unsafe {
                match isa.kind() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::IsaKind::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::IsaKind::Avx2 => avx2($($arg),*),
                    // Every processor of the architecture has it.
                    #[cfg(target_arch = "aarch64")]
                    $crate::device::cpu::IsaKind::Neon => {
                        generic::<$crate::device::cpu::simd::Neon>($($arg),*)
                    }
                    #[cfg(test)]
                    $crate::device::cpu::IsaKind::Emulated => {
                        generic::<$crate::device::cpu::simd::Emulated>($($arg),*)
                    }
                    _ => generic::<$crate::device::cpu::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use simd_kernel;
