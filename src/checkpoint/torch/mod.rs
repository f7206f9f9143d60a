//! Files of PyTorch: what `torch.save` writes, as a zip archive (since 1.6) or in the older format, among them
//! checkpoints of Lightning. Only the tensors of the state dict and of an average are of interest. They lie uncompressed in the file,
//! so that all that is needed is where each begins; a pickle says so, which is read without running anything in it.
//!
//! A tensor that cannot be read as it lies there is an error only when it is read.

mod archive;
mod input;
mod legacy;
mod pickle;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use safetensors::tensor::Dtype;

use super::file::{Checksum, Entry};
use crate::{Error, Result};
use archive::Archive;
use input::{Input, damaged};
use value::{MAX_NAME, Objects, Storage, Tensor, Value};

/// Bytes of a pickle or archive directory that are read at most. Those of large checkpoints have a few MB; what a
/// hostile one makes of this much still fits into memory.
const MAX_DESCRIPTION: u64 = 32 << 20;
/// Dimensions of a tensor that is read.
const MAX_DIMS: usize = 8;
/// Parts of opensr-srgan's averaged generator: parameters and buffers.
const AVERAGE: [&str; 2] = ["shadow_params", "shadow_buffers"];
/// Texts and numbers beside a state dict.
const MAX_FACTS: usize = 64;
/// Keys that are named where no tensors were found.
const SHOWN_KEYS: usize = 8;
/// The values of a tensor in C order, for [`save_again`].
const IN_ORDER: &str = "v.contiguous()";
/// The same of one that is sparse or quantised.
const AS_FLOATS: &str = "(v.dequantize() if v.layout == torch.strided else v.to_dense()).float().contiguous()";

