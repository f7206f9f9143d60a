//! safetensors files, read as streams: 8 bytes header length, JSON header, raw little-endian data. No more than one
//! buffer of data is held beside the caller's tensors. Files of PyTorch are read too ([`torch`]): their tensors lie in
//! the file in the same way.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use super::torch::{self, Values};
use super::{FORMAT, Meta, checksums};
use crate::files::open_regular;
use crate::{Error, Result};

/// Metadata key under which the JSON document stands.
pub const META_KEY: &str = "srgan";
/// The format's own limit; a longer header means that the file is something else.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes converted at a time; a multiple of every element size.
pub(super) const CHUNK: usize = 1 << 16;
/// First bytes that tell what a file is.
const HEAD: u64 = 32;

/// Name, shape and place of a tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the file.
    pub name: String,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Element type, and where in the file the first is; or why they cannot be read.
    pub(super) values: Values,
    /// What its bytes are compared with when they are read.
    pub(super) checksum: Checksum,
}

impl Entry {
    /// Element type, as `F32`; or why the values cannot be read.
    pub fn dtype(&self) -> String {
        match &self.values {
            Ok((dtype, _)) => dtype.to_string(),
            Err(_) => "unreadable".into(),
        }
    }
}

/// A checksum that a file states of a tensor.
#[derive(Clone, Debug)]
pub(super) enum Checksum {
    /// None.
    Unstated,
    /// CRC-32C of its bytes, in checkpoints of this program.
    Own(u32),
    /// CRC-32 of the bytes from one place of the file to another, in which the tensor lies: a member of a zip archive.
    Member(u64, u64, u32),
}

/// An open file of tensors whose description has been checked; the values are read on request, as f32.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: BufReader<File>,
    /// Not a safetensors file.
    of_torch: bool,
    metadata: HashMap<String, String>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// Members of an archive whose checksums were compared.
    compared: HashSet<u64>,
}

