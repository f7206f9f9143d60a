//! Parts of tensors: a range of channels, and a range of contiguous memory under another extent (a parameter
//! inside its network's flat buffer, a flattened feature map). Both are views: nothing is computed.

use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, OnnxInput, OnnxNode, Op, Rounding, Tape, Tensor64,
    Value, ViewOf,
};
use crate::types::Shape;

/// Channels `offset .. offset + channels` of every pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SliceChannels {
    /// First channel.
    pub offset: usize,
    /// Number of channels.
    pub channels: usize,
}

impl Op for SliceChannels {
    fn name(&self) -> &'static str {
        "slice_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if self.offset + self.channels > c {
            return Err(format!("channels {}..{} of {c}", self.offset, self.offset + self.channels));
        }
        Ok(Shape([n, h, w, self.channels]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let channels = tape.shape(at.inputs[0]).c();
        Ok(vec![Some(tape.push(EmbedChannels { offset: self.offset, channels }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |[n, y, x, c]| inputs[0].at([n, y, x, c + self.offset]))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::View(ViewOf::Channels { offset: self.offset })
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        let [start, end, axis] = [self.offset, self.offset + self.channels, 1].map(|n| OnnxInput::Ints(vec![n as i64]));
        Some(vec![OnnxNode::new("Slice", [OnnxInput::Operand(0), start, end, axis])])
    }
}

/// The adjoint of [`SliceChannels`]: the operand at channels `offset ..` of `channels`, zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbedChannels {
    /// First channel.
    pub offset: usize,
    /// Channels of the output.
    pub channels: usize,
}

impl Op for EmbedChannels {
    fn name(&self) -> &'static str {
        "embed_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if self.offset + c > self.channels {
            return Err(format!("{c} channels at {} do not fit {}", self.offset, self.channels));
        }
        Ok(Shape([n, h, w, self.channels]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let channels = tape.shape(at.inputs[0]).c();
        Ok(vec![Some(tape.push(SliceChannels { offset: self.offset, channels }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let inside = self.offset..self.offset + inputs[0].shape.c();
        Tensor64::from_fn(output, |[n, y, x, c]| {
            if inside.contains(&c) { inputs[0].data[inputs[0].index([n, y, x, c - self.offset])] } else { 0.0 }
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for EmbedChannels {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (a, out) = (call.inputs[0], call.output);
        ctx.pool.run(out.n() * out.h(), &|row, _| {
            for p in row * out.w()..(row + 1) * out.w() {
                // SAFETY: rows are disjoint between items.
                let pixel = unsafe { out.pixel(p) };
                pixel.fill(0.0);
                pixel[self.offset..self.offset + a.c()].copy_from_slice(a.pixel(p));
            }
        });
    }
}

impl CudaKernel for EmbedChannels {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (x, output) = (call.inputs[0], call.output);
        let aligned = [x.shape.c(), output.shape.c(), self.offset].iter().all(|c| c.is_multiple_of(4));
        let vector = if aligned && x.has_vectors() && output.has_vectors() { 4 } else { 1 };
        let args = Args::new().input("x", x).output("output", output).size("offset", self.offset).fixed("V", vector);
        vec![KernelLaunch::over("slice", "embed_channels", output.shape.len() / vector, args)]
    }
}

/// `shape.len()` elements of contiguous memory from `offset` on, under the extent `shape`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SliceFlat {
    /// First element.
    pub offset: usize,
    /// Extent of the output.
    pub shape: Shape,
}

impl SliceFlat {
    /// All elements under another extent.
    pub fn reshape(shape: Shape) -> Self {
        SliceFlat { offset: 0, shape }
    }
}

impl Op for SliceFlat {
    fn name(&self) -> &'static str {
        "slice_flat"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if self.offset + self.shape.len() > inputs[0].len() {
            return Err(format!("{} from element {} on does not lie inside {}", self.shape, self.offset, inputs[0]));
        }
        Ok(self.shape)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let full = tape.shape(at.inputs[0]);
        if self.shape.len() == full.len() {
            return Ok(vec![Some(tape.push(SliceFlat::reshape(full), &[d_output])?)]);
        }
        Ok(vec![Some(tape.push(super::concat::ConcatFlat { offsets: vec![self.offset], shape: full }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, inputs[0].data[self.offset..self.offset + output.len()].to_vec())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::View(ViewOf::Flat { offset: self.offset })
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(SliceChannels { offset: 2, channels: 3 }, &[[2, 3, 4, 7]]),
        Case::new(EmbedChannels { offset: 2, channels: 7 }, &[[2, 3, 4, 3]]),
        Case::new(EmbedChannels { offset: 4, channels: 16 }, &[[2, 3, 5, 8]]),
        Case::new(SliceFlat { offset: 10, shape: Shape([1, 2, 3, 4]) }, &[[1, 1, 1, 50]]).contiguous(&[0]),
        Case::new(SliceFlat::reshape(Shape([2, 1, 1, 12])), &[[2, 2, 2, 3]]),
    ]
}
