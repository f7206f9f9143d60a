//! Which windows a scene is cut into. The rule:
//!
//! 1. Neighbours share twice the network's reach, so that each pixel of the map comes from a window that shows all that it
//!    depends on. Of the windows that fit into memory, those are taken with which the network has the fewest pixels to work
//!    on; half of each is kept at least.
//! 2. If no such windows fit into memory, or the network looks everywhere, neighbours share 64 pixels of
//!    windows of 256 (of 128 where these do not fit), which are blended; a note says which difference to expect.
//!
//! A scene that fits into one window has no seams.

use super::axis::{Axis, Seam};
use super::model::{Model, WindowShape};
use super::{Blend, PredictOptions};
use crate::types::DType;
use crate::{Error, Result};

/// Pixels along the side of a window at least.
const WINDOW: usize = 128;
/// At most: what is worked on twice is little then, and a row of windows is not too much to lose by a kill.
const LARGEST: usize = 512;
/// Pixels along the side of a window where seams cannot be avoided.
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
    let without_seams = |reach: Option<usize>| match reach {
        Some(reach) => exact_window(reach, size, &|window| fits(window, 1)),
        None => Ok(None),
    };
    let window = match options.window {
        Some(window) => window,
        None => match without_seams(reach)? {
            Some(window) => window,
            None if fits(LARGE_WINDOW, 1)? => LARGE_WINDOW,
            None => WINDOW,
        },
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

/// The side of windows without seams: of those that `fit` into memory, the smallest with the fewest pixels in all windows.
///
/// # Errors
/// Those of `fits`.
fn exact_window(reach: usize, size: (usize, usize), fits: &dyn Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    let least = WINDOW.max(4 * reach).next_multiple_of(STEP);
    if !fits(least)? {
        return Ok(None);
    }
    // Of steps from the least window on: one that fits, and one that does not or is not wanted.
    let (mut fit, mut beyond) = (0, LARGEST.saturating_sub(least) / STEP + 1);
    while fit + 1 < beyond {
        let middle = usize::midpoint(fit, beyond);
        if fits(least + middle * STEP)? { fit = middle } else { beyond = middle }
    }
    let seam = Seam { overlap: 2 * reach, margin: reach, blend: Blend::None };
    let pixels = |len: usize, window: usize| {
        let axis = Axis::new(len, window, seam);
        axis.count() * axis.window
    };
    let windows = (0..=fit).map(|step| least + step * STEP);
    Ok(windows.min_by_key(|window| pixels(size.0, *window) * pixels(size.1, *window)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_with_the_least_work_that_fit() {
        let window = |reach: usize, side: usize, most: usize| {
            exact_window(reach, (side, side), &|window| Ok(window <= most)).unwrap()
        };
        // A scene that one window holds is not cut, and the window is no larger than it takes.
        assert_eq!(window(10, 300, 1000), Some(320));
        assert_eq!(window(10, 100, 1000), Some(WINDOW));
        // 2 × 352 pixels where 2 × 512 would do as well, and 3 × 256 where no more fits.
        assert_eq!(window(32, 640, 1000), Some(352));
        assert_eq!(window(32, 640, 351), Some(256));
        // Half of a window is kept at least.
        assert_eq!(window(50, 5000, 200), None);
        assert_eq!(window(50, 5000, 224), Some(224));
        assert_eq!(window(200, 5000, 5000), Some(800));
        // What fits is found by halving.
        for most in (128..600).step_by(8) {
            let found = window(8, 1_000_000, most).unwrap();
            assert!(found <= most && found + STEP > most.min(LARGEST), "{found} of {most}");
        }
    }

    #[test]
    fn what_cannot_be_planned_is_an_error() {
        let broken = |_: usize| Err(Error::Internal("no plan".into()));
        assert!(exact_window(10, (300, 300), &broken).is_err());
    }
}
