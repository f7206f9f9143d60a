//! Where the files of a product are: in a folder, or in a zip file that holds one.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::data::source::jp2::Jp2;
use crate::data::source::unpacked::{Unpacked, too_large};
use crate::data::source::{largest_image, open_file};
use crate::error::{Error, Result};

/// Bytes of an XML file at most; a granule's with its grids of angles has about one megabyte.
const MOST_XML: u64 = 64 << 20;

/// An open product.
pub(super) struct Package {
    path: PathBuf,
    /// The archive, and the folder inside it that is the product, with a slash at its end.
    archive: Option<(ZipArchive<BufReader<File>>, String)>,
    /// Bytes of the archive.
    len: u64,
}

impl Package {
    /// Opens a folder or zip file.
    ///
    /// # Errors
    /// If it is not there, or a zip file without a product.
    pub fn open(path: &Path) -> Result<Package> {
        if path.is_dir() {
            return Ok(Package { path: path.into(), archive: None, len: 0 });
        }
        let file = open_file(path)?;
        let len = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|e| unreadable(path, &e))?;
        let product = |name: &str| Some(format!("{}.SAFE/", name.split_once(".SAFE/")?.0));
        let inside = archive.file_names().find_map(product).ok_or_else(|| {
            Error::data(path, "a zip file without a .SAFE folder")
                .with_hint("only Sentinel-2 products are read from zip files")
        })?;
        Ok(Package { path: path.into(), archive: Some((archive, inside)), len })
    }

    /// The product's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all files, from the product's folder on.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match &self.archive {
            Some((archive, inside)) => {
                names.extend(archive.file_names().filter_map(|name| name.strip_prefix(inside)).map(str::to_owned));
            }
            None => walk(&self.path, "", 0, &mut names)?,
        }
        names.sort();
        Ok(names)
    }

    /// The text of an XML file.
    ///
    /// # Errors
    /// If it cannot be read or is larger than any of a product.
    pub fn xml(&mut self, name: &str) -> Result<String> {
        let bytes = self.read(name, MOST_XML)?;
        String::from_utf8(bytes).map_err(|_| Error::data(self.path.join(name), "not a text file"))
    }

    /// An image of the product.
    ///
    /// # Errors
    /// If it is not there or no JPEG 2000 image.
    pub fn image(&mut self, name: &str) -> Result<Jp2> {
        let path = self.path.join(name);
        let Some((archive, inside)) = &mut self.archive else { return Jp2::open(&path) };
        let member = archive.by_name(&format!("{inside}{name}")).map_err(|e| unreadable(&path, &e))?;
        Jp2::of_member(&path, Unpacked::of(&path, member, largest_image(self.len) as u64)?)
    }

    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = match &mut self.archive {
            None => open_file(&path)?.take(most + 1).read_to_end(&mut bytes),
            Some((archive, inside)) => {
                let entry = archive.by_name(&format!("{inside}{name}")).map_err(|e| unreadable(&path, &e))?;
                entry.take(most + 1).read_to_end(&mut bytes)
            }
        };
        read.map_err(|e| Error::data(&path, format!("it cannot be read: {e}")))?;
        match bytes.len() as u64 > most {
            true => Err(too_large(&path, most)),
            false => Ok(bytes),
        }
    }
}

fn unreadable(path: &Path, e: &ZipError) -> Error {
    match e {
        ZipError::FileNotFound => Error::data(path, "the product lacks this file"),
        e => Error::data(path, format!("not a readable zip file: {e}")).with_hint("download the product again"),
    }
}

/// Adds the files of a folder and of the folders in it.
fn walk(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    /// Folders of a product lie in each other no deeper: GRANULE/X/IMG_DATA/R10m.
    const DEEPEST: usize = 5;
    let io = |e| Error::io("list the folder", folder, e);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !entry.path().is_dir() {
            names.push(name);
        } else if depth < DEEPEST {
            walk(&entry.path(), &format!("{name}/"), depth + 1, names)?;
        }
    }
    Ok(())
}
