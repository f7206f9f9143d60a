//! The format of torch before 1.6: five pickles (magic number, protocol version, the writing machine, the object,
//! the names of its storages), then for each storage a 64-bit count and the elements.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use super::input::{Input, damaged};
use super::value::{Objects, Value};
use super::{Blocks, MAX_DESCRIPTION, pickle};
use crate::{Error, Result};

/// 0x1950a86a20f9469cfc6c, as a pickle of protocol 2 begins it: LONG1 of 10 bytes.
const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Whether a file that begins with `head` is of this format.
pub fn is_legacy(head: &[u8]) -> bool {
    // Protocols from 4 on put the length of a frame before it.
    head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// Reads the object of a file of `size` bytes, and where its storages lie.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is damaged or of another version.
pub fn open(path: &Path, file: &mut BufReader<File>, size: u64, objects: &mut Objects) -> Result<(Value, Blocks)> {
    let end = size.min(MAX_DESCRIPTION);
    let mut input = Input::new(path, file, (0, end), "the description of the tensors")?;
    pickle::load(&mut input, objects)?;
    match pickle::load(&mut input, objects)? {
        Value::Int(VERSION) => {}
        _ => {
            let message = format!("a PyTorch file of unknown version ({VERSION} can be read)");
            return Err(Error::checkpoint(path, message).with_hint("save it again with a newer PyTorch"));
        }
    }
    let machine = pickle::load(&mut input, objects)?;
    let root = pickle::load(&mut input, objects)?;
    let keys = pickle::load(&mut input, objects)?;
    let start = input.position();
    let Value::Seq(keys) = keys else { return Err(damaged(path, "it does not name its storages")) };
    let places = places(path, file, (start, size), objects, &objects.seqs[keys])?;
    Ok((root, Blocks::Legacy { places, big_endian: big_endian(objects, &machine) }))
}

fn big_endian(objects: &Objects, machine: &Value) -> bool {
    let Value::Dict(machine) = *machine else { return false };
    let is = |(key, value): &(Value, Value)| {
        matches!(key, Value::Text(k) if k.as_ref() == "little_endian") && matches!(value, Value::Bool(false))
    };
    objects.dicts[machine].iter().any(is)
}

/// Start and end of each storage's elements.
fn places(
    path: &Path,
    file: &mut BufReader<File>,
    (mut at, size): (u64, u64),
    objects: &Objects,
    keys: &[Value],
) -> Result<HashMap<Rc<str>, (u64, u64)>> {
    let mut places = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err(damaged(path, "the name of a storage is not a string")) };
        let Some(storage) = objects.storages.get(key) else {
            return Err(damaged(path, format!("the type of storage {key} is not known")));
        };
        let count = Input::new(path, file, (at, size), "the storages")?.array()?;
        let start = at + size_of::<u64>() as u64;
        let bytes = u64::from_le_bytes(count).checked_mul(storage.width);
        let end = bytes.and_then(|b| start.checked_add(b)).filter(|end| *end <= size);
        let end = end.ok_or_else(|| damaged(path, format!("storage {key} does not end before byte {size}")))?;
        places.insert(key.clone(), (start, end));
        at = end;
    }
    Ok(places)
}
