//! Checkpoints of a run: what is written, and how a run continues from it.

use std::path::Path;

use super::session::Session;
use crate::Result;
use crate::checkpoint::{CheckpointFile, Meta, TensorFile, TensorRef};

/// Writes all tensors of `session` and `meta` to `path`, atomically.
///
/// # Errors
/// I/O errors; the file that was there before stays.
pub fn save(session: &Session, meta: &Meta, path: &Path) -> Result<()> {
    let tensors = session.tensors()?;
    let refs = tensors.iter().map(|t| TensorRef { name: &t.name, shape: &t.shape, data: &t.data });
    CheckpointFile { tensors: refs.collect(), meta }.write_atomic(path)
}

/// Takes tensors and counters of the checkpoint `path` into `session`.
///
/// # Errors
/// [`crate::Error::Checkpoint`] if the file cannot be read or is of another architecture; nothing is changed
/// then.
pub fn load(session: &mut Session, path: &Path) -> Result<Meta> {
    let (mut file, meta) = TensorFile::open_checkpoint(path)?;
    session.restore(&mut file, path)?;
    let c = meta.counters;
    session.set_counters([c.adam_g, c.adam_d, c.ema_updates])?;
    Ok(meta)
}
