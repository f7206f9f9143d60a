//! Sums over pixels on CUDA devices: how they are cut into blocks (`kernels/include/columns.cuh`), and the launches
//! of `kernels/sum_to.cu`.

use super::{Expand, SumTo};
use crate::device::cuda::driver::DevicePtr;
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch, THREADS};
use crate::graph::CudaKernel;
use crate::ops::norm::group_pixels;
use crate::types::Shape;

/// Blocks that fill a large GPU four times.
const BLOCKS: usize = 528;
/// Channels of a block, at most: 32 vectors.
const BLOCK_CHANNELS: usize = 128;
/// Values that make a part worth its own block.
const LEAST_VALUES: usize = 8192;
/// Most values of a block: 512 for each thread, which are summed in f32.
const MOST_VALUES: usize = 512 * THREADS;
/// Columns that neighbouring threads take.
const LANES: usize = 32;

/// A kernel: the stem of its file, and its name.
type Named = (&'static str, &'static str);

/// 4 if all of these tensors can be read four channels at a time, else 1.
pub(in crate::ops) fn vector_of(views: &[DeviceView]) -> usize {
    let has_vectors = |v: &DeviceView| v.shape.c().is_multiple_of(4) && v.has_vectors();
    if views.iter().all(has_vectors) { 4 } else { 1 }
}

/// `columns` in equal shares of at most [`LANES`]: their width, and how many there are.
pub(in crate::ops) fn lanes(columns: usize) -> (usize, usize) {
    let tiles = columns.div_ceil(LANES);
    let lanes = columns.div_ceil(tiles);
    (lanes, columns.div_ceil(lanes))
}

/// How the pixels of a tensor are cut into groups and parts of groups. It depends on extents alone.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Columns {
    groups: usize,
    /// Pixels of a group.
    group: usize,
    channels: usize,
    /// Parts of a group.
    parts: usize,
    /// Pixels of a part; the last may have fewer.
    part: usize,
}

impl Columns {
    /// The cut of `x` into groups of pixels that follow each other.
    pub fn new(x: Shape, groups: usize) -> Columns {
        let group = group_pixels(x, groups);
        let values = group * x.c().min(BLOCK_CHANNELS);
        let filling = (BLOCKS / (groups * x.c().div_ceil(BLOCK_CHANNELS))).max(1);
        let parts = values.div_ceil(LEAST_VALUES).min(filling).max(values.div_ceil(MOST_VALUES)).max(1);
        let part = group.div_ceil(parts).max(1);
        Columns { groups, group, channels: x.c(), parts: group.div_ceil(part), part }
    }

    /// Floats of scratch memory for `sums` sums of every channel of every part.
    pub fn scratch(&self, sums: usize) -> usize {
        self.groups * self.parts * sums * self.channels
    }

    /// What a kernel over the parts needs to find its place.
    pub fn args(&self, vector: usize) -> Args {
        self.cut().size("lanes", lanes(self.channels / vector).0).fixed("V", vector)
    }

    fn cut(&self) -> Args {
        Args::new().size("group_pixels", self.group).size("part_pixels", self.part)
    }

    /// Blocks of a kernel over the parts: parts, shares of the channels, groups.
    fn grid(&self, vector: usize) -> [usize; 3] {
        [self.parts, lanes(self.channels / vector).1, self.groups]
    }

    /// The launch of a kernel that writes `sums` sums of every channel of every part to `scratch`.
    pub fn partials(
        &self,
        kernel: Named,
        (vector, args): (usize, Args),
        scratch: DevicePtr,
        sums: usize,
    ) -> KernelLaunch {
        let shape = Shape([self.groups * self.parts * sums, 1, 1, self.channels]);
        let args = args.output("to", DeviceView::floats(scratch, shape));
        KernelLaunch::new(kernel.0, kernel.1, 1, args).with_grid(self.grid(vector))
    }

