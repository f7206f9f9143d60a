//! Building a store, or finding the one that is already there.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tempfile::NamedTempFile;

use super::invalid::InvalidPixels;
use super::{FORMAT, Index, MaskedRun, Store, StoreRequest, StoredImage, masked_path};
use crate::data::pixels::values_as_f32;
use crate::data::source::npy_header::{NpyHeader, WRITTEN_LEN};
use crate::data::source::{Source, SourceInfo};
use crate::data::{PixelType, source};
use crate::error::{Error, Result};
use crate::rng::name_hash;

/// Opens the store for `request`, building it if it is missing, damaged or out of date. Where the folder
/// cannot be written, a folder of the user in the system's temporary one is taken and `notes` says so.
pub(crate) fn open_or_build(request: &StoreRequest, notes: &mut Vec<String>) -> Result<Arc<Store>> {
    let key = content_key(request)?;
    let in_dir = |dir: &Path| -> Result<Arc<Store>> {
        let index_path = dir.join(format!("{}-{key}.json", request.name));
        if let Some(index) = read_index(&index_path, &key)
            && let Ok(store) = Store::open(index, &index_path, request.mode)
        {
            return Ok(Arc::new(store));
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let index = Builder { request, dir, index_path: &index_path }.build(&key)?;
        Store::open(index, &index_path, request.mode).map(Arc::new)
    };
    match in_dir(&request.dir) {
        Err(Error::Io { source, path, .. }) if not_writable(&source) && path.starts_with(&request.dir) => {
            let fallback = user_temp_dir()?;
            let note =
                format!("cannot write to {}: the patch store is in {}", request.dir.display(), fallback.display());
            if !notes.contains(&note) {
                notes.push(note);
            }
            in_dir(&fallback)
        }
        result => result,
    }
}

fn not_writable(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// A folder only this user can write to.
fn user_temp_dir() -> Result<PathBuf> {
    // SAFETY: geteuid takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let dir = std::env::temp_dir().join(format!("srgan-store-{user}"));
    std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    let owner = std::fs::symlink_metadata(&dir).map_err(|e| Error::io("read", &dir, e))?;
    if !owner.is_dir() || owner.uid() != user {
        return Err(Error::data(&dir, "belongs to another user").with_hint("set Data.store_dir"));
    }
    Ok(dir)
}

fn read_index(path: &Path, key: &str) -> Option<Index> {
    let index: Index = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (index.format == FORMAT && index.key == key).then_some(index)
}

/// A hash of everything that decides the store's bytes.
fn content_key(request: &StoreRequest) -> Result<String> {
    let StoreRequest { bands, in_bands, layout, nodata, mask, dtype, .. } = request;
    let mut text = format!("{FORMAT} {bands:?} {in_bands} {layout:?} {nodata:?} {mask} {dtype:?}");
    for path in &request.files {
        let io = |e| Error::io("read", path, e);
        let full = path.canonicalize().map_err(io)?;
        let meta = full.metadata().map_err(io)?;
        let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        text.push_str(&format!("\n{} {} {}", full.display(), meta.len(), changed.as_nanos()));
    }
    Ok(format!("{:016x}", name_hash(&text)))
}

struct Builder<'a> {
    request: &'a StoreRequest,
    dir: &'a Path,
    index_path: &'a Path,
}

/// What one pass over the files found.
struct Unpacked {
    dtype: PixelType,
    images: Vec<StoredImage>,
    runs: Vec<MaskedRun>,
}

impl Builder<'_> {
    fn build(&self, key: &str) -> Result<Index> {
        let StoreRequest { files, in_bands, .. } = self.request;
        let direct = self.serves_directly()?;
        let mut output = match direct {
            Some(_) => None,
            None => Some(BufWriter::new(self.temporary()?)),
        };
        let unpacked = self.unpack(output.as_mut())?;
        let pixels: usize = unpacked.images.iter().map(|i| i.height * i.width).sum();
        let (data, data_at) = match (output, direct) {
            (Some(output), _) => {
                let data = self.index_path.with_extension("npy");
                let shape = match unpacked.images.as_slice() {
                    [one] => vec![one.height, one.width, *in_bands],
                    _ => vec![pixels, *in_bands],
                };
                self.finish(output, NpyHeader::to_bytes(unpacked.dtype, &shape), &data)?;
                (PathBuf::from(data.file_name().unwrap_or_default()), WRITTEN_LEN as u64)
            }
            (None, at) => {
                let source = &files[0];
                let full = source.canonicalize().map_err(|e| Error::io("read", source, e))?;
                (full, at.unwrap_or_default())
            }
        };
        if !unpacked.runs.is_empty() {
            self.write_runs(&unpacked.runs)?;
        }
        let file = self.dir.join(&data);
        let index = Index {
            format: FORMAT,
            key: key.into(),
            data_at,
            file_bytes: file.metadata().map_err(|e| Error::io("read", &file, e))?.len(),
            data,
            dtype: unpacked.dtype,
            bands: *in_bands,
            images: unpacked.images,
            masked_runs: unpacked.runs.len(),
        };
        let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::Internal(e.to_string()))?;
        let mut output = BufWriter::new(self.temporary()?);
        output.write_all(&text).map_err(|e| self.write_error(e))?;
        self.persist(output, self.index_path)?;
        Ok(index)
    }

    /// Where the values start in a single source that is already what the store would be.
    fn serves_directly(&self) -> Result<Option<u64>> {
        let [path] = self.request.files.as_slice() else { return Ok(None) };
        let source = source::open(path, self.request.layout)?;
        let info = source.info();
        let bands = self.choose_bands(path, info)?;
        let all_bands = bands.len() == info.bands && bands.iter().enumerate().all(|(i, &b)| i == b);
        let same_type = self.request.dtype.is_none_or(|wanted| wanted == info.dtype);
        Ok(info.plain_at.filter(|_| all_bands && same_type))
    }

    fn choose_bands(&self, path: &Path, info: &SourceInfo) -> Result<Vec<usize>> {
        source::choose_bands(path, info, self.request.bands.as_deref(), self.request.in_bands)
    }

    /// Reads all files, writing their pixels to `output` where there is one.
    fn unpack(&self, mut output: Option<&mut BufWriter<NamedTempFile>>) -> Result<Unpacked> {
        let mut dtype = self.request.dtype;
        let mut images = Vec::with_capacity(self.request.files.len());
        let mut runs = Vec::new();
        let mut first_pixel = 0;
        if let Some(output) = output.as_deref_mut() {
            self.start_over(output)?;
        }
        for path in &self.request.files {
            let mut source = source::open(path, self.request.layout)?;
            let SourceInfo { height, width, dtype: own, .. } = *source.info();
            let wanted = *dtype.get_or_insert(own);
            if own != wanted && wanted != PixelType::F32 {
                // Files of different types: float32 holds them all. Once, so there is no endless repetition.
                let request = StoreRequest { dtype: Some(PixelType::F32), ..self.request.clone() };
                return Builder { request: &request, ..*self }.unpack(output);
            }
            runs = self.unpack_file(path, source.as_mut(), wanted, output.as_deref_mut())?;
            let file = path.to_string_lossy().into_owned();
            images.push(StoredImage { file, height, width, first_pixel });
            first_pixel += (height * width) as u64;
        }
        let dtype = dtype.ok_or_else(|| Error::Internal("a patch store of no files".into()))?;
        Ok(Unpacked { dtype, images, runs })
    }

    fn unpack_file(
        &self,
        path: &Path,
        source: &mut dyn Source,
        dtype: PixelType,
        mut output: Option<&mut BufWriter<NamedTempFile>>,
    ) -> Result<Vec<MaskedRun>> {
        let bands = self.choose_bands(path, source.info())?;
        let SourceInfo { width, dtype: own, nodata, .. } = *source.info();
        let mut invalid = InvalidPixels::new(own, &bands, width, self.request.nodata.or(nodata));
        let mut block = Vec::new();
        while source.next_rows(&bands, &mut block)? > 0 {
            invalid.scan(&block);
            if let Some(output) = output.as_deref_mut() {
                if own == dtype {
                    output.write_all(&block).map_err(|e| self.write_error(e))?;
                } else {
                    let floats: Vec<u8> = values_as_f32(&block, own).flat_map(f32::to_ne_bytes).collect();
                    output.write_all(&floats).map_err(|e| self.write_error(e))?;
                }
            }
            block.clear();
        }
        if self.request.mask {
            return Ok(invalid.into_runs());
        }
        invalid.refuse(path)?;
        Ok(Vec::new())
    }

    fn write_runs(&self, runs: &[MaskedRun]) -> Result<()> {
        let mut output = BufWriter::new(self.temporary()?);
        // The shape counts 32-bit words, whose type string no pixel has.
        let header = NpyHeader::with_descr("<u4", &[runs.len(), 3]);
        output.write_all(&header).map_err(|e| self.write_error(e))?;
        for word in runs.iter().flat_map(|run| [run.row, run.first, run.end]) {
            output.write_all(&word.to_le_bytes()).map_err(|e| self.write_error(e))?;
        }
        self.persist(output, &masked_path(self.index_path))
    }

    fn temporary(&self) -> Result<NamedTempFile> {
        // A data set may be shared: everybody may read its store (less what the user's umask forbids).
        let readable = Permissions::from_mode(0o644);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".building-").permissions(readable);
        builder.tempfile_in(self.dir).map_err(|e| Error::io("create a file in", self.dir, e))
    }

    /// Empties `output` but for the room of its header.
    fn start_over(&self, output: &mut BufWriter<NamedTempFile>) -> Result<()> {
        let reset = |output: &mut BufWriter<NamedTempFile>| {
            output.rewind()?;
            output.get_ref().as_file().set_len(0)?;
            output.write_all(&[0; WRITTEN_LEN])
        };
        reset(output).map_err(|e| self.write_error(e))
    }

    fn finish(&self, mut output: BufWriter<NamedTempFile>, header: Vec<u8>, path: &Path) -> Result<()> {
        output.rewind().and_then(|()| output.write_all(&header)).map_err(|e| self.write_error(e))?;
        self.persist(output, path)
    }

    /// Renames a finished file into place once its bytes are on the disk.
    fn persist(&self, output: BufWriter<NamedTempFile>, path: &Path) -> Result<()> {
        let file = output.into_inner().map_err(|e| self.write_error(e.into_error()))?;
        file.as_file().sync_all().map_err(|e| self.write_error(e))?;
        let kept: File = file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
        drop(kept);
        Ok(())
    }

    fn write_error(&self, e: io::Error) -> Error {
        Error::io("write the patch store in", self.dir, e)
    }
}
