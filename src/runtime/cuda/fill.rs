//! Memory filled with pseudo-random numbers by `kernels/fill.cu`.

use crate::device::cuda::compile::module::module;
use crate::device::cuda::driver::{DevicePtr, ModuleSource};
use crate::device::cuda::launch::args::Args;
use crate::device::cuda::launch::{KernelLaunch, THREADS};

/// Words that one thread fills, and the most blocks.
const WORDS: usize = 4;
const BLOCKS: usize = 1 << 12;

/// Whole words of one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// The allocation.
    pub base: DevicePtr,
    /// The first word, and the one past the last.
    pub words: (usize, usize),
}

impl Region {
    /// Fills it with the same numbers each time, of moderate size in every form that elements have.
    pub fn kernel(&self) -> KernelLaunch {
        let (first, end) = self.words;
        let at = |word: usize| self.base.offset_by(4 * word);
        let args = Args::new().pointer("base", "const unsigned", self.base);
        let args = args.pointer("to", "unsigned", at(first)).pointer("end", "unsigned", at(end));
        let blocks = (end - first).div_ceil(WORDS * THREADS).clamp(1, BLOCKS);
        KernelLaunch::new("fill", "fill", blocks, args)
    }
}

/// The module that fills memory, for checks that run no kernel.
pub fn fill_module() -> ModuleSource {
    module(&Region { base: DevicePtr(1 << 20), words: (0, 1) }.kernel(), true).0
}
