//! How far a network looks: which pixels of one value a pixel of another depends on. Each op says it of its operands
//! ([`Op::reach`]); [`Tape::reach`] adds it up along the worst path.

use super::{Axis, Exec, Op, Source, Tape, Value, ViewOf};
use crate::types::Shape;

/// The pixels of an operand that one output pixel of an op depends on, alike in rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Output pixel `o` depends on the operand's pixels from `⌊o·stride/upscale⌋ − before` to `… + after`.
    Pixels {
        /// Pixels before its own place.
        before: usize,
        /// Pixels after it.
        after: usize,
        /// Operand pixels between neighbouring outputs.
        stride: usize,
        /// Output pixels for each operand pixel.
        upscale: usize,
    },
    /// Every pixel, as a mean over the image does.
    Everything,
}

impl Reach {
    /// Nothing but the pixel at its own place.
    pub const SAME: Reach = Reach::Pixels { before: 0, after: 0, stride: 1, upscale: 1 };

    /// What follows from how an op is executed; [`Reach::Everything`] where nothing does.
    pub(super) fn of_exec(exec: &Exec, operand: Shape, output: Shape) -> Reach {
        let in_place = match exec {
            Exec::Pointwise(_) | Exec::View(ViewOf::Channels { .. }) | Exec::Concat(Axis::Channels) => true,
            Exec::View(ViewOf::Flat { .. }) | Exec::Concat(Axis::Flat(_)) | Exec::Kernel(_) => false,
        };
        let same_extent = (operand.h(), operand.w()) == (output.h(), output.w());
        if in_place && same_extent { Reach::SAME } else { Reach::Everything }
    }
}

/// What a value depends on, in pixels of the value that the walk starts from: pixel `o` on those from
/// `o·step − before` to `(o + 1)·step + after`, the last excluded. Fractions of pixels count: after a pixel shuffle, one
/// pixel is a half.
#[derive(Clone, Copy, Debug)]
struct Extent {
    step: f64,
    before: f64,
    after: f64,
}

impl Extent {
    const START: Extent = Extent { step: 1.0, before: 0.0, after: 0.0 };

    /// That of an output whose operand this is; `None` for everything.
    fn through(self, reach: Reach) -> Option<Extent> {
        let Reach::Pixels { before, after, stride, upscale } = reach else { return None };
        let [before, after, stride, upscale] = [before, after, stride, upscale].map(|n| n as f64);
        // An output pixel may lie anywhere in the operand's pixel that it is a part of.
        let part = (upscale - 1.0) / upscale;
        Some(Extent {
            step: self.step * stride / upscale,
            before: self.before + self.step * (before + part),
            after: self.after + self.step * (after + part + 1.0 - stride).max(0.0),
        })
    }

    /// What an output that depends on two values of one resolution depends on.
    fn with(self, other: Extent) -> Extent {
        Extent { step: self.step, before: self.before.max(other.before), after: self.after.max(other.after) }
    }
}

/// Whether a value depends on the start, and how.
#[derive(Clone, Copy, Debug)]
enum Dependence {
    None,
    Local(Extent),
    Everything,
}

impl Tape {
    /// Pixels of `from` around its own place that a pixel of `to` depends on at most, in any direction; `None` if it
    /// depends on all of them. Values that do not come from `from`, such as weights, do not count.
    pub fn reach(&self, from: Value, to: Value) -> Option<usize> {
        let mut known: Vec<Dependence> = Vec::with_capacity(to.index() + 1);
        for (i, node) in self.nodes().iter().enumerate().take(to.index() + 1) {
            let dependence = match &node.source {
                _ if i == from.index() => Dependence::Local(Extent::START),
                Source::Op(op) => self.dependence(op.as_ref(), Value::at(i), &known),
                Source::Input(_) | Source::State | Source::Const(_) => Dependence::None,
            };
            known.push(dependence);
        }
        match known[to.index()] {
            Dependence::None => Some(0),
            // Sums of binary fractions: what is left of a rounding error is no pixel.
            Dependence::Local(extent) => Some((extent.before.max(extent.after) - 1e-9).ceil().max(0.0) as usize),
            Dependence::Everything => None,
        }
    }

    fn dependence(&self, op: &dyn Op, value: Value, known: &[Dependence]) -> Dependence {
        let node = self.node(value);
        let shapes: Vec<Shape> = node.inputs.iter().map(|input| self.shape(*input)).collect();
        let mut all = Dependence::None;
        for (operand, input) in node.inputs.iter().enumerate() {
            let own = match known[input.index()] {
                Dependence::None => continue,
                Dependence::Everything => return Dependence::Everything,
                Dependence::Local(extent) => extent.through(op.reach(operand, &shapes, node.shape)),
            };
            all = match (all, own) {
                (_, None) => return Dependence::Everything,
                (Dependence::Local(before), Some(own)) if before.step == own.step => {
                    Dependence::Local(before.with(own))
                }
                (Dependence::None, Some(own)) => Dependence::Local(own),
                // Two resolutions in one op.
                _ => return Dependence::Everything,
            };
        }
        all
    }
}
