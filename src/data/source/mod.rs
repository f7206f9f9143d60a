//! Source files, read from top to bottom in bounded pieces.

mod array;
mod jp2;
mod masked;
pub(crate) mod npy_header;
mod picture;
mod safe;
mod stack;
pub(crate) mod tags;
mod tiff;
mod unpacked;
mod values;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub(crate) use self::tags::RawTag;
use self::values::ValueType;
use super::{Layout, PixelType};
use crate::error::{Error, Result};
use crate::files::open_regular;

/// File name endings that can be read.
pub(crate) const EXTENSIONS: [&str; 9] = ["npy", "npz", "tif", "tiff", "png", "jpg", "jpeg", "jp2", "j2k"];

/// What says which pixels of a file have no value, beside the values themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaskKind {
    /// A mask inside a TIFF file.
    Internal,
    /// A file beside it, `NAME.msk`.
    Sidecar,
    /// A band that the file marks as alpha.
    Alpha,
}

impl MaskKind {
    /// The mask in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            MaskKind::Internal => "its internal mask",
            MaskKind::Sidecar => "the .msk file beside it",
            MaskKind::Alpha => "its alpha band",
        }
    }
}

/// What a source file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceInfo {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Bands in the file, chosen or not.
    pub bands: usize,
    /// Type of a value in the file.
    pub value_type: ValueType,
    /// Type of a value as it is read.
    pub dtype: PixelType,
    /// The value of pixels without data that the file states.
    pub nodata: Option<f64>,
    /// That of each band, where the bands come from several files.
    pub band_nodata: Option<Vec<Option<f64>>>,
    /// What masks pixels.
    pub mask: Option<MaskKind>,
    /// The band that the file marks as alpha.
    pub alpha: Option<usize>,
    /// Scale and offset of each band that the file states: value × scale + offset is what it measures.
    pub scaling: Option<Vec<(f64, f64)>>,
    /// Bytes before the first value, if the file is a plain array as a store would hold it: rows, columns, bands.
    pub plain_at: Option<u64>,
    /// The shape as the file states it, for messages.
    pub shape: String,
    /// Tags of a TIFF file that say where and what its pixels are: [`tags::KEPT`].
    pub tags: Vec<RawTag>,
    /// Whether `Data.layout` decided what the axes mean.
    pub layout_applied: bool,
    /// What the user should know about the file, to follow its name.
    pub notes: Vec<String>,
}

impl SourceInfo {
    /// A file of this many rows, columns and bands that says nothing else.
    fn new([height, width, bands]: [usize; 3], value_type: ValueType, shape: String) -> SourceInfo {
        let mut notes = Vec::new();
        if !value_type.is_exact() {
            notes.push(format!("its {value_type} values are kept as float32, with seven digits"));
        }
        SourceInfo {
            height,
            width,
            bands,
            value_type,
            dtype: value_type.stored(),
            nodata: None,
            band_nodata: None,
            mask: None,
            alpha: None,
            scaling: None,
            plain_at: None,
            shape,
            tags: Vec::new(),
            layout_applied: false,
            notes,
        }
    }
}

impl SourceInfo {
    /// The value of pixels without data that is stated of a band.
    pub fn nodata_of(&self, band: usize) -> Option<f64> {
        self.band_nodata.as_ref().map_or(self.nodata, |values| values[band])
    }
}

/// An open file, read by windows of full-width rows: what a format has to provide for training and for maps.
pub(crate) trait Source {
    /// What the file holds.
    fn info(&self) -> &SourceInfo;

    /// Appends the next full-width rows to `out` (rows, columns, `bands`; native byte order) and returns their
    /// number, 0 at the end.
    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize>;

    /// The next rows start at `row`.
    fn seek(&mut self, row: usize);

    /// Appends a byte for each pixel of `rows` rows from `first` on: 0 where the file's mask hides it. Files of a kind
    /// without masks hide none.
    fn read_mask(&mut self, _first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        out.resize(out.len() + rows * self.info().width, 1);
        Ok(())
    }
}

