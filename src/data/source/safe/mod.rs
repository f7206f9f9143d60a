//! Sentinel-2 products, `.SAFE` folders and zip files of them: the bands of one resolution as one image of
//! reflectance × 10000.

mod metadata;
mod package;

use std::path::{Path, PathBuf};

use self::metadata::{Granule, Product, bands_of};
use self::package::Package;
use super::jp2::Jp2;
use super::values::ValueType;
use super::{RawTag, Source, SourceInfo, tags};
use crate::error::{Error, Result};

/// Value of pixels without data in all products.
const NODATA: u16 = 0;

/// A value that the sensor was saturated at, in all products.
const SATURATED: u16 = u16::MAX;

/// What reflectance 1 becomes, whatever the product's own quantification is.
const FULL_SCALE: f64 = 10000.0;

/// Whether `path` names a product: a `.SAFE` folder, a zip file, or a resolution inside one, as `X.SAFE/20m`.
pub(super) fn is_product(path: &Path) -> bool {
    split(path).0.extension().is_some_and(|e| e.eq_ignore_ascii_case("safe") || e.eq_ignore_ascii_case("zip"))
}

/// The product, and the resolution in metres that a path like `X.SAFE/20m` asks for.
pub(super) fn split(path: &Path) -> (&Path, Option<u32>) {
    let resolution = path.file_name().and_then(|name| name.to_str()?.strip_suffix('m')?.parse().ok());
    match (resolution, path.parent()) {
        (Some(metres), Some(product)) => (product, Some(metres)),
        _ => (path, None),
    }
}

/// The image of a product that has all of these bands; the product itself if none has, or if a resolution is named.
pub(super) fn with_bands(path: &Path, asked: &str) -> PathBuf {
    let has_all = |metres: &u32| {
        let names = bands_of(*metres).unwrap_or_default();
        asked.split(',').all(|asked| names.iter().any(|name| name.eq_ignore_ascii_case(asked.trim())))
    };
    match (split(path).1, [20, 60].iter().find(|metres| has_all(metres))) {
        (None, Some(metres)) => path.join(format!("{metres}m")),
        _ => path.into(),
    }
}

/// The files that decide what a product's image is: the zip file, or metadata and images of a folder.
///
/// # Errors
/// If a folder cannot be read.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let (product, metres) = split(path);
    if !product.is_dir() {
        return Ok(vec![product.into()]);
    }
    let names = bands_of(metres.unwrap_or(10)).unwrap_or_default();
    let counts = |file: &String| file.ends_with(".xml") || names.iter().any(|name| file.contains(&format!("_{name}")));
    let all = Package::open(product)?.names()?;
    Ok(all.into_iter().filter(counts).map(|name| product.join(name)).collect())
}

/// A product while it is read.
pub(super) struct SafeSource {
    bands: Vec<Jp2>,
    /// What is added to each band's values, and what they are multiplied by after it.
    harmonise: Vec<(f64, f64)>,
    info: SourceInfo,
    next_row: usize,
}

/// Opens the bands of 10 m of a product, or those of another resolution.
pub(super) fn open(path: &Path) -> Result<SafeSource> {
    let (product_path, metres) = split(path);
    let metres = metres.unwrap_or(10);
    let names = bands_of(metres).ok_or_else(|| {
        Error::data(path, format!("a product has no bands of {metres} m")).with_hint("ask for 10m, 20m or 60m")
    })?;
    let mut package = Package::open(product_path)?;
    let product = Product::read(&mut package)?;
    let granule = Granule::read(&mut package, metres)?;
    let mut bands = Vec::new();
    for name in names {
        bands.push(package.image(&product.file_of(product_path, name, metres)?)?);
    }
    let harmonise = names.iter().map(|name| product.harmonise(name)).collect();
    let info = describe(path, &bands, names, metres, &product, &granule)?;
    Ok(SafeSource { bands, harmonise, info, next_row: 0 })
}

