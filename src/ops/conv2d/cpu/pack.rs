//! Weights in the order in which the direct kernels read them.

use super::direct::{Correlation, Lanes, padded};
use crate::device::cpu::Ctx;
use crate::device::cpu::micro::DOT_CHANNELS;
use crate::device::cpu::scratch::Shared;
use crate::device::cpu::simd::{MAX_LANES, lanes, panel_width, panel_width_at};
use crate::types::ConvShape;

/// Where weight (result channel, source channel, tap) is in O,kh,kw,I memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightOrder {
    result: usize,
    source: usize,
    tap: usize,
    ksize_w: usize,
}

impl WeightOrder {
    pub(super) fn new(s: &ConvShape, forward: bool) -> WeightOrder {
        let (o, i) = (s.taps() * s.weight_in_ch(), usize::from(!s.depthwise));
        let (result, source) = if forward || s.depthwise { (o, i) } else { (i, o) };
        WeightOrder { result, source, tap: s.weight_in_ch(), ksize_w: s.ksize_w }
    }
}

/// The packed weights of a phase.
#[derive(Clone, Copy)]
pub(super) struct PhaseWeights {
    pub ptr: *const f32,
    /// Floats of a run of the source.
    pub run: usize,
}

/// The packed weights of all phases.
pub(super) struct PackedWeights {
    phases: Vec<(Shared, usize)>,
    /// Most runs of any phase.
    pub max_runs: usize,
    /// Source channels of one tap.
    pub run_channels: usize,
}

impl PackedWeights {
    /// Floats that any instruction set needs.
    pub(super) fn max_len(c: &Correlation) -> usize {
        (0..c.phases * c.phases)
            .map(|p| {
                let (rows, cols) = (c.taps_y[p / c.phases].len(), c.taps_x[p % c.phases].len());
                let source = if c.lanes == Lanes::Depthwise { 1 } else { c.source_ch };
                // A run of the reduction kernel is rounded up to whole vectors.
                let run_pad = if c.lanes == Lanes::Reduction { MAX_LANES } else { 0 };
                rows * cols * (source + run_pad) * padded(c.result_ch)
            })
            .sum()
    }

    pub(super) fn phase(&self, phase: usize) -> PhaseWeights {
        let (ptr, run) = self.phases[phase];
        PhaseWeights { ptr: ptr.at(0), run }
    }

    /// Packs all phases into `room`.
    ///
    /// # Safety
    /// `room` has [`max_len`](PackedWeights::max_len) floats.
    pub(super) unsafe fn pack(ctx: &Ctx, c: &Correlation, weight: &[f32], room: Shared) -> PackedWeights {
        let (mut phases, mut offset, mut max_runs) = (Vec::with_capacity(c.phases * c.phases), 0, 0);
        for p in 0..c.phases * c.phases {
            let (rows, cols) = (&c.taps_y[p / c.phases], &c.taps_x[p % c.phases]);
            let consecutive = cols.windows(2).all(|w| w[1].1 == w[0].1 + 1);
            let merged = consecutive && c.lanes != Lanes::Depthwise;
            let run_taps = if merged { cols.len() } else { 1 };
            let taps: Vec<usize> =
                rows.iter().flat_map(|y| cols.iter().map(|x| (y.0 * c.order.ksize_w + x.0) * c.order.tap)).collect();
            let to = Shared::new(room.at(offset));
            // SAFETY: the phases' lengths add up to at most the room.
            offset += unsafe { pack_phase(ctx, c, weight, &taps, run_taps, to) };
            max_runs = max_runs.max(taps.len() / run_taps.max(1));
            phases.push((to, run_taps * c.source_ch));
        }
        PackedWeights { phases, max_runs, run_channels: c.source_ch }
    }
}

/// Packs one phase; the floats written.
unsafe fn pack_phase(ctx: &Ctx, c: &Correlation, weight: &[f32], taps: &[usize], run_taps: usize, to: Shared) -> usize {
    let vector = lanes(ctx.isa);
    match c.lanes {
        Lanes::Results => {
            let whole = panel_width(ctx.isa);
            let rows = taps.len() * c.source_ch;
            ctx.pool.run(c.result_ch.div_ceil(whole), &|p, _| {
                let width = panel_width_at(ctx.isa, c.result_ch, p * whole);
                // SAFETY: each panel is written by one item.
                let to = unsafe { std::slice::from_raw_parts_mut(to.at(p * rows * whole), rows * width) };
                pack_panel(c, weight, taps, p * whole, width, to);
            });
            rows * c.result_ch.next_multiple_of(vector)
        }
        Lanes::Reduction => {
            let run = run_taps * c.source_ch;
            let run_padded = run.next_multiple_of(vector);
            let len = taps.len() / run_taps.max(1) * run_padded * c.result_ch;
            // SAFETY: this phase's room.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(0), len) };
            pack_dot(c, weight, taps, [run, run_padded, vector], to);
            len
        }
        Lanes::Depthwise => {
            let channels = padded(c.result_ch);
            // SAFETY: this phase's room.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(0), taps.len() * channels) };
            for (&tap, to) in taps.iter().zip(to.chunks_exact_mut(channels)) {
                for (ch, to) in to.iter_mut().enumerate() {
                    *to = if ch < c.result_ch { weight[ch * c.order.result + tap] } else { 0.0 };
                }
            }
            taps.len() * channels
        }
    }
}

/// One panel: `[tap][source channel][width]`, zero beyond the last result channel.
fn pack_panel(c: &Correlation, weight: &[f32], taps: &[usize], first: usize, width: usize, to: &mut [f32]) {
    let valid = width.min(c.result_ch - first);
    for (&tap, to) in taps.iter().zip(to.chunks_exact_mut(c.source_ch * width)) {
        let from = &weight[tap + first * c.order.result..];
        if c.order.result == 1 {
            for (s, to) in to.chunks_exact_mut(width).enumerate() {
                to[..valid].copy_from_slice(&from[s * c.order.source..][..valid]);
                to[valid..].fill(0.0);
            }
            continue;
        }
        for r in 0..width {
            if r < valid {
                let from = &from[r * c.order.result..];
                (0..c.source_ch).for_each(|s| to[s * width + r] = from[s * c.order.source]);
            } else {
                (0..c.source_ch).for_each(|s| to[s * width + r] = 0.0);
            }
        }
    }
}

/// Groups of result channels: `[group][run][vector][channel of the group][lane]`, zero beyond a run's end.
fn pack_dot(c: &Correlation, weight: &[f32], taps: &[usize], [run, run_padded, vector]: [usize; 3], to: &mut [f32]) {
    let runs = (taps.len() * c.source_ch).checked_div(run).unwrap_or(0);
    let mut to = to.iter_mut();
    for group in (0..c.result_ch).step_by(DOT_CHANNELS) {
        let channels = DOT_CHANNELS.min(c.result_ch - group);
        for r in 0..runs {
            for k0 in (0..run_padded).step_by(vector) {
                for ch in group..group + channels {
                    for k in k0..k0 + vector {
                        let Some(to) = to.next() else { return };
                        let (tap, source) = ((r * run + k) / c.source_ch, k % c.source_ch);
                        *to = if k < run {
                            weight[ch * c.order.result + source * c.order.source + taps[tap]]
                        } else {
                            0.0
                        };
                    }
                }
            }
        }
    }
}
