//! 2-D convolution (cross-correlation, as in every deep-learning framework) with zero padding:
//! `output[n,y,x,o] = Σ_{i,ky,kx} input[n, y·stride + ky·dilation − pad, x·stride + …, i] · weight[o,ky,kx,i]`,
//! full or depthwise, and its two gradients. The three are closed under differentiation, so a gradient of a
//! gradient (R1 penalty) needs nothing more.

#[cfg(test)]
mod cases;
mod cpu;
mod cuda;
mod library;
mod mma;
mod reference;
#[cfg(test)]
mod tests;
mod wgmma;

#[cfg(test)]
pub(super) use cases::cases;

use crate::Result;
use crate::graph::{Application, Exec, Kernel, OnnxNode, Op, Reach, Rounding, Tape, Tensor64, Value};
use crate::types::{ConvShape, Shape};
use reference::{reference_conv2d, reference_conv2d_input_grad, reference_conv2d_weight_grad};

/// What a convolution and its gradients have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Pixels between neighbouring outputs, in both directions.
    pub stride: usize,
    /// Zeros around the image.
    pub pad: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
    /// One filter per channel (weights C,kh,kw,1) instead of all channels to all.
    pub depthwise: bool,
}

impl Geometry {
    /// Stride 1, dilation 1, output as large as the input for an odd kernel.
    pub const fn same(ksize: usize) -> Self {
        Geometry { stride: 1, pad: ksize / 2, dilation: 1, depthwise: false }
    }

    /// Output extent for inputs (N,H,W,I) and weights (O,kh,kw,I).
    pub(super) fn output(&self, input: Shape, weight: Shape) -> Result<Shape, String> {
        let [out_ch, kh, kw, per_filter] = weight.0;
        let fits = if self.depthwise { per_filter == 1 && out_ch == input.c() } else { per_filter == input.c() };
        if !fits {
            return Err(format!("weights {weight} do not fit an input of {} channels", input.c()));
        }
        let extent = |size: usize, k: usize| {
            let reach = self.dilation * (k - 1) + 1;
            (size + 2 * self.pad >= reach).then(|| (size + 2 * self.pad - reach) / self.stride + 1)
        };
        match (extent(input.h(), kh), extent(input.w(), kw)) {
            (Some(h), Some(w)) => Ok(Shape([input.n(), h, w, out_ch])),
            _ => Err(format!("a {}x{} image is too small for a {kh}x{kw} kernel", input.h(), input.w())),
        }
    }

    fn conv_shape(&self, input: Shape, weight: Shape, output: Shape) -> ConvShape {
        ConvShape {
            batch: input.n(),
            in_h: input.h(),
            in_w: input.w(),
            in_ch: input.c(),
            out_h: output.h(),
            out_w: output.w(),
            out_ch: output.c(),
            ksize_h: weight.h(),
            ksize_w: weight.w(),
            stride: self.stride,
            pad: self.pad,
            dilation: self.dilation,
            depthwise: self.depthwise,
        }
    }
}

fn macs(weight: Shape, output: Shape) -> u64 {
    (output.pixels() * weight.len()) as u64
}