    /// The launch of a kernel that makes one row of `to` of the partial sums of each group.
    pub fn finish(
        &self,
        kernel: Named,
        args: impl FnOnce(Args) -> Args,
        sums: DevicePtr,
        to: DeviceView,
    ) -> KernelLaunch {
        let (lanes, tiles) = lanes(self.channels);
        let args = args(self.cut())
            .pointer("sums", "const float", sums)
            .size("parts", self.parts)
            .size("lanes", lanes)
            .output("to", to);
        KernelLaunch::new(kernel.0, kernel.1, 1, args).with_grid([tiles, self.groups, 1])
    }

    /// Launches of a kernel that sums something for every channel or, without `keep_c`, over all channels, and of
    /// the one that adds its parts. The result, one row for each group, is divided by `count`.
    pub fn launches(
        &self,
        call: &CudaCall,
        kernel: Named,
        (vector, args): (usize, Args),
        keep_c: bool,
        count: usize,
    ) -> Vec<KernelLaunch> {
        let grid = self.grid(vector);
        let (rows, columns) = if keep_c { (self.parts, self.channels) } else { (self.parts * grid[1], 1) };
        let first = |to: DeviceView, count: usize| {
            let args = args.clone().output("to", to).size("count", count);
            KernelLaunch::new(kernel.0, kernel.1, 1, args).with_grid(grid)
        };
        if rows == 1 {
            return vec![first(call.output, count)];
        }
        let shape = Shape([self.groups * rows, 1, 1, columns]);
        let partial = DeviceView::floats(call.scratch, shape);
        vec![first(partial, 1), sum_rows(partial, count, call.output)]
    }
}

/// The sums over equal runs of the rows of `from`, one run for each row of `to`, divided by `count`.
pub(in crate::ops) fn sum_rows(from: DeviceView, count: usize, to: DeviceView) -> KernelLaunch {
    let (lanes, tiles) = lanes(to.shape.c());
    let args = Args::new()
        .pointer("sums", "const float", from.ptr)
        .size("rows", from.shape.n() / to.shape.n())
        .size("lanes", lanes)
        .size("count", count)
        .output("to", to);
    KernelLaunch::new("sum_to", "sum_rows", 1, args).with_grid([tiles, to.shape.n(), 1])
}

/// Sums of the one operand, or of the product of two, over the pixels of each row of the output.
pub(in crate::ops) fn sum_pixels(call: &CudaCall, count: usize) -> Vec<KernelLaunch> {
    let (x, to) = (call.inputs[0], call.output.shape);
    let columns = Columns::new(x.shape, to.n());
    let vector = vector_of(call.inputs);
    let keep_c = to.c() > 1;
    let args = operands(call, columns.args(vector)).fixed("KEEP_C", usize::from(keep_c));
    columns.launches(call, ("sum_to", "sum_to"), (vector, args), keep_c, count)
}

/// Sums that keep pixels.
fn sum_to_pixels(call: &CudaCall) -> Vec<KernelLaunch> {
    let args = operands(call, Args::new()).output("to", call.output);
    vec![KernelLaunch::over("sum_to", "sum_to_pixels", call.output.shape.len(), args)]
}

fn operands(call: &CudaCall, args: Args) -> Args {
    let args = args.input("x", call.inputs[0]).fixed("PRODUCT", call.inputs.len() - 1);
    match call.inputs.get(1) {
        Some(y) => args.input("y", *y),
        None => args,
    }
}

/// The repetition of the operand to the output's extent.
fn expand(call: &CudaCall) -> Vec<KernelLaunch> {
    let vector = if call.inputs[0].has_vectors() { vector_of(&[call.output]) } else { 1 };
    let args = Args::new().input("x", call.inputs[0]).output("to", call.output).fixed("V", vector);
    vec![KernelLaunch::over("sum_to", "expand", call.output.shape.len() / vector, args)]
}

impl CudaKernel for SumTo {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        if self.keeps_pixels(inputs[0]) { 0 } else { Columns::new(inputs[0], self.target.n()).scratch(1) }
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        if self.keeps_pixels(call.inputs[0].shape) { sum_to_pixels(call) } else { sum_pixels(call, 1) }
    }
}

impl CudaKernel for Expand {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        expand(call)
    }
}
