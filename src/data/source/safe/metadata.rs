//! What a product's XML files say: quantification, offsets, where its pixels are.

use std::path::Path;

use roxmltree::{Document, Node, ParsingOptions};

use super::{FULL_SCALE, package::Package};
use crate::error::{Error, Result};

/// All bands, in the order of their numbers in metadata.
const BANDS: [&str; 13] = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"];

/// The bands of a resolution in metres.
pub(super) fn bands_of(metres: u32) -> Option<&'static [&'static str]> {
    match metres {
        10 => Some(&["B02", "B03", "B04", "B08"]),
        20 => Some(&["B05", "B06", "B07", "B8A", "B11", "B12"]),
        60 => Some(&["B01", "B09"]),
        _ => None,
    }
}

/// The file of a product that describes it.
pub(super) struct Product {
    /// `Sentinel-2 L1C` or `Sentinel-2 L2A`.
    pub level: &'static str,
    /// The processing baseline, `05.09`.
    pub baseline: String,
    quantification: f64,
    /// Of each of [`BANDS`].
    offsets: [f64; BANDS.len()],
    /// All files of the product.
    names: Vec<String>,
}

impl Product {
    /// Reads `MTD_MSIL1C.xml` or `MTD_MSIL2A.xml`.
    ///
    /// # Errors
    /// If there is none, or it does not say how values become reflectance.
    pub fn read(package: &mut Package) -> Result<Product> {
        let names = package.names()?;
        let file = |name: &&str| names.iter().any(|n| n == name);
        let name = ["MTD_MSIL2A.xml", "MTD_MSIL1C.xml"].into_iter().find(file).ok_or_else(|| {
            Error::data(package.path(), "neither MTD_MSIL1C.xml nor MTD_MSIL2A.xml is in it").with_hint(
                "name the .SAFE folder itself or its zip file; products from before December 2016 are not read",
            )
        })?;
        let (level, offset_tag, quantification_tag) = match name {
            "MTD_MSIL2A.xml" => ("Sentinel-2 L2A", "BOA_ADD_OFFSET", "BOA_QUANTIFICATION_VALUE"),
            _ => ("Sentinel-2 L1C", "RADIO_ADD_OFFSET", "QUANTIFICATION_VALUE"),
        };
        let path = package.path().join(name);
        let text = package.xml(name)?;
        let document = parse(&path, &text)?;
        let quantification = number(&document, quantification_tag)
            .filter(|value| *value > 0.0)
            .ok_or_else(|| Error::data(&path, format!("{quantification_tag} is missing, or no positive number")))?;
        let mut offsets = [0.0; BANDS.len()];
        for node in elements(&document, offset_tag) {
            let band = node.attribute("band_id").and_then(|id| id.parse::<usize>().ok());
            let offset = value(node).zip(band.and_then(|band| offsets.get_mut(band)));
            let Some((offset, place)) = offset else {
                return Err(Error::data(&path, format!("a {offset_tag} without a number or with an unknown band_id")));
            };
            *place = offset;
        }
        let baseline = elements(&document, "PROCESSING_BASELINE").find_map(|node| node.text());
        let baseline = baseline.map_or("unknown", str::trim).chars().take(8).collect();
        Ok(Product { level, baseline, quantification, offsets, names })
    }

    /// What is added to a band's values, and what they are multiplied by then.
    pub fn harmonise(&self, band: &str) -> (f64, f64) {
        let offset = BANDS.iter().position(|name| *name == band).map_or(0.0, |number| self.offsets[number]);
        (offset, FULL_SCALE / self.quantification)
    }

    /// The image of a band.
    ///
    /// # Errors
    /// If there is none, or more than one, as in products of several granules.
    pub fn file_of(&self, path: &Path, band: &str, metres: u32) -> Result<String> {
        let endings = [format!("_{band}_{metres}m.jp2"), format!("_{band}.jp2")];
        let is_image = |name: &&String| name.contains("/IMG_DATA/") && endings.iter().any(|end| name.ends_with(end));
        let found: Vec<&String> = self.names.iter().filter(is_image).collect();
        match found[..] {
            [name] => Ok(name.clone()),
            [] => Err(Error::data(path, format!("the product lacks the image of band {band} at {metres} m"))
                .with_hint("download it again, all of it")),
            _ => Err(Error::data(path, format!("the product has {} images of band {band}", found.len()))
                .with_hint("products of one granule are read, as all are since December 2016")),
        }
    }
}

/// Where the pixels of a granule are.
pub(super) struct Granule {
    /// Its reference system.
    pub epsg: u16,
    /// Easting and northing of the upper left corner, in metres.
    pub corner: [f64; 2],
    /// Width and height of a pixel, in metres.
    pub pixel: [f64; 2],
}

impl Granule {
    /// Reads `GRANULE/*/MTD_TL.xml`.
    ///
    /// # Errors
    /// If there is none, or it does not place the bands of this resolution.
    pub fn read(package: &mut Package, metres: u32) -> Result<Granule> {
        let names = package.names()?;
        let is_granule = |name: &&String| name.starts_with("GRANULE/") && name.ends_with("/MTD_TL.xml");
        let missing =
            || Error::data(package.path(), "GRANULE/*/MTD_TL.xml is missing").with_hint("download the product again");
        let name = names.iter().find(is_granule).ok_or_else(missing)?;
        let path = package.path().join(name);
        let text = package.xml(name)?;
        let document = parse(&path, &text)?;
        let epsg = elements(&document, "HORIZONTAL_CS_CODE")
            .find_map(|node| node.text()?.trim().strip_prefix("EPSG:")?.parse().ok());
        let place = elements(&document, "Geoposition")
            .find(|node| node.attribute("resolution").is_some_and(|text| text.parse() == Ok(metres)));
        let numbers = place.and_then(|place| {
            let of = |tag: &str| value(place.children().find(|child| child.has_tag_name(tag))?);
            Some([of("ULX")?, of("ULY")?, of("XDIM")?, of("YDIM")?])
        });
        match (epsg, numbers) {
            (Some(epsg), Some([left, top, across, down])) if across > 0.0 && down < 0.0 => {
                Ok(Granule { epsg, corner: [left, top], pixel: [across, -down] })
            }
            _ => Err(Error::data(path, format!("it does not say where the bands of {metres} m are"))),
        }
    }
}

fn parse<'a>(path: &Path, text: &'a str) -> Result<Document<'a>> {
    let options = ParsingOptions { nodes_limit: 1 << 22, ..Default::default() };
    Document::parse_with_options(text, options).map_err(|e| Error::data(path, format!("not a readable XML file: {e}")))
}

fn elements<'a, 'i>(document: &'a Document<'i>, tag: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    document.descendants().filter(move |node| node.tag_name().name() == tag)
}

/// The first finite number that a tag has.
fn number(document: &Document, tag: &str) -> Option<f64> {
    elements(document, tag).find_map(value)
}

fn value(node: Node) -> Option<f64> {
    node.text()?.trim().parse().ok().filter(|value: &f64| value.is_finite())
}
