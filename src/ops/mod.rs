//! Every op of the project, one home each: formula, extent, derivative rule, f64 reference, CPU code, CUDA launches, and
//! small example cases that feed the gradient check and the checks of every device against the reference.
//!
//! An op is a file or a folder here, its kernels in `kernels/<op>.cu`, and two lines below. Nothing under `graph`, `plan`
//! and `runtime` knows it by name: they read what [`Op`](crate::graph::Op) declares.

#[cfg(test)]
use crate::graph::Op;
#[cfg(test)]
use crate::types::Shape;

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
pub mod rank_mean;
pub mod resize;
mod resize_taps;
mod round_weights;
pub mod sigmoid;
pub mod silu;
pub mod slice;
pub(crate) mod spectral_angle;
pub mod spectral_norm;
pub mod ssim;
pub mod sum_to;
pub mod tanh;

pub use round_weights::rounded_parts;

/// The example applications of all ops: an op adds a line.
#[cfg(test)]
fn all_cases() -> Vec<Case> {
    [
        adam::cases(),
        add::cases(),
        avg_pool::cases(),
        bce::cases(),
        concat::cases(),
        conv2d::cases(),
        ema::cases(),
        grad_norm::cases(),
        image_metrics::cases(),
        leaky_relu::cases(),
        linear::cases(),
        lpips_distance::cases(),
        max_pool::cases(),
        mix_channels::cases(),
        mul::cases(),
        norm::cases(),
        pad_channels::cases(),
        pixel_losses::cases(),
        pixel_shuffle::cases(),
        prelu::cases(),
        rank_mean::cases(),
        resize::cases(),
        round_weights::cases(),
        sigmoid::cases(),
        silu::cases(),
        slice::cases(),
        spectral_norm::cases(),
        ssim::cases(),
        sum_to::cases(),
        tanh::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
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
    pub data: Option<fn(usize, Shape) -> crate::graph::Tensor64>,
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
    pub fn with_data(self, data: fn(usize, Shape) -> crate::graph::Tensor64) -> Self {
        Case { data: Some(data), ..self }
    }

    /// The same case for the CPU check alone.
    pub fn without_gradient(self) -> Self {
        Case { has_gradient: false, ..self }
    }
}

#[cfg(test)]
mod tests;
