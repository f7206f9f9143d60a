//! Helpers for ops on flat buffers and scalars: fixed blocks of work, f64 partial results of parallel items.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;
use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{DeviceView, THREADS};
use crate::graph::{Application, Tape};

/// Elements of a flat buffer that one item of parallel work takes. Fixed, so that results do not depend on
/// the number of threads.
const BLOCK: usize = 16 * 1024;

/// Calls `work(range, item)` for each block of `0..len`, in parallel.
pub fn for_blocks(ctx: &Ctx, len: usize, work: &(dyn Fn(Range<usize>, usize) + Sync)) {
    ctx.pool.run(len.div_ceil(BLOCK), &|item, _| work(item * BLOCK..len.min((item + 1) * BLOCK), item));
}

/// Number of blocks of `0..len`.
pub fn block_count(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// Blocks of a CUDA kernel that goes through `len` elements in strides of the grid: enough for a large GPU, and
/// few enough that their partial results are soon added.
pub fn cuda_blocks(len: usize) -> usize {
    len.div_ceil(4 * THREADS).clamp(1, 528)
}

/// Contiguous operands as rows, and how many elements a thread takes at a time: 4 where all are aligned vectors.
///
/// # Panics
/// If one of them has gaps.
pub fn rows<const N: usize>(views: [DeviceView; N]) -> ([DeviceView; N], usize) {
    let rows = views.map(|v| v.flat().expect("flat buffers are contiguous"));
    let vectors = rows.iter().all(|v| v.shape.c().is_multiple_of(4) && v.has_vectors());
    (rows, if vectors { 4 } else { 1 })
}

/// The value of a scalar operand.
pub fn scalar(view: &View) -> f32 {
    view.pixel(0)[0]
}

/// f64 results of parallel items, to be added up in the order of the items.
pub struct Partials(Vec<AtomicU64>);

impl Partials {
    /// Room for `count` results, all 0.
    pub fn new(count: usize) -> Self {
        Partials((0..count).map(|_| AtomicU64::new(0f64.to_bits())).collect())
    }
    /// Sets result `i`.
    pub fn set(&self, i: usize, value: f64) {
        self.0[i].store(value.to_bits(), Ordering::Relaxed);
    }
    /// Result `i`.
    pub fn get(&self, i: usize) -> f64 {
        f64::from_bits(self.0[i].load(Ordering::Relaxed))
    }
    /// The sum of all results in order.
    pub fn sum(&self) -> f64 {
        (0..self.0.len()).map(|i| self.get(i)).sum()
    }
}

/// The error of an op that training never differentiates.
pub fn no_derivative(tape: &Tape, at: &Application, op: &'static str) -> Error {
    Error::Shape {
        node: tape.node(at.output).path.to_string(),
        op,
        message: "this op has no derivative; use it for metrics and updates only".into(),
    }
}