/// The convolution: operands input (N,H,W,I) and weight (O,kh,kw,I).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d(pub Geometry);

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.0.output(inputs[0], inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, weight] = [at.inputs[0], at.inputs[1]];
        let (d_input, d_weight) = (
            Conv2dInputGrad { geometry: self.0, input: tape.shape(input) },
            Conv2dWeightGrad { geometry: self.0, weight: tape.shape(weight) },
        );
        // The weight's first: then the input's gradient is not in memory beside its scratch.
        let d_weight = if at.needs[1] { Some(tape.push(d_weight, &[input, d_output])?) } else { None };
        let d_input = if at.needs[0] { Some(tape.push(d_input, &[d_output, weight])?) } else { None };
        Ok(vec![d_input, d_weight])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let s = self.0.conv_shape(inputs[0].shape, inputs[1].shape, output);
        Tensor64::new(output, reference_conv2d(&s, &inputs[0].data, &inputs[1].data))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_epilogue().with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Maps
    }
    fn weight_operand(&self) -> Option<usize> {
        (!self.0.depthwise).then_some(1)
    }
    fn reach(&self, operand: usize, inputs: &[Shape], _output: Shape) -> Reach {
        if operand != 0 {
            return Reach::Everything;
        }
        let Geometry { stride, pad, dilation, .. } = self.0;
        let span = dilation * (inputs[1].h().max(inputs[1].w()) - 1);
        Reach::Pixels { before: pad, after: span.saturating_sub(pad), stride, upscale: 1 }
    }
    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        macs(inputs[1], output)
    }
    fn onnx(&self, inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        let (Geometry { stride, pad, dilation, depthwise }, weight) = (self.0, inputs[1]);
        let group = if depthwise { weight.n() } else { 1 };
        let conv = OnnxNode::of("Conv", 2)
            .ints("kernel_shape", &[weight.h(), weight.w()])
            .ints("strides", &[stride; 2])
            .ints("pads", &[pad; 4])
            .ints("dilations", &[dilation; 2])
            .int("group", group);
        Some(vec![conv])
    }
}

/// The gradient with respect to the input: operands d_output and weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dInputGrad {
    /// Of the convolution.
    pub geometry: Geometry,
    /// Extent of the convolution's input, which the output's extent does not determine.
    pub input: Shape,
}

impl Op for Conv2dInputGrad {
    fn name(&self) -> &'static str {
        "conv2d_input_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let expected = self.geometry.output(self.input, inputs[1])?;
        if inputs[0] != expected {
            return Err(format!("d_output is {}, the convolution gives {expected}", inputs[0]));
        }
        Ok(self.input)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d_out, weight] = [at.inputs[0], at.inputs[1]];
        let d_weight = Conv2dWeightGrad { geometry: self.geometry, weight: tape.shape(weight) };
        Ok(vec![
            if at.needs[0] { Some(tape.push(Conv2d(self.geometry), &[d_output, weight])?) } else { None },
            if at.needs[1] { Some(tape.push(d_weight, &[d_output, d_out])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let s = self.geometry.conv_shape(output, inputs[1].shape, inputs[0].shape);
        Tensor64::new(output, reference_conv2d_input_grad(&s, &inputs[0].data, &inputs[1].data))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_epilogue().with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Maps
    }
    fn weight_operand(&self) -> Option<usize> {
        (!self.geometry.depthwise).then_some(1)
    }
    fn macs(&self, inputs: &[Shape], _output: Shape) -> u64 {
        macs(inputs[1], inputs[0])
    }
}

/// The gradient with respect to the weight: operands input and d_output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dWeightGrad {
    /// Of the convolution.
    pub geometry: Geometry,
    /// Extent of the weight.
    pub weight: Shape,
}

impl Op for Conv2dWeightGrad {
    fn name(&self) -> &'static str {
        "conv2d_weight_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let expected = self.geometry.output(inputs[0], self.weight)?;
        if inputs[1] != expected {
            return Err(format!("d_output is {}, the convolution gives {expected}", inputs[1]));
        }
        Ok(self.weight)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [input, d_out] = [at.inputs[0], at.inputs[1]];
        let d_input = Conv2dInputGrad { geometry: self.geometry, input: tape.shape(input) };
        Ok(vec![
            if at.needs[0] { Some(tape.push(d_input, &[d_out, d_output])?) } else { None },
            if at.needs[1] { Some(tape.push(Conv2d(self.geometry), &[input, d_output])?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let s = self.geometry.conv_shape(inputs[0].shape, output, inputs[1].shape);
        Tensor64::new(output, reference_conv2d_weight_grad(&s, &inputs[0].data, &inputs[1].data))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_library(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        macs(output, inputs[1])
    }
}
