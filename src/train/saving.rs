//! Checkpoints of a run: what is written, and how a run continues from it.

use std::path::Path;

use super::session::Session;
use crate::checkpoint::{Meta, TensorFile, write_checkpoint};
use crate::{Error, Result};

/// Writes all tensors of `session` and `meta` to `path`, atomically, one tensor after the other.
///
/// # Errors
/// I/O errors; [`Error::Diverged`] if a tensor is not finite. The file that was there before stays.
pub fn save(session: &Session, meta: &Meta, path: &Path) -> Result<()> {
    let shapes = session.tensor_shapes();
    let mut names = shapes.iter().map(|(name, _)| name);
    write_checkpoint(path, meta, &shapes, |write| {
        session.visit_tensors(&mut |values| {
            let name = names.next();
            match values.iter().find(|v| !v.is_finite()) {
                Some(value) => Err(Error::Diverged {
                    message: format!(
                        "after step {} tensor {} holds {value}; this state is not saved",
                        meta.step.saturating_sub(1),
                        name.map_or("?", String::as_str)
                    ),
                }),
                None => write(values),
            }
        })
    })
}

/// Takes tensors and counters of the checkpoint `path` into `session`.
///
/// # Errors
/// [`Error::Checkpoint`] if the file cannot be read, is damaged, is of another architecture or holds a value that is not
/// finite; of another architecture nothing is changed.
pub fn load(session: &mut Session, path: &Path) -> Result<Meta> {
    let (mut file, meta) = TensorFile::open_checkpoint(path)?;
    session.restore(&mut file, path)?;
    let c = meta.counters;
    session.set_counters([c.adam_g, c.adam_d, c.ema_updates])?;
    Ok(meta)
}
