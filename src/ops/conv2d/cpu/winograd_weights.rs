//! Transformed weights of the Winograd convolutions, U = G g Gᵀ, in the order in which products read them.

use std::ops::Range;

use super::winograd::{MAX_OUTPUT, POINTS, Steps, transform_weight};
use crate::device::cpu::simd::{panel_width, panel_width_at};
use crate::device::cpu::{Ctx, Isa};

/// Source channels that are transformed at a time.
pub(super) const STAGED_SOURCES: usize = 128;

/// A pass's weights: O,kh,kw,I in memory, turned round for an input gradient.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// Side of the kernel.
    pub taps: usize,
    pub source_ch: usize,
    pub result_ch: usize,
    /// Whether the taps are turned round and the channels exchanged.
    pub flipped: bool,
}

impl Weights {
    /// Floats of memory that [`transform`](Weights::transform) uses, for panels of at most `width` channels.
    pub(super) fn staged_len(&self, width: usize) -> usize {
        self.taps * self.taps * STAGED_SOURCES.min(self.source_ch) * width
    }

    /// Transforms the weights of some source and result channels to
    /// `[panel][point][source channel][channel of the panel]`.
    ///
    /// # Safety
    /// `to` has room for 36 planes of `sources` × `results` floats, `results` rounded up to whole vectors;
    /// `staged` for [`staged_len`](Weights::staged_len).
    pub(super) unsafe fn transform(
        &self,
        ctx: &Ctx,
        weight: &[f32],
        sources: Range<usize>,
        results: Range<usize>,
        staged: *mut f32,
        to: *mut f32,
    ) {
        for channel in results.clone().step_by(panel_width(ctx.isa)) {
            let width = panel_width_at(ctx.isa, results.end, channel);
            let channels = channel..(channel + width).min(results.end);
            let plane = sources.len() * width;
            for first in sources.clone().step_by(STAGED_SOURCES) {
                let staged_sources = first..(first + STAGED_SOURCES).min(sources.end);
                // SAFETY: the caller's promise; the panels before this one are whole.
                unsafe {
                    let to = to.add((channel - results.start) * POINTS * sources.len());
                    let to = to.add((first - sources.start) * width);
                    self.transform_staged(
                        ctx.isa,
                        weight,
                        staged_sources,
                        channels.clone(),
                        [width, plane],
                        staged,
                        to,
                    );
                }
            }
        }
    }

    /// One panel and as many source channels as are staged.
    #[expect(clippy::too_many_arguments, reason = "an inner loop's operands")]
    unsafe fn transform_staged(
        &self,
        isa: Isa,
        weight: &[f32],
        sources: Range<usize>,
        channels: Range<usize>,
        [width, plane]: [usize; 2],
        staged: *mut f32,
        to: *mut f32,
    ) {
        let (taps, count) = (self.taps * self.taps, sources.len());
        let steps = Steps { channels: width, plane, row: 0, pixel: 0 };
        // SAFETY: the caller's promise.
        unsafe {
            let staged = std::slice::from_raw_parts_mut(staged, taps * count * width);
            for (tap, staged) in staged.chunks_exact_mut(count * width).enumerate() {
                self.stage_tap(weight, tap, sources.clone(), channels.clone(), width, staged);
            }
            for s in 0..count {
                let at = |tap: usize| staged.as_ptr().wrapping_add((tap.min(taps - 1) * count + s) * width);
                let from: [*const f32; MAX_OUTPUT * MAX_OUTPUT] = std::array::from_fn(at);
                transform_weight(isa, self.taps, &from, to.add(s * width), &steps);
            }
        }
    }

    /// One tap as `[source channel][channel of the panel]`, zero beyond the last channel.
    fn stage_tap(
        &self,
        weight: &[f32],
        tap: usize,
        sources: Range<usize>,
        channels: Range<usize>,
        width: usize,
        to: &mut [f32],
    ) {
        let (taps, valid) = (self.taps * self.taps, channels.len());
        if self.flipped {
            // Weight memory is (source of this pass, tap, result of this pass).
            for (s, to) in sources.zip(to.chunks_exact_mut(width)) {
                let from = &weight[(s * taps + taps - 1 - tap) * self.result_ch..][channels.clone()];
                to[..valid].copy_from_slice(from);
                to[valid..].fill(0.0);
            }
            return;
        }
        for r in 0..width {
            if r < valid {
                let from = &weight[((channels.start + r) * taps + tap) * self.source_ch..][sources.clone()];
                from.iter().zip(to.chunks_exact_mut(width)).for_each(|(w, to)| to[r] = *w);
            } else {
                to.chunks_exact_mut(width).for_each(|to| to[r] = 0.0);
            }
        }
    }
}
