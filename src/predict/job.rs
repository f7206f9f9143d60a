//! What a map is made of, and how: everything that decides its bytes. It heads the working file, so that a resumed run or
//! another shard is known to belong to it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::axis::Axis;
use super::matching::Target;
use super::values::Values;
use super::{Blend, Compression};
use crate::data::source::{self, RawTag};
use crate::{Error, Result};

/// Version of the working file.
pub(super) const FORMAT: u32 = 1;

/// How a map is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Form {
    /// A Cloud-Optimized GeoTIFF.
    Tiff,
    /// An array: rows, columns and, if `bands`, bands.
    NpyHwc {
        /// Whether there is an axis of bands.
        bands: bool,
    },
    /// An array: bands, rows, columns.
    NpyChw,
}

/// A file by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileId {
    /// Its name, without folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

impl FileId {
    /// Reads the whole file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(path: &Path) -> Result<FileId> {
        let failed = |e| Error::io("read", path, e);
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let (mut bytes, mut crc) = (0, 0);
        let mut block = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut block).map_err(failed)?;
            if read == 0 {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok(FileId { name, bytes, crc });
            }
            bytes += read as u64;
            crc = crc32c::crc32c_append(crc, &block[..read]);
        }
    }

    /// The files that a scene's pixels come from, and the mask beside each.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn of_scene(path: &Path) -> Result<Vec<FileId>> {
        let mut all = Vec::new();
        for file in source::files_of(path)? {
            all.push(FileId::of(&file)?);
            let mut mask = file.into_os_string();
            mask.push(".msk");
            if Path::new(&mask).is_file() {
                all.push(FileId::of(Path::new(&mask))?);
            }
        }
        Ok(all)
    }
}

/// Everything that decides a map's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of this program.
    pub version: String,
    /// The checkpoint's file.
    pub checkpoint: FileId,
    /// Whether averaged weights are used.
    pub averaged: bool,
    /// In which precision the network runs.
    pub precision: String,
    /// The scene's files.
    pub scene: Vec<FileId>,
    /// The file's bands.
    pub bands: Vec<usize>,
    /// Output pixels along the side of an input pixel.
    pub scale: usize,
    /// Rows of windows.
    pub rows: Axis,
    /// Columns of windows.
    pub columns: Axis,
    /// How windows that share pixels are blended.
    pub blend: Blend,
    /// Type and special values.
    pub values: Values,
    /// Whether the map has a mask.
    pub has_mask: bool,
    /// What values are matched with.
    pub target: Target,
    /// How it is written.
    pub form: Form,
    /// How its tiles are compressed.
    pub compression: Compression,
    /// Tags of the map.
    pub tags: Vec<RawTag>,
}

impl Job {
    /// Rows and columns of the map.
    pub fn size(&self) -> (usize, usize) {
        (self.rows.len * self.scale, self.columns.len * self.scale)
    }

    /// Bytes of a map's pixel.
    pub fn pixel_bytes(&self) -> usize {
        self.bands.len() * self.values.dtype.bytes()
    }

    /// A short name for all of it: equal jobs have equal ones.
    ///
    /// # Errors
    /// Never in practice.
    pub fn digest(&self) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(format!("{:08x}", crc32c::crc32c(&text)))
    }

    /// What differs from `other`, in words; `None` if nothing does.
    pub fn difference(&self, other: &Job) -> Option<&'static str> {
        let differences = [
            ((self.format, &self.version) != (other.format, &other.version), "the version of this program"),
            ((&self.checkpoint, self.averaged) != (&other.checkpoint, other.averaged), "the checkpoint or its weights"),
            (self.scene != other.scene, "the scene"),
            (self.precision != other.precision, "the precision"),
            (self.bands != other.bands, "the bands"),
            ((&self.rows, &self.columns) != (&other.rows, &other.columns), "the windows or their overlap"),
            (self != other, "the options"),
        ];
        differences.into_iter().find(|(differ, _)| *differ).map(|(_, what)| what)
    }
}