fn describe(
    path: &Path,
    bands: &[Jp2],
    names: &[&str],
    metres: u32,
    product: &Product,
    granule: &Granule,
) -> Result<SourceInfo> {
    let (height, width) = (bands[0].height, bands[0].width);
    for (band, name) in bands.iter().zip(names) {
        if (band.height, band.width, band.bands) != (height, width, 1) || band.value_type != ValueType::U16 {
            return Err(Error::data(
                path,
                format!("band {name} is not one band of {height} × {width} values of 16 bits"),
            ));
        }
    }
    let list = names.join(", ");
    let shape = format!("{height} rows, {width} columns, {} bands of uint16 ({list}, {metres} m)", names.len());
    let mut info = SourceInfo::new([height, width, names.len()], ValueType::U16, shape);
    info.nodata = Some(f64::from(NODATA));
    info.tags = geo_tags(granule, names);
    let offsets = names.iter().map(|name| product.harmonise(name).0);
    let offset = match offsets.clone().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v))) {
        (low, high) if low == high => format!("{low:+}"),
        _ => offsets.map(|offset| format!("{offset:+}")).collect::<Vec<_>>().join(", "),
    };
    info.notes.push(format!(
        "{} of processing baseline {}, bands {list} of {metres} m; its own offset {offset} is applied, so that values are reflectance × 10000",
        product.level, product.baseline
    ));
    Ok(info)
}

/// Tags that place the product's pixels on the ground and name its bands.
fn geo_tags(granule: &Granule, names: &[&str]) -> Vec<RawTag> {
    let item = |(band, name): (usize, &&str)| {
        format!("<Item name=\"DESCRIPTION\" sample=\"{band}\" role=\"description\">{name}</Item>")
    };
    let items: String = names.iter().enumerate().map(item).collect();
    let [left, top] = granule.corner;
    let [across, down] = granule.pixel;
    let keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, granule.epsg];
    vec![
        RawTag::doubles(tags::MODEL_PIXEL_SCALE, &[across, down, 0.0]),
        RawTag::doubles(tags::MODEL_TIEPOINT, &[0.0, 0.0, 0.0, left, top, 0.0]),
        RawTag::shorts(tags::GEO_KEYS, &keys),
        RawTag::text(tags::GDAL_METADATA, &format!("<GDALMetadata>{items}</GDALMetadata>")),
    ]
}

/// A product's value as reflectance × 10000. No data and saturation stay what they are; a value of a pixel with data never
/// becomes the one that says no data.
fn harmonised(value: i32, (offset, factor): (f64, f64)) -> u16 {
    match value.clamp(0, i32::from(u16::MAX)) as u16 {
        special @ (NODATA | SATURATED) => special,
        value => ((f64::from(value) + offset) * factor).round().clamp(1.0, f64::from(SATURATED - 1)) as u16,
    }
}

impl Source for SafeSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_rows(&mut self, bands: &[usize], out: &mut Vec<u8>) -> Result<usize> {
        let rows = self.bands[0].window_rows().min(self.info.height - self.next_row);
        if rows == 0 {
            return Ok(0);
        }
        let first = self.next_row;
        let decoded: Vec<Vec<i32>> = std::thread::scope(|scope| {
            let start = |&band: &usize| {
                let image = &self.bands[band];
                scope.spawn(move || image.rows(first, rows))
            };
            let running: Vec<_> = bands.iter().map(start).collect();
            let finish = |one: std::thread::ScopedJoinHandle<'_, Result<Vec<Vec<i32>>>>| {
                let mut of_file = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(of_file.swap_remove(0))
            };
            running.into_iter().map(finish).collect::<Result<_>>()
        })?;
        for pixel in 0..rows * self.info.width {
            for (samples, &band) in decoded.iter().zip(bands) {
                out.extend(harmonised(samples[pixel], self.harmonise[band]).to_ne_bytes());
            }
        }
        self.next_row += rows;
        Ok(rows)
    }

    fn seek(&mut self, row: usize) {
        self.next_row = row.min(self.info.height);
    }
}
