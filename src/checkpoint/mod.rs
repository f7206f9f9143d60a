//! Checkpoints, format 1: one safetensors file whose metadata key `srgan` holds a JSON document ([`Meta`]).
//!
//! Tensors: `generator.*`, `discriminator.*`, `ema.*`, `optim_{g,d}.{exp_avg,exp_avg_sq}.<name>`, all f32.
//! Files: `last.safetensors` and the best two, `best-step=<n>.safetensors`. Every write is atomic, so a run
//! that is killed or meets a full disk keeps its previous checkpoint. The weights of PyTorch's files are read too.

mod best;
mod checksums;
mod compare;
mod file;
mod meta;
mod names;
#[cfg(test)]
mod tests;
mod torch;
mod write;

pub use best::{BestK, SavePlan};
pub use compare::compare_architecture;
pub use file::{Entry, META_KEY, TensorFile};
pub use meta::{
    BestEntry, Counters, EarlyStopping, FORMAT, Imagery, LoggedRow, MeanState, Meta, PlateauState, ValidationState,
};
pub use names::{Named, is_batch_count, prefix_in, prefix_note};
pub use write::{CheckpointFile, TensorRef, WriteTensor, write_checkpoint};

/// Name of the checkpoint that every run keeps up to date.
pub const LAST: &str = "last.safetensors";
