//! Instruction sets, found at run time. One generic function is compiled once per set by [`simd_fn!`].

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaKind {
    /// Whatever every processor of the target architecture has.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
}

/// An instruction set that this processor is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(IsaKind);

impl Isa {
    /// The set that needs no detection.
    pub const PORTABLE: Isa = Isa(IsaKind::Portable);

    /// The best set of this processor.
    pub fn detect() -> Isa {
        Isa::avx2().unwrap_or(Isa::PORTABLE)
    }

    /// AVX2 with FMA, if this processor has both.
    pub fn avx2() -> Option<Isa> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(Isa(IsaKind::Avx2));
        }
        None
    }

    /// Every set that this processor has, for tests.
    pub fn all() -> impl Iterator<Item = Isa> {
        std::iter::once(Isa::PORTABLE).chain(Isa::avx2())
    }

    /// Which set it is.
    pub fn kind(self) -> IsaKind {
        self.0
    }
}

/// Compiles a function once per instruction set; the generated function takes an [`Isa`](crate::device::cpu::Isa)
/// as its first argument and calls the fitting copy.
///
/// The body is ordinary Rust; loops over slices are vectorised by the compiler with the set's registers.
/// Write `a * b + c`, not `mul_add`: without FMA in hardware the latter is a library call per element.
/// Everything the body calls per element must be `#[inline(always)]`. Generic parameters are not supported;
/// `unsafe fn` is.
///
/// ```
/// srgan::simd_fn! {
///     /// y += a x
///     pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y += a * x;
///         }
///     }
/// }
/// let mut y = [1.0; 3];
/// axpy(srgan::device::cpu::Isa::detect(), 2.0, &[1.0, 2.0, 3.0], &mut y);
/// assert_eq!(y, [3.0, 5.0, 7.0]);
/// ```
#[macro_export]
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::device::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn generic($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                generic($($arg),*)
            }
            match isa.kind() {
                // SAFETY: an `Isa` of this kind exists only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::IsaKind::Avx2 => unsafe { avx2($($arg),*) },
                _ => generic($($arg),*),
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::device::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn generic($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { generic($($arg),*) }
            }
            match isa.kind() {
                // SAFETY: an `Isa` of this kind exists only where the processor has AVX2 and FMA; the
                // caller's promise is passed on.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::IsaKind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: the caller's promise is passed on.
                _ => unsafe { generic($($arg),*) },
            }
        }
    };
}