/// Why a tensor's values cannot be read, though its file can.
#[derive(Clone, Debug)]
pub enum Obstacle {
    /// A transposed, strided or channels-last view.
    Order,
    /// The archive compresses or encrypts it.
    Packed,
    /// The file comes from a big-endian machine.
    BigEndian,
    /// Sparse, quantised, complex, negated, …
    Kind,
    /// The file says something impossible about it.
    Damaged(&'static str),
}

/// Element type of a tensor, and where in the file its first value is.
pub type Values = Result<(Dtype, u64), Obstacle>;
/// Start and end of a block in the file, and its CRC-32 if the file states one.
type Extent = Result<(u64, u64, Option<u32>), Obstacle>;

/// Where the storages of a file lie.
enum Blocks {
    Zip { archive: Archive, folder: String, big_endian: bool },
    Legacy { places: HashMap<Rc<str>, (u64, u64)>, big_endian: bool },
}

impl Obstacle {
    /// The error that tensor `name` of the file `path` cannot be read.
    pub fn error(&self, path: &Path, name: &str) -> Error {
        let why = match self {
            Obstacle::Order => "is a view that is not in C order (transposed, strided or channels-last)",
            Obstacle::Packed => "is compressed or encrypted",
            Obstacle::BigEndian => "was written by a big-endian machine",
            Obstacle::Kind => "is sparse, quantised, complex or of another type that cannot be read",
            Obstacle::Damaged(why) => why,
        };
        let hint = match self {
            Obstacle::Damaged(_) => "copy the file again".to_owned(),
            Obstacle::Kind => save_again(AS_FLOATS),
            _ => save_again(IN_ORDER),
        };
        Error::checkpoint(path, format!("tensor {name} {why}")).with_hint(hint)
    }
}

/// How to save the tensors of a file anew, each as the expression `value` of `v`.
fn save_again(value: &str) -> String {
    format!(
        "save a plain copy (if you trust the file: this runs code that it may hold) with python -c \"import torch; \
         d = torch.load('IN', map_location='cpu', weights_only=False); torch.save({{k: {value} for k, v in \
         d.get('state_dict', d).items() if torch.is_tensor(v)}}, 'OUT.pth')\""
    )
}

/// Whether a file that begins with `head` (32 bytes, if it has as many) is one of PyTorch, or at least an archive.
pub fn is_torch(head: &[u8]) -> bool {
    // A safetensors file whose header has 0x04034b50 bytes begins as an archive does, but then comes a brace.
    (head.starts_with(b"PK\x03\x04") && head.get(8) != Some(&b'{')) || legacy::is_legacy(head)
}

/// The tensors of the state dict of a PyTorch file of `size` bytes, in its order; behind them those of opensr-srgan's
/// averaged generator, as `ema.*`; and the texts and whole numbers that lie beside the state dict, by key.
///
/// # Errors
/// [`Error::Checkpoint`] if it is damaged, no file of `torch.save`, or holds no tensors; [`Error::Io`].
pub fn open(
    path: &Path,
    file: &mut BufReader<File>,
    size: u64,
    head: &[u8],
) -> Result<(Vec<Entry>, HashMap<String, String>)> {
    let mut objects = Objects::default();
    let (root, blocks) = if legacy::is_legacy(head) {
        legacy::open(path, file, size, &mut objects)?
    } else {
        open_zip(path, file, size, &mut objects)?
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut by_name = HashMap::new();
    let average = AVERAGE.iter().flat_map(|part| average(&objects, &root, part));
    let average = average.map(|(key, value)| ("ema.", key, value));
    let live = state_dict(&objects, &root).iter().map(|(key, value)| ("", key, value));
    for (prefix, key, value) in live.chain(average) {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else { continue };
        if name.len() > MAX_NAME {
            return Err(damaged(path, format!("a tensor's name has {} bytes", name.len())));
        }
        let mut checksum = Checksum::Unstated;
        let (shape, values) = place(&objects, &objects.tensors[*tensor], |storage| {
            let extent = blocks.locate(path, file, size, storage)?;
            if let Ok((start, end, Some(crc))) = &extent {
                checksum = Checksum::Member(*start, *end, *crc);
            }
            Ok(extent)
        })?;
        let name: Rc<str> = format!("{prefix}{name}").into();
        let entry = Entry { name: name.to_string(), shape, values, checksum };
        // As in Python, a key that comes again has the new value in the old place.
        match by_name.get(&name) {
            Some(&i) => entries[i] = entry,
            None => {
                by_name.insert(name, entries.len());
                entries.push(entry);
            }
        }
    }
    if entries.is_empty() {
        return Err(without_tensors(path, &objects, &root));
    }
    Ok((entries, facts(&objects, &root)))
}

/// Texts and whole numbers of the root, by key.
fn facts(objects: &Objects, root: &Value) -> HashMap<String, String> {
    let Value::Dict(root) = *root else { return HashMap::new() };
    let fact = |(key, value): &(Value, Value)| {
        let Value::Text(key) = key else { return None };
        match value {
            Value::Text(text) if key.len().max(text.len()) <= MAX_NAME => Some((key.to_string(), text.to_string())),
            Value::Int(number) if key.len() <= MAX_NAME => Some((key.to_string(), number.to_string())),
            _ => None,
        }
    };
    objects.dicts[root].iter().filter_map(fact).take(MAX_FACTS).collect()
}

/// Reads `data.pkl` of an archive.
fn open_zip(path: &Path, file: &mut BufReader<File>, size: u64, objects: &mut Objects) -> Result<(Value, Blocks)> {
    let archive = Archive::open(path, file, size)?;
    let Some(folder) = archive.folder_of("data.pkl").map(str::to_owned) else {
        return Err(Error::checkpoint(path, "this is a zip archive, but not of torch.save: it has no data.pkl"));
    };
    let pickle = archive.get(&format!("{folder}data.pkl")).filter(|m| m.stored);
    let pickle = pickle.ok_or_else(|| {
        Error::checkpoint(path, "this PyTorch file is compressed or encrypted").with_hint(save_again(IN_ORDER))
    })?;
    if pickle.len > MAX_DESCRIPTION {
        let message =
            format!("data.pkl of this PyTorch file has {} MiB of other things than weights", pickle.len >> 20);
        return Err(Error::checkpoint(path, message).with_hint(save_again(IN_ORDER)));
    }
    let extent = pickle.locate(path, file, size)?;
    let bytes = Input::new(path, file, extent, "data.pkl")?.bytes(pickle.len)?;
    if pickle.crc != 0 && crc32fast::hash(&bytes) != pickle.crc {
        return Err(damaged(path, "data.pkl does not have the checksum that the archive states"));
    }
    let root = pickle::load(&mut Input::new(path, file, extent, "data.pkl")?, objects)?;
    let big_endian = match archive.get(&format!("{folder}byteorder")) {
        Some(order) if order.len <= 16 => {
            let extent = order.locate(path, file, size)?;
            Input::new(path, file, extent, "byteorder")?.bytes(order.len)? == b"big"
        }
        _ => false,
    };
    Ok((root, Blocks::Zip { archive, folder, big_endian }))
}

/// The pairs of a part of the averaged generator that opensr-srgan keeps beside the state dict; none without one.
fn average<'o>(objects: &'o Objects, root: &Value, part: &str) -> &'o [(Value, Value)] {
    let inner = |value: &Value, name: &str| {
        let Value::Dict(dict) = *value else { return None };
        let pairs = objects.dicts[dict].iter().rev();
        pairs.filter(|(key, _)| matches!(key, Value::Text(k) if k.as_ref() == name)).map(|(_, value)| value).next()
    };
    match inner(root, "ema_state").and_then(|state| inner(state, part)) {
        Some(Value::Dict(dict)) => &objects.dicts[*dict],
        _ => &[],
    }
}

/// The pairs of the state dict: those of the key `state_dict`, or of the object itself.
fn state_dict<'o>(objects: &'o Objects, root: &Value) -> &'o [(Value, Value)] {
    let Value::Dict(root) = *root else { return &[] };
    let pairs = &objects.dicts[root];
    let named = pairs.iter().rev().find(|(key, _)| matches!(key, Value::Text(k) if k.as_ref() == "state_dict"));
    match named {
        Some((_, Value::Dict(inner))) => &objects.dicts[*inner],
        Some(_) => &[],
        None => pairs,
    }
}

