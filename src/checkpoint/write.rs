//! Checkpoints as safetensors files, written as a stream: the caller hands over one tensor after the other, so that no
//! second copy of all of them is ever held.

use std::collections::HashMap;
use std::io::{self, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::Meta;
use super::checksums::{self, KEY};
use super::file::{CHUNK, META_KEY};
use crate::files::{Output, write_atomic};
use crate::{Error, Result};

/// A tensor to be written: its name, shape and values in C order.
#[derive(Clone, Debug)]
pub struct TensorRef<'a> {
    /// Name in the file; must be unique.
    pub name: &'a str,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// As many values as the shape says.
    pub data: &'a [f32],
}

/// A checkpoint about to be written; borrows its tensors.
#[derive(Clone, Debug)]
pub struct CheckpointFile<'a> {
    /// All tensors, in the order of the file.
    pub tensors: Vec<TensorRef<'a>>,
    /// The JSON document.
    pub meta: &'a Meta,
}

impl CheckpointFile<'_> {
    /// Writes the file whole or not at all (see [`write_atomic`]).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Internal`] if a name is there twice or a shape does not fit its values.
    pub fn write_atomic(&self, path: &Path) -> Result<()> {
        let shapes: Vec<_> = self.tensors.iter().map(|t| (t.name.to_owned(), t.shape.to_vec())).collect();
        write_checkpoint(path, self.meta, &shapes, |write| self.tensors.iter().try_for_each(|t| write(t.data)))
    }
}

/// Takes the values of the next tensor.
pub type WriteTensor<'w> = dyn FnMut(&[f32]) -> Result<()> + 'w;

/// Writes a checkpoint whole or not at all (see [`write_atomic`]). `shapes` are the names and shapes of all tensors;
/// `fill` hands the values of one after the other to the function that it is given.
///
/// # Errors
/// Those of `fill`; [`Error::Io`]; [`Error::Internal`] if a name is there twice or a shape does not fit its values.
pub fn write_checkpoint(
    path: &Path,
    meta: &Meta,
    shapes: &[(String, Vec<usize>)],
    fill: impl FnOnce(&mut WriteTensor) -> Result<()>,
) -> Result<()> {
    let header = header(meta, shapes)?;
    let mut failure = None;
    let written = write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let mut sums = Vec::with_capacity(shapes.len());
        let mut write = |values: &[f32]| {
            let expected = shapes.get(sums.len()).map(|(_, shape)| shape.iter().product());
            if expected != Some(values.len()) {
                return Err(Error::Internal(format!("tensor {} has {} values", sums.len(), values.len())));
            }
            sums.push(write_values(out, values).map_err(|e| Error::io("write", path, e))?);
            Ok(())
        };
        if let Err(e) = fill(&mut write) {
            let inner = match &e {
                // As an error of this file it says what became of the old one.
                Error::Io { source, path: at, .. } if at == path => io::Error::new(source.kind(), source.to_string()),
                _ => io::Error::other("not written"),
            };
            failure = Some(e);
            return Err(inner);
        }
        let (at, text) =
            checksums::text(&header, &sums).ok_or_else(|| io::Error::other("a header without checksums"))?;
        out.seek(SeekFrom::Start(8 + at))?;
        out.write_all(text.as_bytes())
    });
    match failure {
        Some(e) if !matches!(&e, Error::Io { path: at, .. } if at == path) => Err(e),
        _ => written,
    }
}

/// The JSON header, padded with spaces so that the data start at a multiple of 8; its checksums are zeros.
fn header(meta: &Meta, shapes: &[(String, Vec<usize>)]) -> Result<Vec<u8>> {
    let internal = |e: &dyn std::fmt::Display| Error::Internal(e.to_string());
    let document = serde_json::to_string(meta).map_err(|e| internal(&e))?;
    let mut infos: Vec<(String, TensorInfo)> = Vec::with_capacity(shapes.len());
    let mut end = 0;
    for (name, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<f32>();
        infos.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) }));
    }
    // By hand, since the package writes metadata in no fixed order, and the same state shall give the same file.
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ META_KEY: document, KEY: checksums::blank(shapes.len()) }));
    for (name, info) in &infos {
        let info: Value = serde_json::to_value(info).map_err(|e| internal(&e))?;
        if header.insert(name.clone(), info).is_some() {
            return Err(Error::Internal("two tensors of a checkpoint have the same name".into()));
        }
    }
    Metadata::new(Some(HashMap::new()), infos).map_err(|e| internal(&e))?;
    let mut bytes = serde_json::to_vec(&header).map_err(|e| internal(&e))?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// Writes values; the CRC-32C of their bytes.
fn write_values(out: &mut dyn Output, values: &[f32]) -> io::Result<u32> {
    let mut sum = 0;
    let mut bytes = [0u8; CHUNK];
    for chunk in values.chunks(CHUNK / size_of::<f32>()) {
        let used = &mut bytes[..size_of_val(chunk)];
        for (to, value) in used.chunks_exact_mut(4).zip(chunk) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        sum = crc32c::crc32c_append(sum, used);
        out.write_all(used)?;
    }
    Ok(sum)
}
