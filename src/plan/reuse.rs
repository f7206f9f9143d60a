//! Whose place a step's output may take: that of an operand which nothing needs any more.

use super::place::{Placer, Reads};
use super::{Base, Loc, Root, Step};
use crate::graph::{Exec, Value};
use crate::types::Shape;

impl Placer<'_> {
    /// An operand of the step that has the output's extent and is read by nothing later, so that the output
    /// can take its place.
    pub(super) fn dying_operand(&self, step: &Step, output: Value, at: usize, reads: &Reads) -> Option<Loc> {
        if !self.options.share {
            return None;
        }
        let (shape, element) = (self.tape().shape(output), self.storage.element(output));
        let kernel_inputs: &[Loc] = if let Base::Kernel(_, inputs) = &step.base { inputs } else { &[] };
        let all = step.reads();
        let mut candidates: Vec<Loc> = if let Base::Carrier(loc) = &step.base { vec![*loc] } else { vec![] };
        candidates.extend(
            step.stages
                .iter()
                .flat_map(|s| s.operands.iter().enumerate().filter(|(k, _)| *k != s.carrier).map(|(_, l)| *l)),
        );
        candidates.into_iter().find(|c| {
            c.shape == shape
                && c.element == element
                && !kernel_inputs.iter().any(|k| k.overlaps(c))
                && all.iter().all(|r| r == c || !r.overlaps(c))
                && self.is_read_until(c, at, reads)
        })
    }

    /// The operand of a kernel that works in place, if nothing else needs its memory.
    pub(super) fn source_of_kernel(&self, step: &Step, output: Value, at: usize, reads: &Reads) -> Option<Loc> {
        let Base::Kernel(op, inputs) = &step.base else { return None };
        let Exec::Kernel(kernel) = op.exec() else { return None };
        let (shape, element, source) = (self.tape().shape(output), self.storage.element(output), inputs[0]);
        let shapes: Vec<Shape> = inputs.iter().map(|loc| loc.shape).collect();
        let fits = self.options.share
            && self.options.target.works_in_place(&kernel, &shapes, shape)
            && (source.shape.len(), source.element) == (shape.len(), element)
            && source.contiguous()
            && step.reads()[1..].iter().all(|r| !r.overlaps(&source))
            && step.writes().iter().all(|w| !w.overlaps(&source))
            && self.is_read_until(&source, at, reads);
        fits.then_some(Loc { shape, stride: shape.c(), ..source })
    }

    /// Whether the memory of `loc` is planned, and nothing reads it after item `at`.
    fn is_read_until(&self, loc: &Loc, at: usize, reads: &Reads) -> bool {
        let Root::Buffer(buffer) = loc.root else { return false };
        let over = |v: &Value| reads.get(v).is_none_or(|r| r.iter().all(|p| *p <= at));
        let elsewhere = |v: &Value| self.locs[v.index()].is_none_or(|l| !l.overlaps(loc));
        self.residents.get(&buffer).is_none_or(|values| values.iter().all(|v| elsewhere(v) || over(v)))
    }
}
