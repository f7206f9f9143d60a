//! Which windows a scene is cut into. The rule:
//!
//! 1. Neighbours share twice the network's reach, so that each pixel of the map comes from a window that shows all that it
//!    depends on. Windows are 128 pixels long, or as long as it takes for half of each to be kept.
//! 2. If windows of that length do not fit into memory, or the network looks everywhere, neighbours share 64 pixels of
//!    windows of 256 (of 128 where these do not fit), which are blended; a note says which difference to expect.
//!
//! A scene that fits into one window has no seams.

use super::PredictOptions;
use super::axis::{Axis, Seam};
use super::model::{Model, WindowShape};
use crate::types::DType;
use crate::{Error, Result};

/// Pixels along the side of a window.
const WINDOW: usize = 128;
/// The same where seams cannot be avoided.
const LARGE_WINDOW: usize = 256;
/// Pixels that windows share there.
const OVERLAP: usize = 64;
/// Windows that grow do so in steps of this.
const STEP: usize = 32;
/// Memory of a plan at most, in bytes, where the window or the batch is not asked for.
const PLAN_BYTES: usize = 1 << 30;
/// Windows of a batch on a device with memory of its own.
const DEVICE_BATCH: usize = 8;

/// How a scene is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tiling {
    /// Rows of windows.
    pub rows: Axis,
    /// Columns of windows.
    pub columns: Axis,
    /// A batch of them.
    pub shape: WindowShape,
    /// Input pixels around a window that pixels without a value are filled from.
    pub around: usize,
    /// What the user should know.
    pub note: Option<String>,
}

/// The tiling of a scene of `size` (rows, columns), whose raw values are of type `dtype`.
///
/// # Errors
/// If the options ask for what cannot be, or the network cannot work on such windows.
pub(super) fn choose(model: &Model, options: &PredictOptions, size: (usize, usize), dtype: DType) -> Result<Tiling> {
    let reach = model.reach()?;
    let limit = model.device().available_memory()?.map_or(PLAN_BYTES, |bytes| PLAN_BYTES.min(bytes / 2));
    let shape = |window: usize, batch: usize| WindowShape {
        batch,
        height: window.min(size.0),
        width: window.min(size.1),
        dtype,
    };
    let fits = |window: usize, batch: usize| Ok::<bool, Error>(model.plan_bytes(shape(window, batch))? <= limit);
    let wanted = reach.map(|reach| WINDOW.max(4 * reach).next_multiple_of(STEP));
    let window = match (options.window, wanted) {
        (Some(window), _) => window,
        (None, Some(wanted)) if fits(wanted, 1)? => wanted,
        (None, _) if fits(LARGE_WINDOW, 1)? => LARGE_WINDOW,
        (None, _) => WINDOW,
    };
    let exact = reach.filter(|reach| 2 * reach + window / 8 <= window && 2 * reach < window);
    let overlap = match (options.overlap, exact) {
        (Some(overlap), _) => overlap,
        (None, Some(reach)) => 2 * reach,
        (None, None) => OVERLAP.min(window / 2),
    };
    if overlap >= window {
        let message = format!("windows of {window} pixels cannot share {overlap} with each neighbour");
        return Err(Error::usage(message).with_hint("use a smaller --overlap or a larger --window"));
    }
    let margin = reach.filter(|reach| 2 * reach <= overlap);
    let seam = Seam { overlap, margin: margin.unwrap_or(0), blend: options.blend };
    let (rows, columns) = (Axis::new(size.0, window, seam), Axis::new(size.1, window, seam));
    let has_seams = rows.count() * columns.count() > 1;
    let note = (has_seams && margin.is_none()).then(|| note(reach, window, overlap));
    let batch = match options.batch {
        Some(batch) => batch,
        None => {
            let mut batch = if model.device().memory_in_use().is_some() { DEVICE_BATCH } else { 1 };
            batch = batch.min(columns.count());
            while batch > 1 && !fits(window, batch)? {
                batch /= 2;
            }
            batch
        }
    };
    let around = margin.unwrap_or_else(|| reach.unwrap_or(window).min(window));
    Ok(Tiling { rows, columns, shape: shape(window, batch), around, note })
}

fn note(reach: Option<usize>, window: usize, overlap: usize) -> String {
    match reach {
        None => format!(
            "the generator looks at the whole of a window (as global pooling does), so that the map depends on where \
             windows lie; windows of {window} pixels share {overlap} with each neighbour, which are blended"
        ),
        Some(reach) => format!(
            "the generator looks {reach} pixels far, and windows of {window} pixels share {overlap} with each neighbour: \
             the map differs slightly from that of one window around seams, which are blended; --window {} avoids it, \
             if memory allows",
            (4 * reach).next_multiple_of(STEP)
        ),
    }
}
