//! Gives every buffer an offset in the arena so that buffers that are alive at the same time do not overlap:
//! largest first, each at the lowest offset that is free during its life.

use super::place::Placed;
use super::{Base, Loc, Plan, PlanOptions, Root};
use crate::types::DType;

/// Floats between possible starts of buffers: a cache line of 64 bytes.
const ALIGN: usize = 16;

/// First and last step that touch a buffer, and its length in floats.
#[derive(Clone, Copy, Debug)]
struct Life {
    first: usize,
    last: usize,
    len: usize,
}

impl Plan {
    /// Bytes that a device holds for the plan beside arena and states: input slots, constants, and what it reads back.
    pub fn held_bytes(&self) -> usize {
        let inputs = self.inputs.iter().map(|slot| slot.shape.len() * slot.dtype.size());
        let constants = self.constants.iter().map(|data| data.len() * DType::F32.size());
        let outputs = self.outputs.iter().map(|(_, loc)| loc.shape.len() * DType::F32.size());
        inputs.chain(constants).chain(outputs).sum()
    }
}

/// Rewrites all locations from buffer-relative to arena offsets; returns the arena's length in floats.
pub fn assign(placed: &mut Placed, options: PlanOptions) -> usize {
    let end = placed.steps.len();
    let mut lives: Vec<Life> =
        placed.buffers.iter().map(|len| Life { first: usize::MAX, last: 0, len: *len }).collect();
    let mut touch = |loc: &Loc, step: usize| {
        if let Root::Buffer(b) = loc.root {
            lives[b].first = lives[b].first.min(step);
            lives[b].last = lives[b].last.max(step);
        }
    };
    for (i, step) in placed.steps.iter().enumerate() {
        step.reads().iter().chain(&step.writes()).for_each(|loc| touch(loc, i));
    }
    let ends = placed.outputs.iter().map(|o| &o.1).chain(&placed.checks);
    ends.chain(placed.commits.iter().flat_map(|c| &c.inputs)).for_each(|loc| touch(loc, end));
    let buffers = lives.len();
    for (i, step) in placed.steps.iter().enumerate() {
        lives.push(Life { first: i, last: i, len: step.scratch.1 });
    }
    let (offsets, total) = if options.share { pack(&lives) } else { apart(&lives) };
    let shift = |loc: &mut Loc| {
        if let Root::Buffer(b) = loc.root {
            loc.offset += offsets[b] * 4 / loc.element.size();
            loc.root = Root::Buffer(0);
        }
    };
    for (i, step) in placed.steps.iter_mut().enumerate() {
        step.scratch.0 = offsets[buffers + i];
        match &mut step.base {
            Base::Kernel(_, inputs) => inputs.iter_mut().for_each(shift),
            Base::Carrier(loc) => shift(loc),
            Base::Copy { copies, zeros } => {
                copies.iter_mut().for_each(|(from, to)| {
                    shift(from);
                    shift(to);
                });
                zeros.iter_mut().for_each(shift);
            }
        }
        step.stages.iter_mut().flat_map(|s| &mut s.operands).for_each(shift);
        step.stores.iter_mut().for_each(|(_, loc)| shift(loc));
    }
    placed.outputs.iter_mut().for_each(|(_, loc)| shift(loc));
    placed.checks.iter_mut().for_each(shift);
    placed.commits.iter_mut().flat_map(|c| &mut c.inputs).for_each(shift);
    placed.segments.iter_mut().filter_map(|s| s.bucket.as_mut()).for_each(shift);
    total
}

/// The best of several greedy packings (Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
/// 2020), each of which wins for some programs: orders by size, by life, and by how much is alive at the same time;
/// each buffer in the lowest gap, or in the tightest one.
fn pack(lives: &[Life]) -> (Vec<usize>, usize) {
    let used: Vec<usize> = (0..lives.len()).filter(|i| lives[*i].len > 0 && lives[*i].first != usize::MAX).collect();
    let alive = alive_together(lives, &used);
    let span = |i: usize| lives[i].last - lives[i].first + 1;
    let keys: [&dyn Fn(usize) -> (usize, usize); 4] =
        [&|i| (lives[i].len, 0), &|i| (lives[i].len, span(i)), &|i| (span(i), lives[i].len), &|i| {
            (alive[i], lives[i].len)
        }];
    let mut best: Option<(Vec<usize>, usize)> = None;
    for key in keys {
        let mut order = used.clone();
        order.sort_by_key(|i| (std::cmp::Reverse(key(*i)), *i));
        for tightest in [false, true] {
            let packed = pack_in_order(lives, &order, tightest);
            if best.as_ref().is_none_or(|(_, total)| packed.1 < *total) {
                best = Some(packed);
            }
        }
    }
    best.unwrap_or_else(|| (vec![0; lives.len()], 0))
}

/// For each buffer, the most that is alive at any moment of its life.
fn alive_together(lives: &[Life], used: &[usize]) -> Vec<usize> {
    let end = used.iter().map(|i| lives[*i].last + 1).max().unwrap_or(0);
    let mut at = vec![0usize; end];
    used.iter().for_each(|i| at[lives[*i].first..=lives[*i].last].iter_mut().for_each(|sum| *sum += lives[*i].len));
    let mut most = vec![0; lives.len()];
    used.iter().for_each(|i| most[*i] = at[lives[*i].first..=lives[*i].last].iter().copied().max().unwrap_or(0));
    most
}

/// Each buffer of `order` where nothing else is during its life: at the lowest offset, or in the tightest gap.
fn pack_in_order(lives: &[Life], order: &[usize], tightest: bool) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; lives.len()];
    let mut total = 0;
    for (rank, &i) in order.iter().enumerate() {
        let life = lives[i];
        let together = |j: &&usize| lives[**j].first <= life.last && life.first <= lives[**j].last;
        let mut taken: Vec<(usize, usize)> =
            order[..rank].iter().filter(together).map(|j| (offsets[*j], offsets[*j] + lives[*j].len)).collect();
        taken.sort_unstable();
        let (mut at, mut gap) = (0usize, None);
        for (start, stop) in taken {
            if at + life.len <= start && gap.is_none_or(|(_, room)| start - at < room) {
                gap = Some((at, start - at));
                if !tightest {
                    break;
                }
            }
            at = at.max(stop.next_multiple_of(ALIGN));
        }
        offsets[i] = gap.map_or(at, |(at, _)| at);
        total = total.max(offsets[i] + life.len);
    }
    (offsets, total)
}

/// No sharing: one after the other.
fn apart(lives: &[Life]) -> (Vec<usize>, usize) {
    let mut total = 0usize;
    let offsets = lives
        .iter()
        .map(|life| {
            let at = total.next_multiple_of(ALIGN);
            total = at + life.len;
            at
        })
        .collect();
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_together_never_overlap() {
        let life = |first, last, len| Life { first, last, len };
        let lives = [life(0, 2, 100), life(1, 3, 50), life(3, 5, 100), life(4, 6, 70), life(0, 6, 10), life(6, 6, 300)];
        let (offsets, total) = pack(&lives);
        for i in 0..lives.len() {
            assert!(offsets[i] + lives[i].len <= total);
            for j in 0..i {
                let together = lives[i].first <= lives[j].last && lives[j].first <= lives[i].last;
                let apart = offsets[i] + lives[i].len <= offsets[j] || offsets[j] + lives[j].len <= offsets[i];
                assert!(!together || apart, "{i} and {j} overlap");
            }
        }
        assert!(total < lives.iter().map(|l| l.len).sum());
    }
}