fn without_tensors(path: &Path, objects: &Objects, root: &Value) -> Error {
    let keys: Vec<String> = match *root {
        Value::Dict(i) => objects.dicts[i].iter().filter_map(|(key, _)| short(key)).take(SHOWN_KEYS).collect(),
        _ => Vec::new(),
    };
    let message = if keys.is_empty() {
        "this PyTorch file holds an object that is no state dict".to_owned()
    } else {
        format!("this PyTorch file holds no tensors, neither under state_dict nor at the top: {}", keys.join(", "))
    };
    Error::checkpoint(path, message).with_hint("save model.state_dict() with torch.save")
}

/// A key for a message.
fn short(key: &Value) -> Option<String> {
    if let Value::Text(text) = key { Some(text.chars().take(40).collect()) } else { None }
}

/// Shape and place of a tensor.
fn place(
    objects: &Objects,
    tensor: &Tensor,
    mut locate: impl FnMut(&Storage) -> Result<Extent>,
) -> Result<(Vec<usize>, Values)> {
    let Tensor::View { storage, offset, size, stride } = tensor else { return Ok((Vec::new(), Err(Obstacle::Kind))) };
    let (Some(shape), Some(strides)) = (sizes(&objects.seqs[*size]), sizes(&objects.seqs[*stride])) else {
        return Ok((Vec::new(), Err(Obstacle::Damaged("has an impossible size"))));
    };
    let view = View { storage, offset: *offset, shape: &shape, strides: &strides };
    let values = match view.check() {
        Ok(checked) => locate(storage)?.and_then(|extent| checked.within(extent)),
        Err(obstacle) => Err(obstacle),
    };
    Ok((shape, values))
}

fn sizes(values: &[Value]) -> Option<Vec<usize>> {
    if values.len() > MAX_DIMS {
        return None;
    }
    let size = |v: &Value| if let Value::Int(n) = v { usize::try_from(*n).ok() } else { None };
    values.iter().map(size).collect()
}

/// A tensor's view of its storage.
struct View<'a> {
    storage: &'a Storage,
    offset: i64,
    shape: &'a [usize],
    strides: &'a [usize],
}

/// A view in C order: bytes from the storage's block's first to its own first and last.
struct Contiguous {
    dtype: Dtype,
    first: u64,
    end: u64,
}

impl View<'_> {
    fn check(&self) -> Result<Contiguous, Obstacle> {
        let dtype = self.storage.dtype.ok_or(Obstacle::Kind)?;
        let beyond = Obstacle::Damaged("reaches beyond the file");
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or(beyond.clone())?;
        if self.strides.len() != self.shape.len() {
            return Err(Obstacle::Damaged("has an impossible stride"));
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(self.strides).rev() {
            // The stride of a single element is never used; torch may write any.
            if size > 1 && stride != expected && count > 0 {
                return Err(Obstacle::Order);
            }
            expected = size.max(1).saturating_mul(expected);
        }
        let bytes = |elements: u64| elements.checked_mul(self.storage.width);
        let start = u64::try_from(self.offset).ok().and_then(|o| o.checked_add(self.storage.start));
        let first = start.and_then(bytes).ok_or(beyond.clone())?;
        let end = bytes(count as u64).and_then(|b| b.checked_add(first)).ok_or(beyond)?;
        Ok(Contiguous { dtype, first, end })
    }
}

impl Contiguous {
    /// Element type and place in the file, if the storage's block lies in the bytes `start..end`.
    fn within(&self, (start, end, _): (u64, u64, Option<u32>)) -> Values {
        if self.end > end - start {
            return Err(Obstacle::Damaged("reaches beyond its storage"));
        }
        Ok((self.dtype, start + self.first))
    }
}

impl Blocks {
    /// Start and end of the block in which a storage lies.
    fn locate(&self, path: &Path, file: &mut BufReader<File>, size: u64, storage: &Storage) -> Result<Extent> {
        let absent = Obstacle::Damaged("has no values in the file");
        Ok(match self {
            Blocks::Zip { big_endian: true, .. } | Blocks::Legacy { big_endian: true, .. } => Err(Obstacle::BigEndian),
            Blocks::Legacy { places, .. } => {
                places.get(&storage.key).map(|&(start, end)| (start, end, None)).ok_or(absent)
            }
            Blocks::Zip { archive, folder, .. } => match archive.get(&format!("{folder}data/{}", storage.key)) {
                None => Err(absent),
                Some(member) if !member.stored => Err(Obstacle::Packed),
                Some(member) => {
                    let (start, end) = member.locate(path, file, size)?;
                    Ok((start, end, Some(member.crc).filter(|crc| *crc != 0)))
                }
            },
        })
    }
}