/// Whether `path`'s ending is one that [`open`] knows.
pub(crate) fn is_supported(path: &Path) -> bool {
    extension(path).is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Whether `path` names a Sentinel-2 product, or a resolution inside one.
pub(crate) fn is_product(path: &Path) -> bool {
    safe::is_product(path)
}

/// The image's name for files that are made of it: its file's without the ending, and a product's with the resolution.
pub(crate) fn stem(path: &Path) -> String {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match safe::split(path) {
        (product, Some(metres)) if is_product(path) => format!("{}_{metres}m", stem(product)),
        _ => stem(path),
    }
}

/// The file or folder that the image at `path` is in.
pub(crate) fn container(path: &Path) -> &Path {
    if is_product(path) { safe::split(path).0 } else { path }
}

/// The image at `path` whose bands have the names in `asked`, separated by commas: of a product of which no resolution is
/// named, that of these bands.
pub(crate) fn with_bands(path: &Path, asked: Option<&str>) -> PathBuf {
    match asked {
        Some(asked) if is_product(path) => safe::with_bands(path, asked),
        _ => path.into(),
    }
}

/// The files that decide what the image at `path` is: itself, or those of a product.
///
/// # Errors
/// If a product's folder cannot be read.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if is_product(path) { safe::files(path) } else { Ok(vec![path.into()]) }
}

