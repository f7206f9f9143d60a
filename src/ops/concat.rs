//! Tensors side by side: channels of the same pixels (dense blocks), or contiguous memory at given offsets
//! (the gradient bucket of a network). The plan lets the operands be computed in place and copies only what
//! cannot be.

use super::slice::{SliceChannels, SliceFlat};
use crate::Result;
use crate::graph::{Application, Axis, Exec, OnnxNode, Op, Tape, Tensor64, Value};
use crate::types::Shape;

/// Channels of all operands in order. A dense block is written as nested prefixes,
/// `cat(cat(x, x1), x2)`, so that each is a slice of the longest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConcatChannels;

impl Op for ConcatChannels {
    fn name(&self) -> &'static str {
        "concat_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, _] = inputs[0].0;
        if inputs.iter().any(|s| s.0[..3] != inputs[0].0[..3]) {
            return Err(format!("pixels differ: {inputs:?}"));
        }
        Ok(Shape([n, h, w, inputs.iter().map(Shape::c).sum()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let mut offset = 0;
        let mut d_inputs = Vec::with_capacity(at.inputs.len());
        for (v, needed) in at.inputs.iter().zip(at.needs) {
            let channels = tape.shape(*v).c();
            let slice = SliceChannels { offset, channels };
            d_inputs.push(if *needed { Some(tape.push(slice, &[d_output])?) } else { None });
            offset += channels;
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |[n, y, x, mut c]| {
            for t in inputs {
                if c < t.shape.c() {
                    return t.data[t.index([n, y, x, c])];
                }
                c -= t.shape.c();
            }
            f64::NAN
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Concat(Axis::Channels)
    }
    fn onnx(&self, inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("Concat", inputs.len()).int("axis", 1)])
    }
}

/// Contiguous memory of extent `shape` with operand `i` at element `offsets[i]`, zeros elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct ConcatFlat {
    /// First element of each operand, ascending.
    pub offsets: Vec<usize>,
    /// Extent of the output.
    pub shape: Shape,
}

impl Op for ConcatFlat {
    fn name(&self) -> &'static str {
        "concat_flat"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let mut end = 0;
        for (s, o) in inputs.iter().zip(&self.offsets) {
            if *o < end || o + s.len() > self.shape.len() {
                return Err(format!("{s} at element {o} overlaps or leaves {}", self.shape));
            }
            end = o + s.len();
        }
        Ok(self.shape)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let mut d_inputs = Vec::with_capacity(at.inputs.len());
        for ((v, offset), needed) in at.inputs.iter().zip(&self.offsets).zip(at.needs) {
            let slice = SliceFlat { offset: *offset, shape: tape.shape(*v) };
            d_inputs.push(if *needed { Some(tape.push(slice, &[d_output])?) } else { None });
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut out = Tensor64::zeros(output);
        for (t, o) in inputs.iter().zip(&self.offsets) {
            out.data[*o..*o + t.data.len()].copy_from_slice(&t.data);
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Concat(Axis::Flat(&self.offsets))
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(ConcatChannels, &[[2, 3, 4, 5], [2, 3, 4, 2], [2, 3, 4, 1]]),
        Case::new(
            ConcatFlat { offsets: vec![0, 16, 40], shape: Shape::vector(48) },
            &[[1, 1, 1, 13], [2, 1, 3, 4], [1, 1, 1, 1]],
        ),
    ]
}
