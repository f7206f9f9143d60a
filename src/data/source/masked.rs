//! GDAL's mask beside a file: `NAME.tif.msk`, itself a TIFF file of one band, 0 where a pixel has no value.

use std::path::Path;

use super::tiff::{self, TiffSource};
use super::{MaskKind, Source, SourceInfo};
use crate::error::{Error, Result};

struct MaskedSource {
    image: TiffSource,
    mask: TiffSource,
    info: SourceInfo,
}

/// `image` with the mask beside `path`, if there is one.
pub(super) fn with_sidecar(path: &Path, image: TiffSource) -> Result<Box<dyn Source>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".msk");
    let mask_path = Path::new(&name);
    if !mask_path.is_file() {
        return Ok(Box::new(image));
    }
    let mask = tiff::open(mask_path)?;
    let (of_image, of_mask) = (image.info(), mask.info());
    if (of_image.height, of_image.width) != (of_mask.height, of_mask.width) {
        let message = format!(
            "a mask of {} rows and {} columns beside an image of {} and {}",
            of_mask.height, of_mask.width, of_image.height, of_image.width
        );
        return Err(Error::data(mask_path, message).with_hint("remove the mask, or make it anew"));
    }
    let info = SourceInfo { mask: Some(MaskKind::Sidecar), ..of_image.clone() };
    Ok(Box::new(MaskedSource { image, mask, info }))
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
        self.mask.first_band(first, rows, out)
    }
}
