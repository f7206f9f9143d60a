//! The entries of a plan.

use std::sync::Arc;

use super::Loc;
use crate::graph::{Exec, Op, OverRanks};
use crate::types::{Precision, Shape};

/// What a step computes before its pointwise stages.
#[derive(Clone, Debug)]
pub enum Base {
    /// A kernel.
    Kernel(Arc<dyn Op>, Vec<Loc>),
    /// Nothing: the stages start from these values.
    Carrier(Loc),
    /// Copies of memory and zeros in gaps: what a concatenation could not compute in place.
    Copy {
        /// From, to.
        copies: Vec<(Loc, Loc)>,
        /// Flat ranges to clear.
        zeros: Vec<Loc>,
    },
}

/// A pointwise op applied to the tile that a step works on; where the device can, also an op that moves its values.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The op: a pointwise one, or a kernel with a [`Kernel::shuffle_factor`](crate::graph::Kernel::shuffle_factor).
    pub op: Arc<dyn Op>,
    /// The operand that arrives in the tile.
    pub carrier: usize,
    /// All operands; in the carrier's place stands the step's output, which is not read.
    pub operands: Vec<Loc>,
}

impl Stage {
    /// The factor of the pixel shuffle, of a stage that is one.
    pub fn shuffle_factor(&self) -> Option<usize> {
        if let Exec::Kernel(kernel) = self.op.exec() { kernel.shuffle_factor } else { None }
    }
}

/// One entry of a plan: a kernel or pointwise base, then stages, then stores.
#[derive(Clone, Debug)]
pub struct Step {
    /// Path of the step's last node.
    pub path: Arc<str>,
    /// What runs first.
    pub base: Base,
    /// Pointwise ops on its result.
    pub stages: Vec<Stage>,
    /// (number of stages done, where the values then go). The last is the step's output.
    pub stores: Vec<(usize, Loc)>,
    /// Scratch memory in the arena: offset and length in floats.
    pub scratch: (usize, usize),
    /// Multiply-adds.
    pub macs: u64,
    /// In which precision products are computed.
    pub precision: Precision,
}

impl Step {
    /// Names of the ops in it: `conv2d+add+leaky_relu`.
    pub fn label(&self) -> String {
        let base = match &self.base {
            Base::Kernel(op, _) => Some(op.name()),
            Base::Copy { .. } => Some("copy"),
            Base::Carrier(_) => None,
        };
        base.into_iter().chain(self.stages.iter().map(|s| s.op.name())).collect::<Vec<_>>().join("+")
    }

    /// Extent of the values that stage `i` starts from, the base's result for stage 0.
    pub fn shape_before(&self, i: usize) -> Shape {
        let output = self.stores.last().map_or(Shape::SCALAR, |(_, to)| to.shape);
        let factors = self.stages[i..].iter().filter_map(Stage::shuffle_factor);
        factors.fold(output, |Shape([n, h, w, c]), r| Shape([n, h / r, w / r, c * r * r]))
    }

    /// Whether the base's result, computed as a whole before the stages, cannot lie where the step's output goes:
    /// the step still reads what is there, or moves values.
    pub fn keeps_result_aside(&self) -> bool {
        let Some((_, output)) = self.stores.last() else { return false };
        self.shape_before(0) != output.shape || self.reads().iter().any(|read| read.overlaps(output))
    }

    /// What ranks make of the step's output.
    pub fn over_ranks(&self) -> Option<OverRanks> {
        let Base::Kernel(op, _) = &self.base else { return None };
        if let Exec::Kernel(kernel) = op.exec() { kernel.over_ranks } else { None }
    }

    /// Every location that the step reads.
    pub fn reads(&self) -> Vec<Loc> {
        let mut reads = match &self.base {
            Base::Kernel(_, inputs) => inputs.clone(),
            Base::Carrier(loc) => vec![*loc],
            Base::Copy { copies, .. } => copies.iter().map(|c| c.0).collect(),
        };
        for s in &self.stages {
            reads.extend(s.operands.iter().enumerate().filter(|(k, _)| *k != s.carrier).map(|(_, l)| *l));
        }
        reads
    }

    /// Every location that the step writes.
    pub fn writes(&self) -> Vec<Loc> {
        match &self.base {
            Base::Copy { copies, zeros } => copies.iter().map(|c| c.1).chain(zeros.iter().copied()).collect(),
            _ => self.stores.iter().map(|s| s.1).collect(),
        }
    }
}
