//! Calls of NVIDIA's libraries as plain data: what is computed, and how the operands lie in memory. A driver makes
//! the call; the host driver goes through the same data with plain loops.

use std::fmt;
use std::sync::Arc;

use super::args::DeviceView;
use crate::device::cuda::pointer::DevicePtr;
use crate::types::{ConvShape, Element, Pass, Precision};

/// Alignments beyond this make no difference to a library.
const MOST_ALIGN: usize = 16;

/// How an operand lies in memory: NHWC pixels, or rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// How elements are stored.
    pub element: Element,
    /// Elements from a pixel or row to the next.
    pub stride: usize,
    /// What divides its address in bytes: 1 to 16.
    pub align: usize,
}

impl Layout {
    /// That of a tensor.
    pub fn of(view: &DeviceView) -> Layout {
        let align = 1 << view.ptr.0.trailing_zeros().min(MOST_ALIGN.trailing_zeros());
        Layout { element: view.element, stride: view.stride, align }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = match self.element {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
        };
        write!(f, "{element}/{}@{}", self.stride, self.align)
    }
}

/// A convolution or one of its gradients; see [`crate::ops::conv2d`] for the formula. The operands are its input
/// (N,H,W,I), its weights (O,kh,kw,I) without gaps, and its output (N,H,W,O); the pass says which of them is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Which of the three is computed.
    pub pass: Pass,
    /// Extents.
    pub shape: ConvShape,
    /// Of the input or its gradient.
    pub input: Layout,
    /// Of the weights or their gradient.
    pub weight: Layout,
    /// Of the output or its gradient.
    pub output: Layout,
    /// In which precision products are computed.
    pub precision: Precision,
}

/// One factor of a product of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Factor {
    /// Of its rows in memory.
    pub layout: Layout,
    /// Whether the inner index runs along a row in memory, or from row to row.
    pub inner_in_row: bool,
}

/// `output[row, column] = Σ_inner lhs · rhs`, summed in f32. The operands are lhs, rhs and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Products in each sum.
    pub inner: usize,
    /// Its first index is the output's row.
    pub lhs: Factor,
    /// Its first index is the output's column.
    pub rhs: Factor,
    /// Of the output's rows.
    pub output: Layout,
    /// In which precision factors of f32 are multiplied: all their digits count, or those of tf32.
    pub precision: Precision,
}

/// What a library is asked to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LibraryOp {
    /// A convolution: cuDNN.
    Convolution(Convolution),
    /// A product of matrices: cuBLASLt.
    Product(Product),
}

impl fmt::Display for LibraryOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LibraryOp::Convolution(c) => {
                let s = &c.shape;
                let pass = match c.pass {
                    Pass::Forward => "forward",
                    Pass::InputGrad => "input_grad",
                    Pass::WeightGrad => "weight_grad",
                };
                let (groups, precision) = (if s.depthwise { " depthwise" } else { "" }, c.precision);
                write!(f, "conv2d {pass}{groups} {precision} n{}", s.batch)?;
                write!(f, " {}x{}x{}>{}x{}x{}", s.in_h, s.in_w, s.in_ch, s.out_h, s.out_w, s.out_ch)?;
                write!(f, " k{}x{} s{} p{} d{}", s.ksize_h, s.ksize_w, s.stride, s.pad, s.dilation)?;
                write!(f, " {} {} {}", c.input, c.weight, c.output)
            }
            LibraryOp::Product(p) => {
                let side = |factor: &Factor| if factor.inner_in_row { "" } else { "^T" };
                write!(f, "product {}x{}x{}", p.rows, p.columns, p.inner)?;
                write!(f, " {}{} {}{}", p.lhs.layout, side(&p.lhs), p.rhs.layout, side(&p.rhs))?;
                write!(f, " {}", p.output)?;
                if p.precision == Precision::Tf32 { f.write_str(" tf32") } else { Ok(()) }
            }
        }
    }
}

/// A library's work on operands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LibraryCall {
    /// What is computed.
    pub op: LibraryOp,
    /// The operands, in the order that the op says.
    pub operands: [DevicePtr; 3],
}

/// A library's call with all that a driver needs to make it.
#[derive(Clone, Debug)]
pub struct LibraryLaunch {
    /// What is computed, on what.
    pub call: LibraryCall,
    /// How, as [`crate::device::cuda::driver::Driver::algorithms`] names it.
    pub algorithm: Arc<str>,
    /// Path of the node that it belongs to, for messages.
    pub path: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Shape;

    /// What libraries choose kernels by is in the text that choices are known by.
    #[test]
    fn a_layout_knows_its_alignment() {
        let view = |ptr| DeviceView::floats(DevicePtr(ptr), Shape([1, 2, 2, 8]));
        let align = [256, 4096 + 16, 8, 4, 2, 1].map(|ptr| Layout::of(&view(ptr)).align);
        assert_eq!(align, [16, 16, 8, 4, 2, 1]);
        let wide = DeviceView { stride: 12, ..view(256 + 8) };
        assert_eq!(Layout::of(&wide).to_string(), "f32/12@8");
    }
}