/// The readable image files of a folder, sorted by name; hidden files and others are passed over.
pub(crate) fn images_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("list the folder", dir, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && (path.is_file() && is_supported(&path) || path.is_dir() && is_product(&path)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Opens a source file by its ending. `layout` says what the axes of `.npy` and `.npz` mean.
pub(crate) fn open(path: &Path, layout: Layout) -> Result<Box<dyn Source>> {
    refuse_no_image(path)?;
    if path.is_dir() && !safe::is_product(path) {
        return Err(a_folder(path)?);
    }
    let source: Box<dyn Source> = match extension(path).as_deref() {
        Some("npy") => Box::new(array::open_npy(path, layout)?),
        Some("npz") => Box::new(array::open_npz(path, layout)?),
        Some("png") => Box::new(picture::open_png(path)?),
        Some("jpg" | "jpeg") => Box::new(picture::open_jpeg(path)?),
        Some("jp2" | "j2k") => Box::new(jp2::open(path)?),
        _ if safe::is_product(path) => Box::new(safe::open(path)?),
        Some("tif" | "tiff") => masked::with_sidecar(path, tiff::open(path)?),
        other => return Err(unknown_kind(path, other.unwrap_or_default())),
    };
    let info = source.info();
    if info.height == 0 || info.width == 0 || info.bands == 0 {
        return Err(Error::data(path, format!("the image is empty: {}", info.shape)));
    }
    Ok(source)
}

/// The text of a tag of the first image of a TIFF file, if it is one.
pub(crate) fn tiff_text(path: &Path, code: u16) -> Option<String> {
    tiff::text_tag(path, code)
}

/// Opens the files of one image: their bands follow each other.
pub(crate) fn open_all(paths: &[PathBuf], layout: Layout) -> Result<Box<dyn Source>> {
    match paths {
        [path] => open(path, layout),
        _ => stack::open(paths, layout),
    }
}

/// What to name instead of a folder.
fn a_folder(path: &Path) -> Result<Error> {
    const SHOWN: usize = 3;
    if ["MTD_MSIL1C.xml", "MTD_MSIL2A.xml"].iter().any(|name| path.join(name).is_file()) {
        let message = "a Sentinel-2 product whose folder does not end in .SAFE";
        return Ok(Error::data(path, message).with_hint("give the folder its name again"));
    }
    let images = images_in(path)?;
    let named: Vec<String> = images.iter().take(SHOWN).map(|image| image.display().to_string()).collect();
    let (error, named) = (Error::data(path, "a folder, not an image"), named.join(", "));
    Ok(match images.len() {
        0 => error.with_hint("there is no image in it that can be read; a Sentinel-2 product's folder ends in .SAFE"),
        1..=SHOWN => error.with_hint(format!("name what is in it: {named}")),
        count => error.with_hint(format!("name images in it, of which there are {count}: {named}, …")),
    })
}

/// A kind of file that cannot be read, with the command that makes one that can.
fn unknown_kind(path: &Path, extension: &str) -> Error {
    let known = EXTENSIONS.map(|e| format!(".{e}")).join(" ");
    if !path.exists() {
        return Error::data(path, "there is no such file");
    }
    let error = Error::data(path, format!("unknown kind of file; known are {known}, and products in .SAFE or .zip"));
    let name = path.display();
    let translate = |from: &str| {
        let to = path.with_extension("tif");
        format!("convert it: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE {from} {}", to.display())
    };
    match extension {
        "vrt" | "img" | "hdf" | "nc" | "jxl" | "webp" | "bsq" => error.with_hint(translate(&name.to_string())),
        _ => error.with_hint("name files of a known kind; GDAL's gdal_translate makes GeoTIFF files of most others"),
    }
}

/// Refuses what Git LFS leaves in place of a file that was not fetched, and what is no file.
fn refuse_no_image(path: &Path) -> Result<()> {
    const START: &[u8] = b"version https://git-lfs";
    let mut start = [0; START.len()];
    let opened = open_regular(path);
    if let Err(e) = &opened
        && e.kind() == ErrorKind::InvalidInput
    {
        return Err(Error::data(path, e.to_string()));
    }
    let read = opened.and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == START {
        let message = "a Git LFS pointer, not the file itself";
        return Err(Error::data(path, message).with_hint("fetch the file: git lfs pull"));
    }
    Ok(())
}

/// Most bytes that an image, strip or tile of a file of `file_len` bytes is unpacked to, since headers may claim
/// anything: what deflate can make of them, at least 64 MiB, and no more than 1 GiB or four times the file.
fn largest_image(file_len: u64) -> usize {
    file_len.saturating_mul(1100).clamp(64 << 20, 1 << 30).max(file_len.saturating_mul(4)) as usize
}

/// The bands of `info` to use, checked against `in_bands` of the networks. Where none are asked for, an alpha band
/// beside as many bands as the networks have is left out.
pub(crate) fn choose_bands(
    path: &Path,
    info: &SourceInfo,
    bands: Option<&[usize]>,
    in_bands: usize,
) -> Result<Vec<usize>> {
    let mut chosen = bands.map_or_else(|| (0..info.bands).collect(), <[usize]>::to_vec);
    if bands.is_none() && chosen.len() == in_bands + 1 {
        chosen.retain(|&band| Some(band) != info.alpha);
    }
    let too_high = chosen.iter().find(|&&b| b >= info.bands);
    if too_high.is_none() && chosen.len() == in_bands {
        return Ok(chosen);
    }
    let message = match too_high {
        Some(b) => {
            format!("Data.bands asks for band {b} (counted from 0), the file has {}: {}", info.bands, info.shape)
        }
        None => format!("{} bands, but Model.in_bands is {in_bands}: {}", chosen.len(), info.shape),
    };
    let hint = if info.layout_applied {
        "set Data.layout to HWC (rows, columns, bands) or CHW (bands, rows, columns), whichever the file is, or choose bands with Data.bands"
    } else {
        "choose bands with Data.bands, or change Model.in_bands"
    };
    Err(Error::data(path, message).with_hint(hint))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Opens a file that the user named: one that is not there or not readable is an error about the data.
fn open_file(path: &Path) -> Result<File> {
    open_regular(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::data(path, "there is no such file"),
        ErrorKind::InvalidInput => Error::data(path, e.to_string()),
        ErrorKind::PermissionDenied => Error::data(path, "the file may not be read"),
        _ => Error::io("open", path, e),
    })
}

/// A zeroed buffer whose length comes from a file's header: an absurd one is an error, not an abort.
fn zeroed(path: &Path, len: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let too_large = |_| Error::data(path, format!("a piece of {len} bytes does not fit into memory"));
    buffer.try_reserve_exact(len).map_err(too_large)?;
    buffer.resize(len, 0);
    Ok(buffer)
}
