//! Extents and element types.

use std::fmt;

/// Extent of a value: batch, height, width, channels (NHWC); weights are (out, kernel height, kernel width, in).
/// Vectors over channels are (1, 1, 1, C), scalars (1, 1, 1, 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(pub [usize; 4]);

impl Shape {
    /// Shape of a scalar.
    pub const SCALAR: Shape = Shape([1; 4]);

    /// A vector of `n` elements, (1, 1, 1, n).
    pub const fn vector(n: usize) -> Self {
        Shape([1, 1, 1, n])
    }
    /// Batch.
    pub const fn n(&self) -> usize {
        self.0[0]
    }
    /// Height.
    pub const fn h(&self) -> usize {
        self.0[1]
    }
    /// Width.
    pub const fn w(&self) -> usize {
        self.0[2]
    }
    /// Channels.
    pub const fn c(&self) -> usize {
        self.0[3]
    }
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.0[0] * self.0[1] * self.0[2] * self.0[3]
    }
    /// Number of pixels, N·H·W.
    pub const fn pixels(&self) -> usize {
        self.0[0] * self.0[1] * self.0[2]
    }
    /// True if there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// True if `self` can be repeated to fill `full`: each extent is equal or 1.
    pub fn broadcasts_to(&self, full: &Shape) -> bool {
        self.0.iter().zip(&full.0).all(|(a, b)| a == b || *a == 1)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [n, h, w, c] = self.0;
        write!(f, "{n}x{h}x{w}x{c}")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the elements of a value that ops compute are stored. They are computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16: a float's upper half.
    Bf16,
}

impl Element {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 => 2,
        }
    }

    /// Floats of memory that `count` elements take.
    pub const fn floats(self, count: usize) -> usize {
        (count * self.size()).div_ceil(4)
    }
}

/// Element type of a program input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Unsigned 8 bit.
    U8,
    /// Unsigned 16 bit.
    U16,
    /// Signed 16 bit.
    I16,
    /// 32-bit float.
    F32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::U16 | DType::I16 => 2,
            DType::F32 => 4,
        }
    }
}
