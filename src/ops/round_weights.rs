//! Weights of products in a program of bf16: copies of parts of a flat tensor, which the plan stores rounded, so that
//! each weight is rounded once and not by every product that reads it. The plan writes it, no network does.

use super::concat::ConcatFlat;
use super::slice::SliceFlat;
use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{CudaCall, DeviceView, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value};
use crate::types::Shape;

/// Elements between two parts that are copied with them: less work than another launch.
const GAP: usize = 1 << 16;

/// The parts of operand 0 (any extent, contiguous) that hold weights, one after the other, (1, 1, 1, len).
#[derive(Clone, Debug, PartialEq)]
pub struct RoundWeights {
    spans: Vec<Span>,
}

/// Neighbouring parts, and where their copy starts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    from: usize,
    len: usize,
    to: usize,
}

impl RoundWeights {
    /// Copies parts (first element, number of elements), in rising order. A copy starts at a multiple of as many
    /// elements as its part does, up to 16.
    pub fn new(parts: impl IntoIterator<Item = (usize, usize)>) -> RoundWeights {
        let mut spans: Vec<Span> = Vec::new();
        for (from, len) in parts {
            let end = spans.last().map_or(0, |last| last.to + last.len);
            match spans.last_mut() {
                Some(last) if from - (last.from + last.len) <= GAP => last.len = from + len - last.from,
                _ => spans.push(Span { from, len, to: end.next_multiple_of(16) + from % 16 }),
            }
        }
        RoundWeights { spans }
    }

    /// Where the copy of the part that starts at element `from` starts.
    ///
    /// # Panics
    /// If no part does.
    pub fn place(&self, from: usize) -> usize {
        let inside = |span: &&Span| (span.from..span.from + span.len).contains(&from);
        let span = self.spans.iter().find(inside).expect("the start of a part");
        span.to + from - span.from
    }

    fn len(&self) -> usize {
        self.spans.last().map_or(0, |last| last.to + last.len)
    }
}

/// Writes copies of parts (first element, extent; in rising order) of the contiguous tensor `flat`, which a program of
/// bf16 stores rounded, and a view of each.
///
/// # Errors
/// Fails if a part lies outside of the tensor.
pub fn rounded_parts(tape: &mut Tape, flat: Value, parts: &[(usize, Shape)]) -> Result<Vec<Value>> {
    let op = RoundWeights::new(parts.iter().map(|(from, shape)| (*from, shape.len())));
    let copies = tape.push(op.clone(), &[flat])?;
    let view = |(from, shape): &(usize, Shape)| SliceFlat { offset: op.place(*from), shape: *shape };
    parts.iter().map(|part| tape.push(view(part), &[copies])).collect()
}

impl Op for RoundWeights {
    fn name(&self) -> &'static str {
        "round_weights"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        match self.spans.last() {
            Some(last) if last.from + last.len > inputs[0].len() => {
                Err(format!("elements {}..{} of {}", last.from, last.from + last.len, inputs[0]))
            }
            _ => Ok(Shape::vector(self.len())),
        }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let mut parts = Vec::new();
        for span in &self.spans {
            let slice = SliceFlat { offset: span.to, shape: Shape::vector(span.len) };
            parts.push(tape.push(slice, &[d_output])?);
        }
        let offsets = self.spans.iter().map(|span| span.from).collect();
        Ok(vec![Some(tape.push(ConcatFlat { offsets, shape: tape.shape(at.inputs[0]) }, &parts)?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut out = Tensor64::zeros(output);
        for s in &self.spans {
            out.data[s.to..s.to + s.len].copy_from_slice(&inputs[0].data[s.from..s.from + s.len]);
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Weights
    }
}

impl CpuKernel for RoundWeights {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let (from, to) = (call.inputs[0].dense(), call.output.dense_mut());
        to.fill(0.0);
        for s in &self.spans {
            to[s.to..s.to + s.len].copy_from_slice(&from[s.from..s.from + s.len]);
        }
    }
}

impl CudaKernel for RoundWeights {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let part = |view: DeviceView, first: usize, len: usize| {
            let shape = Shape::vector(len);
            DeviceView { ptr: view.ptr.offset_by(first * view.element.size()), shape, stride: len, ..view }
        };
        let span = |s: &Span| KernelLaunch::copy(part(call.inputs[0], s.from, s.len), part(call.output, s.to, s.len));
        self.spans.iter().map(span).collect()
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let near = RoundWeights::new([(0, 5), (32, 8), (48, 1)]);
    vec![Case::new(near, &[[1, 1, 1, 60]]).contiguous(&[0])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_parts_are_copied_together_and_far_ones_are_not() {
        let far = 3 + 2 * GAP;
        let op = RoundWeights::new([(3, 10), (32, 8), (far, 40)]);
        assert_eq!([op.place(3), op.place(32)], [3, 32]);
        let place = op.place(far);
        assert!(place >= 40 && place % 16 == far % 16 && op.len() == place + 40, "{op:?}");
        assert!(op.shape(&[Shape::vector(far + 39)]).unwrap_err().contains("elements"));
    }
}