impl TensorFile {
    /// Opens any safetensors file, also of another program, or a file that PyTorch saved, and checks that it is
    /// complete. Of the latter the tensors of the state dict are seen, and those of
    /// opensr-srgan's average as `ema.*`; nothing in it is run.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened; [`Error::Checkpoint`] if it is missing, may not be read,
    /// is no such file or cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path).map_err(|e| match e.kind() {
            ErrorKind::InvalidInput => Error::checkpoint(path, e.to_string()),
            ErrorKind::NotFound => Error::checkpoint(path, "there is no such file"),
            ErrorKind::PermissionDenied => Error::checkpoint(path, "it cannot be read: permission denied"),
            _ => Error::io("open", path, e),
        })?;
        if path.is_dir() {
            return Err(Error::checkpoint(path, "it is a folder, not a file"));
        }
        let size = file.metadata().map_err(|e| Error::io("open", path, e))?.len();
        let mut file = BufReader::with_capacity(CHUNK, file);
        let mut head = Vec::new();
        let read = file.by_ref().take(HEAD).read_to_end(&mut head);
        read.and_then(|_| file.rewind()).map_err(|e| Error::io("read", path, e))?;
        let of_torch = torch::is_torch(&head);
        let (entries, metadata) = if of_torch {
            torch::open(path, &mut file, size, &head)?
        } else {
            open_safetensors(path, &mut file, size)?
        };
        let by_name = entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        let compared = HashSet::new();
        Ok(TensorFile { path: path.into(), file, of_torch, metadata, entries, by_name, compared })
    }

    /// Opens a checkpoint of this program, and returns what it says about itself.
    ///
    /// # Errors
    /// As [`TensorFile::open`]; also [`Error::Checkpoint`] if the metadata are missing, unreadable or of a
    /// newer format, or if a tensor is not f32.
    pub fn open_checkpoint(path: &Path) -> Result<(Self, Meta)> {
        let file = Self::open(path)?;
        let meta = file.read_meta()?;
        for entry in &file.entries {
            let dtype = file.values(entry)?.0;
            if dtype != Dtype::F32 {
                let message = format!("tensor {} is of type {dtype}, but checkpoints hold F32 only", entry.name);
                return Err(Error::checkpoint(path, message));
            }
        }
        Ok((file, meta))
    }

    /// Whether PyTorch has saved it.
    pub fn is_of_torch(&self) -> bool {
        self.of_torch
    }

    /// All tensors, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The free-text metadata of the file; of PyTorch's, the texts and whole numbers beside the state dict.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Names and shapes of the tensors whose names begin with `prefix`, for
    /// [`compare_architecture`](super::compare_architecture).
    pub fn shapes(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let wanted = self.entries.iter().filter(|e| e.name.starts_with(prefix));
        wanted.map(|e| (e.name.clone(), e.shape.clone())).collect()
    }

    /// Reads the tensor `name` as f32; f16, bf16 and f32 can be read, and f64, which is rounded.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let entry = &self.entries[self.index(name)?];
        self.values(entry)?;
        // It lies within the file, so this cannot ask for absurd amounts of memory.
        let mut values = vec![0.0; entry.shape.iter().product()];
        self.read_into(name, &mut values)?;
        Ok(values)
    }

    /// Reads the tensor `name` into `values`, which must have its number of elements.
    pub fn read_into(&mut self, name: &str, values: &mut [f32]) -> Result<()> {
        let entry = &self.entries[self.index(name)?];
        let (dtype, offset) = self.values(entry)?;
        let count: usize = entry.shape.iter().product();
        if count != values.len() {
            let message = format!("tensor {name} has {count} values where {} are expected", values.len());
            return Err(Error::checkpoint(&self.path, message));
        }
        let convert = self.converter(name, dtype)?;
        let checksum = entry.checksum.clone();
        if let Checksum::Member(start, end, crc) = checksum {
            self.compare_member(name, (start, end), crc)?;
        }
        let width = dtype.bitsize() / 8;
        let found = self.read_values(offset, width, convert, values).map_err(|e| Error::io("read", &self.path, e))?;
        match checksum {
            Checksum::Own(stated) if stated != found => Err(self.damaged(name)),
            _ => Ok(()),
        }
    }

    /// Reads the tensor `name` as [`TensorFile::read`] does, and refuses values that are not finite.
    pub fn read_finite(&mut self, name: &str) -> Result<Vec<f32>> {
        let values = self.read(name)?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let message = format!("tensor {name} holds {} as its value {at} (counted from 0)", values[at]);
                Err(Error::checkpoint(&self.path, message)
                    .with_hint("weights must be finite numbers: take another checkpoint, from before the run diverged"))
            }
            None => Ok(values),
        }
    }

    fn damaged(&self, name: &str) -> Error {
        Error::checkpoint(&self.path, format!("tensor {name} is damaged: its bytes do not have the checksum stated"))
            .with_hint("copy the file again, or take another checkpoint")
    }

    /// Compares the checksum of a member of an archive, once.
    fn compare_member(&mut self, name: &str, (start, end): (u64, u64), stated: u32) -> Result<()> {
        if !self.compared.insert(start) {
            return Ok(());
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut bytes = [0u8; CHUNK];
        let mut hash = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(start))?;
            let mut left = end - start;
            while left > 0 {
                let part = &mut bytes[..left.min(CHUNK as u64) as usize];
                self.file.read_exact(part)?;
                hasher.update(part);
                left -= part.len() as u64;
            }
            Ok(())
        };
        hash().map_err(|e| Error::io("read", &self.path, e))?;
        if hasher.finalize() == stated { Ok(()) } else { Err(self.damaged(name)) }
    }

    /// Whether the tensor `name` is there and its values are of a kind that can be read.
    ///
    /// # Errors
    /// What [`TensorFile::read`] would say.
    pub fn check(&self, name: &str) -> Result<()> {
        let (dtype, _) = self.values(&self.entries[self.index(name)?])?;
        self.converter(name, dtype).map(|_| ())
    }

    /// How an element becomes an f32.
    fn converter(&self, name: &str, dtype: Dtype) -> Result<fn(&[u8]) -> f32> {
        Ok(match dtype {
            Dtype::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Dtype::F16 => |b| f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::BF16 => |b| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::F64 => |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
            other => {
                let message = format!("tensor {name} is of type {other}; F64, F32, F16 and BF16 can be read");
                return Err(Error::checkpoint(&self.path, message));
            }
        })
    }

    /// Reads values; the CRC-32C of their bytes.
    fn read_values(&mut self, at: u64, width: usize, convert: fn(&[u8]) -> f32, out: &mut [f32]) -> io::Result<u32> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut sum = 0;
        let mut bytes = [0u8; CHUNK];
        for chunk in out.chunks_mut(CHUNK / width) {
            let used = &mut bytes[..chunk.len() * width];
            self.file.read_exact(used)?;
            sum = crc32c::crc32c_append(sum, used);
            for (value, from) in chunk.iter_mut().zip(used.chunks_exact(width)) {
                *value = convert(from);
            }
        }
        Ok(sum)
    }

    fn index(&self, name: &str) -> Result<usize> {
        let missing = || Error::checkpoint(&self.path, format!("there is no tensor {name}"));
        self.by_name.get(name).copied().ok_or_else(missing)
    }

    /// Element type and place of a tensor whose values can be read.
    fn values(&self, entry: &Entry) -> Result<(Dtype, u64)> {
        entry.values.clone().map_err(|obstacle| obstacle.error(&self.path, &entry.name))
    }

    fn read_meta(&self) -> Result<Meta> {
        let fail = |message: String| Error::checkpoint(&self.path, message);
        if self.of_torch {
            return Err(fail("this is a file of PyTorch, from which no run can be continued".into())
                .with_hint("Model.load_checkpoint=FILE starts a new run from its weights"));
        }
        let text = self.metadata.get(META_KEY).ok_or_else(|| {
            fail(format!("no metadata {META_KEY:?}: this is a safetensors file, but not a checkpoint of srgan-train"))
        })?;
        // The number first: a newer format may well not fit the structure below.
        #[derive(serde::Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text).map_err(|e| fail(format!("metadata {META_KEY:?}: {e}")))?;
        if head.format > FORMAT {
            let message = format!("format {} is newer than this program, which reads up to {FORMAT}", head.format);
            return Err(fail(message).with_hint("update srgan-train"));
        }
        let meta: Meta = serde_json::from_str(text).map_err(|e| fail(format!("metadata {META_KEY:?}: {e}")))?;
        if meta.has_checksums && !self.metadata.contains_key(checksums::KEY) {
            return Err(fail("the file is damaged: its checksums are gone".into())
                .with_hint("copy the file again, or take another checkpoint"));
        }
        meta.check().map_err(|e| fail(format!("metadata {META_KEY:?}: {e}")))?;
        Ok(meta)
    }
}

