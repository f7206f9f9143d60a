//! Building a store, or finding the one that is already there.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::checksums::Checksums;
use super::convert::Converter;
use super::invalid::InvalidPixels;
use super::key::{ContentKey, content_key};
use super::{FORMAT, Index, MaskedRun, Store, StoreRequest, StoredImage, masked_path, nanoseconds, temporary};
use crate::data::PixelType;
use crate::data::dataset::Opening;
use crate::data::source::npy_header::{NpyHeader, WRITTEN_LEN};
use crate::data::source::{self, MaskKind, Source, SourceInfo};
use crate::error::{Error, Result};

/// Opens the store for `request`, building it if it is missing, damaged or out of date. Where the folder
/// cannot be written, a folder of the user in the system's temporary one is taken and `notes` says so.
///
/// # Errors
/// A source that cannot be used, a store that cannot be written, and the error of `opening.proceed`.
pub(crate) fn open_or_build(request: &StoreRequest, opening: &mut Opening) -> Result<Arc<Store>> {
    let ContentKey { key, contents } = content_key(request)?;
    let Opening { notes, proceed } = opening;
    let in_dir = |dir: &Path| -> Result<Arc<Store>> {
        let index_path = dir.join(format!("{}-{key}.json", request.name));
        if let Some(index) = Index::read(&index_path, &key)
            && let Ok(store) = Store::open(index, &index_path, request.mode, contents)
        {
            // The index's time says when a run has last used the store; another user's may keep its own.
            let _ = File::open(&index_path).and_then(|file| file.set_modified(SystemTime::now()));
            temporary::remove_leftovers(dir);
            return Ok(Arc::new(store));
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        temporary::remove_leftovers(dir);
        let index = Builder { request, dir, index_path: &index_path, proceed }.build(&key)?;
        Store::open(index, &index_path, request.mode, contents).map(Arc::new)
    };
    let store = match in_dir(&request.dir) {
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
    }?;
    notes.extend(store.notes.iter().cloned());
    Ok(store)
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

struct Builder<'a> {
    request: &'a StoreRequest,
    dir: &'a Path,
    index_path: &'a Path,
    /// Its error ends the building.
    proceed: &'a dyn Fn() -> Result<()>,
}

/// A store's data file while it is written.
struct Output {
    file: BufWriter<NamedTempFile>,
    sums: Checksums,
}

/// What one pass over the files found.
struct Unpacked {
    dtype: PixelType,
    images: Vec<StoredImage>,
    runs: Vec<MaskedRun>,
    notes: Notes,
}

/// Notes about files, one for all files that it is true of.
#[derive(Default)]
struct Notes(Vec<(String, String, usize)>);

impl Notes {
    fn add(&mut self, file: &str, note: String) {
        match self.0.iter_mut().find(|(_, known, _)| *known == note) {
            Some((_, _, others)) => *others += 1,
            None => self.0.push((file.to_owned(), note, 0)),
        }
    }

    fn into_texts(self) -> Vec<String> {
        let text = |(file, note, others)| match others {
            0 => format!("{file}: {note}"),
            n => format!("{file} and {n} more: {note}"),
        };
        self.0.into_iter().map(text).collect()
    }
}

impl Builder<'_> {
    fn build(&self, key: &str) -> Result<Index> {
        let in_bands = self.request.in_bands;
        let direct = self.serves_directly()?;
        let mut output = match direct {
            Some(_) => None,
            None => Some(Output { file: temporary::create(self.dir)?, sums: Checksums::default() }),
        };
        let unpacked = self.unpack(output.as_mut())?;
        let pixels: usize = unpacked.images.iter().map(|i| i.height * i.width).sum();
        let (data, data_at, block_sums) = match (output, direct) {
            (Some(Output { file, sums }), _) => {
                let data = self.index_path.with_extension("npy");
                let shape = match unpacked.images.as_slice() {
                    [one] => vec![one.height, one.width, in_bands],
                    _ => vec![pixels, in_bands],
                };
                self.finish(file, NpyHeader::to_bytes(unpacked.dtype, &shape), &data)?;
                (PathBuf::from(data.file_name().unwrap_or_default()), WRITTEN_LEN as u64, sums.finish())
            }
            (None, at) => {
                let source = &self.request.files[0][0];
                let full = source.canonicalize().map_err(|e| Error::io("read", source, e))?;
                (full, at.unwrap_or_default(), Vec::new())
            }
        };
        let runs_sum = self.write_runs(&unpacked.runs)?;
        let file = self.dir.join(&data);
        let meta = file.metadata().map_err(|e| Error::io("read", &file, e))?;
        let index = Index {
            format: FORMAT,
            key: key.into(),
            data_at,
            file_bytes: meta.len(),
            written: nanoseconds(meta.modified().ok()),
            data,
            dtype: unpacked.dtype,
            bands: in_bands,
            images: unpacked.images,
            masked_runs: unpacked.runs.len(),
            notes: unpacked.notes.into_texts(),
            block_sums,
            runs_sum,
            index_sum: 0,
        };
        index.write(self.dir, self.index_path)
    }

    /// Where the values start in a single source that is already what the store would be. It is used where it is.
    fn serves_directly(&self) -> Result<Option<u64>> {
        let [paths] = self.request.files.as_slice() else { return Ok(None) };
        let source = source::open_all(paths, self.request.layout)?;
        let info = source.info();
        let bands = self.choose_bands(&paths[0], info)?;
        let all_bands = bands.len() == info.bands && bands.iter().enumerate().all(|(i, &b)| i == b);
        let stored = self.request.values.stored_type(info);
        let same_type = stored == info.dtype && self.request.dtype.is_none_or(|wanted| wanted == stored);
        let same_values = !self.request.values.changes(info);
        Ok(info.plain_at.filter(|_| all_bands && same_type && same_values))
    }

    fn choose_bands(&self, path: &Path, info: &SourceInfo) -> Result<Vec<usize>> {
        source::choose_bands(path, info, self.request.bands.as_deref(), self.request.in_bands)
    }

    /// Reads all files, writing their pixels to `output` where there is one.
    fn unpack(&self, mut output: Option<&mut Output>) -> Result<Unpacked> {
        let mut dtype = self.request.dtype;
        let mut images = Vec::with_capacity(self.request.files.len());
        let mut runs = Vec::new();
        let mut notes = Notes::default();
        let mut first_pixel = 0;
        let mut first: Option<(String, PixelType)> = None;
        if let Some(output) = output.as_deref_mut() {
            self.start_over(output)?;
        }
        for paths in &self.request.files {
            let mut source = source::open_all(paths, self.request.layout)?;
            let SourceInfo { height, width, .. } = *source.info();
            let own = self.request.values.stored_type(source.info());
            let wanted = *dtype.get_or_insert(own);
            if own != wanted && wanted != PixelType::F32 {
                // Files of different types: float32 holds them all. Once, so there is no endless repetition.
                let request = StoreRequest { dtype: Some(PixelType::F32), ..self.request.clone() };
                return Builder { request: &request, ..*self }.unpack(output);
            }
            let file = display_name(paths);
            let (first_file, first_type) = &*first.get_or_insert_with(|| (file.clone(), own));
            if own != *first_type {
                notes.add(
                    &file,
                    format!(
                        "{own} values beside {first_type} ones ({first_file}): all are kept as float32, as they are"
                    ),
                );
            }
            source.info().notes.iter().for_each(|note| notes.add(&file, note.clone()));
            runs = self.unpack_image(paths, source.as_mut(), wanted, output.as_deref_mut(), &mut notes)?;
            images.push(StoredImage { file, height, width, first_pixel });
            first_pixel += (height * width) as u64;
        }
        let dtype = dtype.ok_or_else(|| Error::Internal("a patch store of no files".into()))?;
        Ok(Unpacked { dtype, images, runs, notes })
    }

    fn unpack_image(
        &self,
        paths: &[PathBuf],
        source: &mut dyn Source,
        dtype: PixelType,
        mut output: Option<&mut Output>,
        notes: &mut Notes,
    ) -> Result<Vec<MaskedRun>> {
        let path = &paths[0];
        let values = &self.request.values;
        let bands = self.choose_bands(path, source.info())?;
        let SourceInfo { height, width, dtype: own, mask, .. } = *source.info();
        let nodata: Vec<Option<f64>> =
            bands.iter().map(|&band| values.nodata.or(source.info().nodata_of(band))).collect();
        if output.is_some() {
            temporary::check_room(self.dir, (height * width * bands.len() * dtype.bytes()) as u64)?;
        }
        // An alpha band that is asked for is a band like others.
        let alpha_is_band = source.info().alpha.is_some_and(|alpha| bands.contains(&alpha));
        let file_mask = mask.filter(|kind| *kind != MaskKind::Alpha || !alpha_is_band);
        let mask = file_mask.filter(|_| values.mask);
        let mut converter = Converter::new(values, source.info(), (&bands, &nodata), dtype);
        if values.example {
            let mut again = source::open_all(paths, self.request.layout)?;
            converter.measure(again.as_mut(), &bands, self.proceed)?;
        }
        let mut invalid = InvalidPixels::new(own, &bands, width, &nodata);
        let (mut block, mut flags, mut done) = (Vec::new(), Vec::new(), 0);
        loop {
            (self.proceed)()?;
            let rows = source.next_rows(&bands, &mut block)?;
            if rows == 0 {
                break;
            }
            if mask.is_some() {
                source.read_mask(done, rows, &mut flags)?;
            }
            invalid.scan(&block, mask.map(|_| flags.as_slice()));
            let bytes = converter.convert(&block);
            if let Some(output) = output.as_deref_mut() {
                output.sums.add(bytes);
                output.file.write_all(bytes).map_err(|e| self.write_error(e))?;
            }
            block.clear();
            flags.clear();
            done += rows;
        }
        converter.refuse(path)?;
        if !self.request.mask {
            invalid.refuse(path)?;
            converter.notes().into_iter().for_each(|note| notes.add(&display_name(paths), note));
            return Ok(Vec::new());
        }
        let by_mask = file_mask.and_then(|kind| match (mask, invalid.masked()) {
            (Some(_), 0) => None,
            (Some(_), n) => Some(format!("{} leaves out {n} pixels (Data.mask: ignore would use them)", kind.name())),
            (None, _) => Some(format!("{} is not used", kind.name())),
        });
        by_mask.into_iter().chain(converter.notes()).for_each(|note| notes.add(&display_name(paths), note));
        Ok(invalid.into_runs())
    }

    /// Writes the masked runs, if there are any, and returns their checksum.
    fn write_runs(&self, runs: &[MaskedRun]) -> Result<u32> {
        if runs.is_empty() {
            return Ok(0);
        }
        let words = runs.iter().flat_map(|run| [run.row, run.first, run.end]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let mut output = temporary::create(self.dir)?;
        // The shape counts 32-bit words, whose type string no pixel has.
        let header = NpyHeader::with_descr("<u4", &[runs.len(), 3]);
        output.write_all(&header).and_then(|()| output.write_all(&bytes)).map_err(|e| self.write_error(e))?;
        temporary::persist(output, &masked_path(self.index_path))?;
        Ok(crc32c::crc32c(&bytes))
    }

    /// Empties `output` but for the room of its header.
    fn start_over(&self, output: &mut Output) -> Result<()> {
        output.sums = Checksums::default();
        let reset = |file: &mut BufWriter<NamedTempFile>| {
            file.rewind()?;
            file.get_ref().as_file().set_len(0)?;
            file.write_all(&[0; WRITTEN_LEN])
        };
        reset(&mut output.file).map_err(|e| self.write_error(e))
    }

    fn finish(&self, mut output: BufWriter<NamedTempFile>, header: Vec<u8>, path: &Path) -> Result<()> {
        output.rewind().and_then(|()| output.write_all(&header)).map_err(|e| self.write_error(e))?;
        temporary::persist(output, path)
    }

    fn write_error(&self, e: io::Error) -> Error {
        Error::io("write the patch store in", self.dir, e)
    }
}

/// The files of an image as messages name them.
fn display_name(paths: &[PathBuf]) -> String {
    let first = paths.first().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    match paths.len() {
        0 | 1 => first,
        n => format!("{first} (+{})", n - 1),
    }
}
