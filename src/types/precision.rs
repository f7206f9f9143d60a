//! Precisions of a program.

use std::fmt;

/// How the products of convolutions are computed, and how activations are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Everything in f32.
    #[default]
    F32,
    /// Factors rounded to 10 mantissa bits, sums in f32; all else in f32.
    Tf32,
    /// Factors and activations in bf16, sums in f32; weights, statistics, reductions and losses in f32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}
