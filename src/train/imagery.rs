//! Whether a run continues on the imagery that it was trained on.

use std::path::Path;

use crate::checkpoint::{Imagery, Meta};
use crate::data::Dataset;
use crate::log::Messages;
use crate::{Error, Result};

/// What checkpoints keep of a data set.
pub(super) fn imagery(dataset: &Dataset) -> Imagery {
    let (images, contents) = dataset.contents();
    Imagery { images: images as u64, contents: format!("{contents:016x}") }
}

/// Compares the imagery with that of the checkpoint that a run continues from. Other imagery is a warning where the user
/// `accepts` it; then a validation that was under way begins again.
///
/// # Errors
/// [`Error::Checkpoint`] if it is other imagery.
pub(super) fn check_imagery(
    meta: &mut Meta,
    dataset: &Dataset,
    (checkpoint, accepts): (&Path, bool),
    messages: &Messages,
) -> Result<()> {
    let here = imagery(dataset);
    let Some(there) = meta.imagery.as_ref().filter(|there| **there != here) else { return Ok(()) };
    let what = match (there.images, here.images) {
        (before, now) if before != now => format!("{now} training images now, {before} then"),
        (count, _) => format!("{count} training images as then, but a file was changed or exchanged"),
    };
    let message = format!("the imagery is not what the run was trained on: {what}");
    if !accepts {
        return Err(Error::checkpoint(checkpoint, message).with_hint(
            "check that all files are there and Data names the right ones; --accept-new-data continues with these",
        ));
    }
    messages.warn(&format!("{message}; the run goes on with what there is"));
    meta.validation = None;
    Ok(())
}
