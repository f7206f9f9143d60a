//! The weight gradient of a large kernel with few output channels, as that of a 3×3 kernel with many: the kernel
//! is cut into 3×3 blocks, and block b sees d_output moved by 3b. With the moved copies stacked as channels,
//! Winograd's algorithm applies, and every input tile is transformed once for all blocks.

use super::winograd::CHANNEL_STEP;
use super::winograd_weight_grad::WinogradWeightGrad;
use crate::device::cpu::scratch::carve;
use crate::device::cpu::{Ctx, View, scratch};
use crate::types::ConvShape;

/// Side of a block.
const BLOCK: usize = 3;
/// Most stacked channels: with more, the direct way wastes too little.
const MOST_CHANNELS: usize = 128;
/// Fewest output pixels for which stacking and the transforms pay.
const LEAST_PIXELS: usize = 4096;

/// Sizes of the pass.
pub(super) struct StackedWeightGrad {
    shape: ConvShape,
    /// Blocks along an axis.
    blocks: usize,
    /// The 3×3 convolution with stacked output channels, of one image: the stack is the larger part of the scratch.
    stacked: ConvShape,
}

impl StackedWeightGrad {
    /// Whether the algorithm can compute a pass, and is the faster one.
    pub(super) fn suits(s: &ConvShape) -> bool {
        let blocks = s.ksize_h / BLOCK;
        s.ksize_h == s.ksize_w
            && blocks > 1
            && s.ksize_h.is_multiple_of(BLOCK)
            && [s.stride, s.dilation] == [1, 1]
            && !s.depthwise
            && s.in_ch.is_multiple_of(CHANNEL_STEP)
            && s.in_ch >= 2 * CHANNEL_STEP
            && s.out_ch * blocks * blocks <= MOST_CHANNELS
            && s.batch * s.out_h * s.out_w >= LEAST_PIXELS
    }

    pub(super) fn new(shape: &ConvShape) -> StackedWeightGrad {
        let s = *shape;
        let blocks = s.ksize_h / BLOCK;
        let moved = (blocks - 1) * BLOCK;
        let stacked = ConvShape {
            batch: 1,
            out_h: s.out_h + moved,
            out_w: s.out_w + moved,
            out_ch: (blocks * blocks * s.out_ch).next_multiple_of(CHANNEL_STEP),
            ksize_h: BLOCK,
            ksize_w: BLOCK,
            ..s
        };
        StackedWeightGrad { shape: s, blocks, stacked }
    }

    /// Floats of scratch: stacked d_output, stacked gradient, and what the 3×3 pass needs.
    fn parts(&self, threads: usize) -> [usize; 3] {
        let s = &self.stacked;
        let d_output = s.out_h * s.out_w * s.out_ch;
        [d_output, s.weight_len(), WinogradWeightGrad::new(s).scratch_len(threads)]
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        scratch::total(self.parts(threads))
    }

    /// Computes the gradient.
    ///
    /// # Safety
    /// The views and the gradient have the sizes of the shape.
    pub(super) unsafe fn run(&self, ctx: &Ctx, input: View, d_output: View, d_weight: &mut [f32], scratch: &mut [f32]) {
        let s = &self.stacked;
        let parts = self.parts(ctx.pool.threads());
        let [stack, gradient, inner] = carve(scratch, parts);
        // SAFETY: parts of the scratch memory that nothing else uses.
        let (gradient, inner) = unsafe {
            let gradient = std::slice::from_raw_parts_mut(gradient.at(0), parts[1]);
            (gradient, std::slice::from_raw_parts_mut(inner.at(0), parts[2]))
        };
        d_weight.fill(0.0);
        for n in 0..self.shape.batch {
            ctx.pool.run(s.out_h, &|y, _| {
                // SAFETY: each item writes one row of the stack.
                unsafe { self.stack_row(&d_output, n, y, stack.at(y * s.out_w * s.out_ch)) };
            });
            // SAFETY: all rows of the stack were written; the sizes are those of the 3×3 convolution.
            unsafe {
                let stack = std::slice::from_raw_parts(stack.at(0), parts[0]);
                let stack = View::new(stack, [1, s.out_h, s.out_w, s.out_ch]);
                WinogradWeightGrad::new(s).run(ctx, input.image(n), stack, gradient, inner);
            }
            self.add_unstacked(gradient, d_weight);
        }
    }

    /// One row of the stack: d_output, moved by each block's place, zero where it does not reach.
    unsafe fn stack_row(&self, d_output: &View, n: usize, y: usize, to: *mut f32) {
        let (width, channels, out_ch) = (self.stacked.out_w, self.stacked.out_ch, self.shape.out_ch);
        // SAFETY: the row has `width` pixels of `channels` floats; moved by at most `width - d_output.w()` pixels,
        // d_output's row lies inside.
        unsafe {
            to.write_bytes(0, width * channels);
            for block in 0..self.blocks * self.blocks {
                let (move_y, move_x) = (block / self.blocks * BLOCK, block % self.blocks * BLOCK);
                let Some(source_y) = y.checked_sub(move_y).filter(|y| *y < d_output.h()) else { continue };
                let from = d_output.at(n, source_y, 0);
                let to = to.add(move_x * channels + block * out_ch);
                for x in 0..d_output.w() {
                    let (from, to) = (from.add(x * d_output.stride()), to.add(x * channels));
                    (0..out_ch).for_each(|o| *to.add(o) = *from.add(o));
                }
            }
        }
    }

    /// From `[block][output channel][3][3][input channel]` to O,kh,kw,I.
    fn add_unstacked(&self, gradient: &[f32], d_weight: &mut [f32]) {
        let (k, out_ch) = (self.shape.ksize_h, self.shape.out_ch);
        let run = BLOCK * self.shape.in_ch;
        for (i, from) in gradient.chunks_exact(run).enumerate().take(self.blocks * self.blocks * out_ch * BLOCK) {
            let (stacked, tap_y) = (i / BLOCK, i % BLOCK);
            let (block, o) = (stacked / out_ch, stacked % out_ch);
            let (y, block_x) = (block / self.blocks * BLOCK + tap_y, block % self.blocks);
            let to = &mut d_weight[((o * k + y) * self.blocks + block_x) * run..][..run];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
}
