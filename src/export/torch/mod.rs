//! A checkpoint as Lightning writes it for opensr-srgan, in PyTorch's zip archive: `data.pkl` describes the objects, each
//! tensor's bytes lie in a member of their own, uncompressed and aligned to 64 bytes.
//!
//! | key | value |
//! | --- | --- |
//! | `state_dict` | the tensors |
//! | `hyper_parameters` | `config` and `mode`, the arguments of `SRGAN_model` |
//! | `ema_state` | where the configuration keeps an average: the same generator, so that each way of loading gives the same pixels |
//! | `epoch`, `global_step` | how far training was |
//!
//! The configuration lies beside it as YAML, for `load_from_config`.

mod pickle;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use zip::write::FileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::state_dict::{Description, Entry, StateDict, Values};
use crate::Result;
use crate::files::{Output, write_atomic};
use pickle::{Pickler, Storage};

/// The folder within the archive; every reader takes any name.
const FOLDER: &str = "archive";
/// Members begin at multiples of this many bytes, as PyTorch's own do, so that they can be memory-mapped.
const ALIGN: u16 = 64;
/// A release of Lightning whose checkpoints have these keys; Lightning brings older ones up to date by it.
const LIGHTNING: &str = "2.1.0";
/// Bytes from which on a member needs the large form of zip's fields.
const LARGE: u64 = 1 << 31;
/// What the names of a generator's tensors begin with.
const GENERATOR: &str = "generator.";

/// The configuration that is written beside `path`.
pub(super) fn config_beside(path: &Path) -> PathBuf {
    path.with_extension("yaml")
}

/// Writes the archive and the configuration beside it, each whole or not at all.
pub(super) fn write(path: &Path, tensors: &StateDict, description: &Description) -> Result<()> {
    let pickle = describe(tensors, description)?;
    write_atomic(path, |out| write_archive(out, tensors, &pickle))?;
    write_atomic(&config_beside(path), |out| out.write_all(description.cfg.to_yaml().as_bytes()))
}

fn write_archive(out: &mut dyn Output, tensors: &StateDict, pickle: &[u8]) -> io::Result<()> {
    let mut archive = ZipWriter::new(out);
    let mut member = |name: &str, bytes: &[u8]| -> io::Result<()> {
        let options = FileOptions::default().compression_method(CompressionMethod::Stored);
        // The same weights shall give the same file, at any time.
        let options = options.large_file(bytes.len() as u64 >= LARGE).last_modified_time(DateTime::default());
        archive.start_file_aligned(format!("{FOLDER}/{name}"), options, ALIGN).map_err(io::Error::other)?;
        archive.write_all(bytes)
    };
    member("data.pkl", pickle)?;
    member("byteorder", b"little")?;
    for (number, entry) in tensors.0.iter().enumerate() {
        member(&format!("data/{number}"), &entry.bytes())?;
    }
    member("version", b"3\n")?;
    archive.finish().map(|_| ()).map_err(io::Error::other)
}

/// The pickle of the checkpoint.
fn describe(tensors: &StateDict, description: &Description) -> Result<Vec<u8>> {
    let config = description.cfg.to_json()?;
    let mode = if tensors.0.iter().all(|entry| entry.name.starts_with(GENERATOR)) { "eval" } else { "train" };
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut pickler = Pickler::new();
    pickler.dict(|p| {
        p.text("epoch");
        p.int(count(description.epoch));
        p.text("global_step");
        p.int(count(description.step));
        p.text("pytorch-lightning_version");
        p.text(LIGHTNING);
        p.text("state_dict");
        p.ordered_dict(|p| tensors.0.iter().enumerate().for_each(|(i, entry)| named(p, &entry.name, i, entry)));
        p.text("hyper_parameters");
        p.dict(|p| {
            p.text("config");
            p.json(&config);
            p.text("mode");
            p.text(mode);
        });
        if description.cfg.training.ema.enabled {
            p.text("ema_state");
            average(p, tensors, description);
        }
    });
    Ok(pickler.finish())
}

/// A name and its tensor, the storage number `index`.
fn named(pickler: &mut Pickler, name: &str, index: usize, entry: &Entry) {
    let storage = match entry.values {
        Values::Floats(_) => Storage::Float,
        Values::Count(_) => Storage::Long,
    };
    pickler.text(name);
    pickler.tensor(&index.to_string(), storage, &entry.shape);
}

/// The state of opensr-srgan's average: the generator's tensors without its name, in the storages of the state dict.
fn average(pickler: &mut Pickler, tensors: &StateDict, description: &Description) {
    let ema = &description.cfg.training.ema;
    let part = |p: &mut Pickler, buffers: bool| {
        for (i, entry) in tensors.0.iter().enumerate().filter(|(_, entry)| entry.is_buffer == buffers) {
            if let Some(bare) = entry.name.strip_prefix(GENERATOR) {
                named(p, bare, i, entry);
            }
        }
    };
    pickler.dict(|p| {
        p.text("decay");
        p.float(ema.decay);
        p.text("num_updates");
        match ema.use_num_updates {
            true => p.int(i64::try_from(description.counters.ema_updates).unwrap_or(i64::MAX)),
            false => p.none(),
        }
        p.text("device");
        p.none();
        p.text("shadow_params");
        p.dict(|p| part(p, false));
        p.text("shadow_buffers");
        p.dict(|p| part(p, true));
    });
}
