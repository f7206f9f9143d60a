//! The convolution as a call of a library on CUDA devices.

use super::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad};
use crate::device::cuda::{Convolution, CudaCall, DeviceView, Layout, LibraryCall, LibraryOp};
use crate::graph::LibraryKernel;
use crate::types::{ConvShape, Pass};

/// Operands input and weight.
fn forward(call: &CudaCall, shape: ConvShape) -> Option<LibraryCall> {
    describe(call, shape, Pass::Forward, [&call.inputs[0], &call.inputs[1], &call.output])
}

/// Operands `d_output` and weight.
fn input_grad(call: &CudaCall, shape: ConvShape) -> Option<LibraryCall> {
    describe(call, shape, Pass::InputGrad, [&call.output, &call.inputs[1], &call.inputs[0]])
}

/// Operands input and `d_output`.
fn weight_grad(call: &CudaCall, shape: ConvShape) -> Option<LibraryCall> {
    describe(call, shape, Pass::WeightGrad, [&call.inputs[0], &call.output, &call.inputs[1]])
}

/// The tensors are input, weight and output of the convolution. Libraries multiply factors of one type.
fn describe(call: &CudaCall, shape: ConvShape, pass: Pass, tensors: [&DeviceView; 3]) -> Option<LibraryCall> {
    let [first, second] = match pass {
        Pass::Forward => [0, 1],
        Pass::InputGrad => [2, 1],
        Pass::WeightGrad => [0, 2],
    };
    let [input, weight, output] = tensors.map(Layout::of);
    let op = LibraryOp::Convolution(Convolution { pass, shape, input, weight, output, precision: call.precision });
    let same = tensors[first].element == tensors[second].element;
    same.then_some(LibraryCall { op, operands: tensors.map(|view| view.ptr) })
}

impl LibraryKernel for Conv2d {
    fn call(&self, call: &CudaCall) -> Option<LibraryCall> {
        let s = self.0.conv_shape(call.inputs[0].shape, call.inputs[1].shape, call.output.shape);
        forward(call, s)
    }
}

impl LibraryKernel for Conv2dInputGrad {
    fn call(&self, call: &CudaCall) -> Option<LibraryCall> {
        let s = self.geometry.conv_shape(self.input, call.inputs[1].shape, call.inputs[0].shape);
        input_grad(call, s)
    }
}

impl LibraryKernel for Conv2dWeightGrad {
    fn call(&self, call: &CudaCall) -> Option<LibraryCall> {
        let s = self.geometry.conv_shape(call.inputs[0].shape, self.weight, call.inputs[1].shape);
        weight_grad(call, s)
    }
}