/// The tensors and the free-text metadata of a safetensors file of `size` bytes.
fn open_safetensors(
    path: &Path,
    file: &mut BufReader<File>,
    size: u64,
) -> Result<(Vec<Entry>, HashMap<String, String>)> {
    let (start, header, sums) = read_header(path, file, size)?;
    let mut sums = sums.into_iter();
    let end = start.saturating_add(header.data_len() as u64);
    if size < end {
        return Err(Error::checkpoint(path, format!("the file is cut short: {size} of {end} bytes"))
            .with_hint("copy it again, or resume from another checkpoint of the run"));
    }
    if size > end {
        return Err(Error::checkpoint(path, format!("{} unknown bytes follow the last tensor", size - end)));
    }
    let mut entries = Vec::new();
    for name in header.offset_keys() {
        if let Some(info) = header.info(&name) {
            let values = Ok((info.dtype, start + info.data_offsets.0 as u64));
            let checksum = sums.next().map_or(Checksum::Unstated, Checksum::Own);
            entries.push(Entry { name, shape: info.shape.clone(), values, checksum });
        }
    }
    Ok((entries, header.metadata().clone().unwrap_or_default()))
}

/// Reads the header; returns where the data start, the checked description of the tensors, and the checksum of each if
/// the file states them.
fn read_header(path: &Path, file: &mut impl Read, size: u64) -> Result<(u64, Metadata, Vec<u32>)> {
    let foreign = |detail: String| {
        Error::checkpoint(path, format!("this is not a safetensors file ({detail}), nor one of PyTorch"))
            .with_hint("checkpoints are the files *.safetensors of a run folder")
    };
    let read_error = |e: io::Error| match e.kind() {
        ErrorKind::UnexpectedEof => foreign(format!("only {size} bytes long")),
        _ => Error::io("read", path, e),
    };
    let mut length = [0u8; 8];
    file.read_exact(&mut length).map_err(read_error)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(foreign("its first 8 bytes are no header length".into()));
    }
    if length > size - 8 {
        return Err(Error::checkpoint(path, format!("the file is cut short within its header: {size} bytes"))
            .with_hint("copy it again, or resume from another checkpoint of the run"));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact(&mut header).map_err(read_error)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| foreign(format!("header: {e}")))?;
    let sums = checksums::verify_header(&mut header, &metadata).map_err(|()| {
        Error::checkpoint(path, "the file is damaged: its header does not have the checksum stated")
            .with_hint("copy the file again, or take another checkpoint")
    })?;
    Ok((8 + length, metadata, sums))
}
