//! GDAL's mask beside a file: `NAME.tif.msk`, itself a TIFF file of one band, 0 where a pixel has no value. It is opened
//! when it is first read: a damaged one matters to nobody who does not use it.

use std::path::{Path, PathBuf};

use super::tiff::{self, TiffSource};
use super::{MaskKind, Source, SourceInfo};
use crate::error::{Error, Result};

struct MaskedSource {
    image: TiffSource,
    mask_path: PathBuf,
    mask: Option<TiffSource>,
    info: SourceInfo,
}

/// `image` with the mask beside `path`, if there is one.
pub(super) fn with_sidecar(path: &Path, image: TiffSource) -> Box<dyn Source> {
    let mut name = path.as_os_str().to_owned();
    name.push(".msk");
    let mask_path = PathBuf::from(name);
    if !mask_path.is_file() {
        return Box::new(image);
    }
    let info = SourceInfo { mask: Some(MaskKind::Sidecar), ..image.info().clone() };
    Box::new(MaskedSource { image, mask_path, mask: None, info })
}

impl MaskedSource {
    /// The mask, which must have the image's size.
    fn open_mask(&self) -> Result<TiffSource> {
        let mask = tiff::open(&self.mask_path)?;
        let (of_image, of_mask) = (&self.info, mask.info());
        if (of_image.height, of_image.width) != (of_mask.height, of_mask.width) {
            let message = format!(
                "a mask of {} rows and {} columns beside an image of {} and {}",
                of_mask.height, of_mask.width, of_image.height, of_image.width
            );
            return Err(Error::data(&self.mask_path, message)
                .with_hint("remove the mask or make it anew; Data.mask: ignore does without masks"));
        }
        Ok(mask)
    }
}

impl Source for MaskedSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        self.image.next_rows(bands, out)
    }

    fn seek(&mut self, row: usize) {
        self.image.seek(row);
    }

    fn read_mask(&mut self, first: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self.open_mask()?,
        };
        self.mask.insert(mask).first_band(first, rows, out)
    }
}
