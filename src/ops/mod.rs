//! Every op of the project, one per file: formula, shape rule, derivative rule, f64 reference, CPU code and
//! small example cases that feed the gradient check and the CPU-against-reference check.
//!
//! Adding an op is one file here (and later one in `kernels/`) and one line below. Tape, plan and devices
//! never name an op: they read only what [`Op`] declares.

use std::fmt::Debug;

use crate::Result;
use crate::device::cpu::{Ctx, Isa, Tile, TileSink, View, ViewMut};
use crate::device::cuda::{CudaCall, CudaCommit, KernelLaunch, LibraryCall, PointwiseCode};
use crate::tape::{Shape, Tape, Tensor64, Value};

pub mod adam;
pub mod add;
pub mod assign;
pub mod avg_pool;
pub mod bce;
pub mod concat;
pub mod conv2d;
pub mod ema;
pub(crate) mod flat;
pub mod grad_norm;
pub mod image_metrics;
pub mod leaky_relu;
pub mod linear;
pub mod lpips_distance;
pub mod math;
pub mod max_pool;
pub mod mix_channels;
pub mod mul;
pub mod norm;
pub mod pad_channels;
pub mod pixel_losses;
pub mod pixel_shuffle;
pub mod pointwise;
pub mod prelu;
pub mod prepare;
pub mod resize;
mod resize_taps;
pub mod round_weights;
pub mod sigmoid;
pub mod silu;
pub mod slice;
pub(crate) mod spectral_angle;
pub mod spectral_norm;
pub mod ssim;
pub mod sum_to;
pub mod tanh;

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
    /// A sentence saying which extents do not fit; the tape adds the node's path.
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// Writes on `tape` the gradient of ⟨output, `d_output`⟩ with respect to each operand; `None` for an
    /// operand that the output does not depend on or that needs no gradient.
    ///
    /// # Errors
    /// Those of the ops that it writes.
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
    Pointwise(&'a dyn Pointwise),
    /// A kernel of its own.
    Kernel(&'a dyn Kernel),
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

/// Pointwise execution. One operand, the carrier, arrives in the tile and is transformed in place.
pub trait Pointwise: Send + Sync {
    /// Whether operand `input` (of the output's extent) may be the carrier.
    fn carrier(&self, input: usize) -> bool {
        input == 0
    }
    /// Replaces the carrier's values in `tile` by the output's. `operands` has an entry for each operand; that
    /// of the carrier must not be read.
    fn apply(&self, isa: Isa, tile: &mut Tile, carrier: usize, operands: &[View]);
    /// The same on a CUDA device, for operands of these extents.
    fn cuda(&self, operands: &[Shape]) -> PointwiseCode;
}

/// Operands of one kernel execution. All views may have a pixel stride larger than their channels.
pub struct KernelCall<'a> {
    /// Operands.
    pub inputs: &'a [View],
    /// Where the result goes; unused by [`Kernel::run_into`].
    pub output: ViewMut,
    /// As many floats as [`Kernel::scratch`] asked for, with any content.
    pub scratch: &'a mut [f32],
}

/// Execution of an op that is not pointwise.
pub trait Kernel: Send + Sync {
    /// Floats of scratch memory.
    fn scratch(&self, _inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        0
    }
    /// Computes the output.
    fn run(&self, ctx: &Ctx, call: KernelCall);
    /// Whether [`Kernel::run_into`] exists: the output is handed out in tiles and pointwise ops can be fused
    /// behind it.
    fn hosts_epilogue(&self) -> bool {
        false
    }
    /// Whether on the CPU the output may lie where operand 0 does, both contiguous and of one length: each item of
    /// work has read all that lies where it writes.
    fn works_in_place(&self, _inputs: &[Shape], _output: Shape) -> bool {
        false
    }
    /// Computes the output and hands each element to `sink` exactly once.
    fn run_into(&self, _ctx: &Ctx, _call: KernelCall, _sink: &dyn TileSink) {
        unreachable!("only kernels that host an epilogue are asked to")
    }
    /// The factor, at least 2, of an op that does what a pixel shuffle does to its operand. On a CUDA device the kernel
    /// that computes the operand can store its values where the shuffle would put them.
    fn shuffle_factor(&self) -> Option<usize> {
        None
    }
    /// Floats of scratch memory on a CUDA device.
    fn cuda_scratch(&self, _inputs: &[Shape], _output: Shape) -> usize {
        0
    }
    /// The launches that compute the output on a CUDA device. A kernel that hosts an epilogue hands every element
    /// of the output to `call.finish` exactly once, the others write `call.output`.
    fn cuda(&self, call: &CudaCall) -> Vec<KernelLaunch>;
    /// The same by Hopper's own instructions, `wgmma` and bulk copies, each way that may be the fastest with a name that
    /// means the same in every run; only asked of a kernel that a library can do too.
    fn cuda_warpgroups(&self, _call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        Vec::new()
    }
    /// Whether [`Kernel::cuda_library`] may have an answer.
    fn has_library(&self) -> bool {
        false
    }
    /// The same as one call of a library that writes `call.output` as it is, where a library has it; what is to become
    /// of the values after that is not its business.
    fn cuda_library(&self, _call: &CudaCall) -> Option<LibraryCall> {
        None
    }
}

/// Changes state at the end of a program, only if every checked value of the run was finite.
pub trait CommitOp: Debug + Send + Sync + 'static {
    /// The op's name.
    fn name(&self) -> &'static str;
    /// Updates `states` from the run's values. States are updated in the order of the program's commits.
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &[ViewMut]);
    /// The launches that do the same on a CUDA device, where `call.ok` is not 0.
    fn cuda(&self, call: &CudaCommit) -> Vec<KernelLaunch>;
}

/// Two operands of equal extent, or an error that names both.
pub(crate) fn same_shape(a: Shape, b: Shape) -> Result<Shape, String> {
    if a == b { Ok(a) } else { Err(format!("operands differ in extent: {a} and {b}")) }
}

/// An example application of an op: what the gradient check and the CPU check run.
#[cfg(test)]
pub struct Case {
    /// The op.
    pub op: std::sync::Arc<dyn Op>,
    /// Operand extents.
    pub inputs: Vec<Shape>,
    /// Operands that are contiguous by definition: weights, flat memory.
    pub contiguous: Vec<usize>,
    /// Operands by number, for ops that not every number suits; random ones otherwise.
    pub data: Option<fn(usize, Shape) -> crate::tape::Tensor64>,
    /// Whether the op has a derivative rule that holds operand by operand. Ops whose operands are functions of
    /// each other (a tensor and its statistics) have checks of their own.
    pub has_gradient: bool,
}

#[cfg(test)]
impl Case {
    /// A case from an op and its operands' extents.
    pub fn new(op: impl Op, inputs: &[[usize; 4]]) -> Self {
        let inputs = inputs.iter().map(|s| Shape(*s)).collect();
        Case { op: std::sync::Arc::new(op), inputs, contiguous: vec![], data: None, has_gradient: true }
    }

    /// The same with operands that cannot have gaps.
    pub fn contiguous(self, operands: &[usize]) -> Self {
        Case { contiguous: operands.to_vec(), ..self }
    }

    /// The same case on the operands that `data` makes.
    pub fn with_data(self, data: fn(usize, Shape) -> crate::tape::Tensor64) -> Self {
        Case { data: Some(data), ..self }
    }

    /// The same case for the CPU check alone.
    pub fn without_gradient(self) -> Self {
        Case { has_gradient: false, ..self }
    }
}

#[cfg(test)]
mod tests;
