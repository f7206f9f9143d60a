//! Sums over the pixels of a group: f32 inside a fixed block, f64 over blocks, in a fixed order.

use std::ops::Range;

use crate::device::cpu::Ctx;
use crate::types::Shape;

/// Channels that are summed at a time: their sums stay in registers.
pub const LANES: usize = 32;

/// Takes a group, some channels, and the group's partial sums.
pub type Finish<'a> = dyn Fn(usize, Range<usize>, &[f32]) + Sync + 'a;

/// How the pixels of a tensor are cut into groups and blocks.
#[derive(Clone, Copy)]
pub struct Blocks {
    /// Groups of pixels.
    pub groups: usize,
    /// Pixels of a group.
    pub group: usize,
    /// Channels.
    pub channels: usize,
    /// Pixels of a block.
    block: usize,
}

impl Blocks {
    /// The cut for `x`; it does not depend on the number of threads.
    pub fn new(x: Shape, groups: usize) -> Self {
        let group = super::group_pixels(x, groups);
        // 64 KB: read twice from the second-level cache.
        let block = (16_384 / x.c()).clamp(16, 1024);
        Blocks { groups, group, channels: x.c(), block }
    }

    /// Blocks of a group.
    pub fn per_group(&self) -> usize {
        self.group.div_ceil(self.block)
    }

    /// Floats that [`Blocks::run`] keeps for `parts` sums per channel.
    pub fn scratch(&self, parts: usize) -> usize {
        self.groups * self.per_group() * parts * self.channels
    }

    /// Pixels of block `b` of a group.
    pub fn len(&self, b: usize) -> usize {
        self.block.min(self.group - b * self.block)
    }

    /// Calls `block(first pixel, pixels, partial sums)` for every block, then
    /// `finish(group, channels, partials of the group)` for every group and 64 channels.
    pub fn run(
        &self,
        ctx: &Ctx,
        scratch: &mut [f32],
        parts: usize,
        block: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
        finish: &Finish,
    ) {
        let (per_group, row) = (self.per_group(), parts * self.channels);
        let partials = &mut scratch[..self.groups * per_group * row];
        ctx.pool.run_parts(partials, row, &|item, sums| {
            let (g, b) = (item / per_group, item % per_group);
            block(g * self.group + b * self.block, self.len(b), sums);
        });
        let partials = &*partials;
        let in_group = self.channels.div_ceil(64);
        ctx.pool.run(self.groups * in_group, &|item, _| {
            let (g, c0) = (item / in_group, item % in_group * 64);
            let rows = &partials[g * per_group * row..][..per_group * row];
            finish(g, c0..(c0 + 64).min(self.channels), rows);
        });
    }
}
