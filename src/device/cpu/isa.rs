//! Instruction sets, found at run time. One generic function is compiled once per set by [`simd_fn!`](crate::simd_fn).

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaKind {
    /// Whatever every processor of the target architecture has.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL, as all since Skylake-X; and AVX2 and FMA.
    Avx512,
    /// AArch64's vectors.
    Neon,
    /// AVX-512's sizes in plain Rust, on any processor.
    #[cfg(test)]
    Emulated,
}

impl IsaKind {
    /// Every set, from the narrowest.
    pub const ALL: &[IsaKind] = &[
        IsaKind::Portable,
        IsaKind::Neon,
        IsaKind::Avx2,
        IsaKind::Avx512,
        #[cfg(test)]
        IsaKind::Emulated,
    ];

    /// The name on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            IsaKind::Portable => "portable",
            IsaKind::Avx2 => "avx2",
            IsaKind::Avx512 => "avx512",
            IsaKind::Neon => "neon",
            #[cfg(test)]
            IsaKind::Emulated => "emulated",
        }
    }
}

/// An instruction set that this processor is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(IsaKind);

impl Isa {
    /// The set that needs no detection.
    pub const PORTABLE: Isa = Isa(IsaKind::Portable);

    /// The widest set of this processor.
    pub fn detect() -> Isa {
        let widest = [IsaKind::Avx512, IsaKind::Avx2, IsaKind::Neon].into_iter().find_map(Isa::of);
        widest.unwrap_or(Isa::PORTABLE)
    }

    /// The set, if this processor has it.
    pub fn of(kind: IsaKind) -> Option<Isa> {
        let present = match kind {
            IsaKind::Portable => true,
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            IsaKind::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(test)]
            IsaKind::Emulated => true,
            #[cfg(not(target_arch = "x86_64"))]
            IsaKind::Avx2 | IsaKind::Avx512 => false,
        };
        present.then_some(Isa(kind))
    }

    /// Every set that this processor has, from the narrowest.
    pub fn all() -> impl Iterator<Item = Isa> {
        IsaKind::ALL.iter().filter_map(|kind| Isa::of(*kind))
    }

    /// Which set it is.
    pub fn kind(self) -> IsaKind {
        self.0
    }

    /// A set with at most eight lanes that a processor with this one has.
    pub(super) fn narrower(self) -> Isa {
        match self.0 {
            IsaKind::Avx512 => Isa(IsaKind::Avx2),
            _ => Isa::PORTABLE,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Compiles a function once per instruction set; the generated function takes an [`Isa`]
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
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                generic($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                generic($($arg),*)
            }
            match isa.kind() {
                // SAFETY: an `Isa` of this kind exists only where the processor has AVX-512.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::IsaKind::Avx512 => unsafe { avx512($($arg),*) },
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
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { generic($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { generic($($arg),*) }
            }
            // SAFETY: an `Isa` of a kind exists only where the processor has those instructions; the caller's
            // promise is passed on.
            unsafe {
                match isa.kind() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::IsaKind::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::IsaKind::Avx2 => avx2($($arg),*),
                    _ => generic($($arg),*),
                }
            }
        }
    };
}
