//! Concatenations and flat views: where their operands belong, and the copies that remain where an operand
//! could not be computed in place.

use super::place::Placer;
use super::{Base, Loc, Step, op_of};
use crate::graph::{Axis, Exec, Tape, Value, ViewOf};
use crate::types::{Precision, Shape};
use crate::{Error, Result};

/// Whether a node may need copies: a concatenation, or a view that needs contiguous memory.
pub(super) fn is_gather(tape: &Tape, v: Value) -> bool {
    matches!(op_of(tape, v).map(|op| op.exec()), Some(Exec::Concat(_) | Exec::View(ViewOf::Flat { .. })))
}

impl Placer<'_> {
    /// The copies that a concatenation or a flat view still needs, if any.
    pub(super) fn gather_step(&mut self, v: Value) -> Result<Option<Step>> {
        let tape = self.tape();
        let node = tape.node(v);
        let whole = self.loc(v)?;
        let mut copies = Vec::new();
        let mut zeros = Vec::new();
        match op_of(tape, v).map(|op| op.exec()) {
            Some(Exec::Concat(axis)) => {
                for (k, operand) in node.inputs.iter().enumerate() {
                    let (from, to) = (self.loc(*operand)?, part(tape, v, &axis, whole, k));
                    if from != to {
                        copies.push((from, to));
                    }
                }
                if let Axis::Flat(offsets) = axis {
                    zeros = gaps(offsets, node.inputs.iter().map(|o| tape.shape(*o).len()), whole);
                }
            }
            Some(Exec::View(ViewOf::Flat { offset })) => {
                let base = self.loc(node.inputs[0])?;
                if !base.contiguous() {
                    if offset != 0 || base.shape.len() != whole.shape.len() {
                        return Err(Error::Internal(format!("{}: a part of strided memory", node.path)));
                    }
                    copies.push((base, Loc { shape: base.shape, stride: base.shape.c(), ..whole }));
                }
            }
            _ => {}
        }
        let empty = copies.is_empty() && zeros.is_empty();
        let base = Base::Copy { copies, zeros };
        let step = Step {
            path: node.path.clone(),
            base,
            stages: vec![],
            stores: vec![],
            scratch: (0, 0),
            macs: 0,
            precision: Precision::F32,
        };
        Ok(if empty { None } else { Some(step) })
    }
}

/// Where operand `k` of concatenation `v` belongs inside `whole`.
pub(super) fn part(tape: &Tape, v: Value, axis: &Axis, whole: Loc, k: usize) -> Loc {
    let inputs = &tape.node(v).inputs;
    let shape = tape.shape(inputs[k]);
    match axis {
        Axis::Channels => {
            let before: usize = inputs[..k].iter().map(|o| tape.shape(*o).c()).sum();
            Loc { offset: whole.offset + before, shape, ..whole }
        }
        Axis::Flat(offsets) => Loc { offset: whole.offset + offsets[k], shape, stride: shape.c(), ..whole },
    }
}

fn gaps(offsets: &[usize], lens: impl Iterator<Item = usize>, whole: Loc) -> Vec<Loc> {
    let mut zeros = Vec::new();
    let mut end = 0;
    let total = whole.shape.len();
    for (start, stop) in offsets.iter().zip(lens).map(|(o, l)| (*o, o + l)).chain([(total, total)]) {
        if start > end {
            let shape = Shape::vector(start - end);
            zeros.push(Loc { offset: whole.offset + end, shape, stride: shape.c(), ..whole });
        }
        end = stop;
    }
    zeros
}
