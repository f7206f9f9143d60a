//! What an op declares: extent, derivative, reference, and how it is executed.

use std::fmt::Debug;

use super::{CpuCommit, CudaCommit, Kernel, OnnxNode, Pointwise, Reach, Tape, Tensor64, Value};
use crate::Result;
use crate::types::Shape;

/// Where an op stands on a tape while its derivative is written.
#[derive(Clone, Copy, Debug)]
pub struct Application<'a> {
    /// Its operands.
    pub inputs: &'a [Value],
    /// Its output.
    pub output: Value,
    /// Which operands need a gradient; the others may be answered with `None`.
    pub needs: &'a [bool],
}

/// A differentiable function of tensors. Pure: ops have no side effects (see [`CommitOp`]).
pub trait Op: Debug + Send + Sync + 'static {
    /// The op's name, that of its file.
    fn name(&self) -> &'static str;

    /// Extent of the output.
    ///
    /// # Errors
    /// Fails if the extents do not fit, with a sentence saying which; the tape adds the node's path.
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// Writes on `tape` the gradient of ⟨output, `d_output`⟩ with respect to each operand; `None` for an
    /// operand that the output does not depend on or that needs no gradient.
    ///
    /// # Errors
    /// Fails if an op that it writes refuses the extents.
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>>;

    /// The op in f64, by its plain formula.
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64;

    /// How a plan executes the op.
    fn exec(&self) -> Exec<'_>;

    /// Which of its values may be stored in bf16 in programs of that precision; views and concatenations store as
    /// what they show.
    fn rounding(&self) -> Rounding {
        Rounding::Never
    }

    /// The operand, if any, that is a parameter which every product would have to round again.
    fn weight_operand(&self) -> Option<usize> {
        None
    }

    /// Which pixels of operand `operand` an output pixel depends on. The default follows from [`Op::exec`]: the pixel at
    /// its own place for pointwise ops and channel views, everything for kernels.
    fn reach(&self, operand: usize, inputs: &[Shape], output: Shape) -> Reach {
        Reach::of_exec(&self.exec(), inputs[operand], output)
    }

    /// The op in ONNX, for operands of these extents: nodes, the last of which computes the output. `None` for an op that
    /// no exported network has.
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        None
    }

    /// Multiply-adds of one execution, counting the arithmetic of the plain formula; 0 for data movement
    /// and pointwise work.
    fn macs(&self, _inputs: &[Shape], _output: Shape) -> u64 {
        0
    }
}

/// Which values of an op may be stored in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// None: losses, optimisers, all that has few elements.
    Never,
    /// Its operands: sums over many pixels.
    Operands,
    /// Its operands and its output: products that make feature maps.
    Maps,
    /// Its operands, and its output where an operand is a feature map.
    Follows,
    /// Its output, which products read as weights.
    Weights,
}

/// What a plan has to do for an op.
pub enum Exec<'a> {
    /// Nothing: the output is a part of operand 0's memory.
    View(ViewOf),
    /// The operands stand side by side; where possible they are computed in place and nothing is copied.
    Concat(Axis<'a>),
    /// Each output element depends on operand elements at its own position; runs on tiles, fused.
    Pointwise(Pointwise<'a>),
    /// A kernel of its own.
    Kernel(Kernel<'a>),
}

/// Which part of an operand's memory a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewOf {
    /// Channels from `offset` on.
    Channels {
        /// First channel.
        offset: usize,
    },
    /// Elements of contiguous memory from `offset` on, under the output's extent.
    Flat {
        /// First element.
        offset: usize,
    },
}

/// The direction in which a concatenation stacks its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis<'a> {
    /// Channels of the same pixels.
    Channels,
    /// Contiguous memory, operand `i` from element `offsets[i]` on; gaps hold zeros.
    Flat(&'a [usize]),
}

/// Changes state at the end of a program, only if every checked value of the run was finite.
pub trait CommitOp: CpuCommit + CudaCommit + Debug + 'static {
    /// The op's name.
    fn name(&self) -> &'static str;

    /// Whether the states become their means over the ranks of a run, which the device does between them.
    fn is_over_ranks(&self) -> bool {
        false
    }
}

/// Two operands of equal extent, or an error that names both.
pub(crate) fn same_shape(a: Shape, b: Shape) -> Result<Shape, String> {
    if a == b { Ok(a) } else { Err(format!("operands differ in extent: {a} and {b}")) }
}
