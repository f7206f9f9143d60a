//! A state dict in safetensors: 8 bytes header length, JSON header, raw little-endian data.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::state_dict::{Description, StateDict, Values};
use crate::files::write_atomic;
use crate::{Error, Result};

/// Writes the file whole or not at all. Metadata: the facts of [`Description::facts`].
pub(super) fn write(path: &Path, tensors: &StateDict, description: &Description) -> Result<()> {
    // By hand, since the package writes metadata in no fixed order, and the same weights shall give the same file.
    let mut header = Map::new();
    let facts: Map<String, Value> = description.facts().into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
    header.insert("__metadata__".into(), facts.into());
    // Wide elements first, so that each tensor starts at a multiple of its element's size.
    let mut entries: Vec<_> = tensors.0.iter().collect();
    entries.sort_by_key(|entry| matches!(entry.values, Values::Floats(_)));
    let mut end = 0;
    for entry in &entries {
        let (dtype, width) = match entry.values {
            Values::Floats(_) => ("F32", 4),
            Values::Count(_) => ("I64", 8),
        };
        let start = end;
        end += entry.len() * width;
        let info = json!({ "dtype": dtype, "shape": entry.shape, "data_offsets": [start, end] });
        header.insert(entry.name.clone(), info);
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        entries.iter().try_for_each(|entry| out.write_all(&entry.bytes()))
    })
}
