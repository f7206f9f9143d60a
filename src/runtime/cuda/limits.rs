//! How large a plan may be: kernels number the elements of a tensor in `int`, and a grid has so many blocks in each
//! direction. What is larger is refused before anything runs.

use crate::device::cuda::driver::Geometry;
use crate::device::cuda::launch::KernelLaunch;
use crate::plan::{Loc, Plan};
use crate::{Error, Result};

/// Elements of a tensor, at most: kernels round indices up, or add a grid's threads to them, before they compare.
const MAX_ELEMENTS: usize = (1 << 31) - (1 << 24);
/// Blocks of a grid along x, y and z, at most.
const MAX_BLOCKS: [usize; 3] = [i32::MAX as usize, 65535, 65535];

/// Refuses a plan with tensors that kernels cannot number.
///
/// # Errors
/// Fails if there is one; names the node that has it.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let check = |path: &str, loc: &Loc| match loc.shape.len() {
        len if len <= MAX_ELEMENTS => Ok(()),
        len => Err(too_large(path, &format!("a tensor of {len} elements, kernels number {MAX_ELEMENTS}"))),
    };
    for step in &plan.steps {
        step.reads().iter().chain(&step.writes()).try_for_each(|loc| check(&step.path, loc))?;
    }
    for commit in &plan.commits {
        commit.inputs.iter().chain(&commit.states).try_for_each(|loc| check(commit.op.name(), loc))?;
    }
    plan.outputs.iter().try_for_each(|(name, loc)| check(name, loc))
}

/// The geometry of a launch for the node at `path`.
///
/// # Errors
/// Fails if there are more blocks than a grid can have.
pub(super) fn geometry(kernel: &KernelLaunch, path: &str) -> Result<Geometry> {
    let [x, y, z] = kernel.grid;
    if kernel.grid.iter().zip(MAX_BLOCKS).any(|(blocks, most)| *blocks > most) {
        let [mx, my, mz] = MAX_BLOCKS;
        let grid =
            format!("kernel {} has a grid of {x} x {y} x {z} blocks, a GPU runs {mx} x {my} x {mz}", kernel.kernel);
        return Err(too_large(path, &grid));
    }
    let grid = kernel.grid.map(|blocks| blocks as u32);
    Ok(Geometry { grid, block: [kernel.threads as u32, 1, 1], shared_bytes: kernel.shared_bytes as u32 })
}

fn too_large(path: &str, what: &str) -> Error {
    Error::device(format!("{path} is too large for a CUDA device: {what} at most")).with_hint(
        "choose a smaller batch (Data.train_batch_size; of validation Data.val_batch_size) or smaller patches \
         (Data.hr_size)",
    )
}
