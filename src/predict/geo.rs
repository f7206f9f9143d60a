//! Where a map's pixels lie on the ground: the tags of its scene, with the transform divided by the scale.

use std::fmt::Write;

use crate::data::source::RawTag;
use crate::data::source::tags::{
    GDAL_METADATA, GEO_KEYS, MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION, PHOTOMETRIC, RPC_COEFFICIENTS,
};

/// GeoTIFF's key for what a pixel is, and its value for a point.
const RASTER_TYPE_KEY: u16 = 1025;
const PIXEL_IS_POINT: u16 = 2;
/// Photometric interpretations.
const GREY: u16 = 1;
const RGB: u16 = 2;

/// The tags of a map whose pixels are `scale` times smaller than those of its scene, made of the scene's `bands`.
pub(super) fn map_tags(tags: &[RawTag], scale: usize, bands: &[usize]) -> Vec<RawTag> {
    let is_point = find(tags, GEO_KEYS).is_some_and(|keys| {
        keys.to_shorts().chunks_exact(4).skip(1).any(|key| key[0] == RASTER_TYPE_KEY && key[3] == PIXEL_IS_POINT)
    });
    // A pixel that is a point lies half a pixel beside the corner that areas count from.
    let half = if is_point { 0.5 } else { 0.0 };
    let s = scale as f64;
    let place = |at: f64| (at + half) * s - half;
    let mut kept = vec![RawTag::shorts(PHOTOMETRIC, &[colours(tags, bands)])];
    for tag in tags {
        let numbers = tag.to_doubles();
        kept.push(match tag.code {
            PHOTOMETRIC => continue,
            MODEL_PIXEL_SCALE if numbers.len() >= 2 => {
                let by = |(i, v): (usize, &f64)| if i < 2 { v / s } else { *v };
                RawTag::doubles(tag.code, &numbers.iter().enumerate().map(by).collect::<Vec<f64>>())
            }
            MODEL_TIEPOINT => {
                let moved = |(i, v): (usize, &f64)| if i % 6 < 2 { place(*v) } else { *v };
                RawTag::doubles(tag.code, &numbers.iter().enumerate().map(moved).collect::<Vec<f64>>())
            }
            MODEL_TRANSFORMATION if numbers.len() == 16 => RawTag::doubles(tag.code, &transform(numbers, s, half)),
            RPC_COEFFICIENTS if numbers.len() == 92 => RawTag::doubles(tag.code, &coefficients(numbers, s)),
            GDAL_METADATA => match band_metadata(&tag.to_text(), bands) {
                Some(text) => RawTag::text(tag.code, &text),
                None => continue,
            },
            _ => tag.clone(),
        });
    }
    kept.sort_by_key(|tag| tag.code);
    kept
}

fn find(tags: &[RawTag], code: u16) -> Option<&RawTag> {
    tags.iter().find(|tag| tag.code == code)
}

/// RGB where the scene is, and the map begins with the same three bands.
fn colours(tags: &[RawTag], bands: &[usize]) -> u16 {
    let is_rgb = find(tags, PHOTOMETRIC).is_some_and(|tag| tag.to_shorts() == [RGB]);
    if is_rgb && bands.starts_with(&[0, 1, 2]) { RGB } else { GREY }
}

/// Ground = matrix · (column, row, height, 1).
fn transform(mut matrix: Vec<f64>, scale: f64, half: f64) -> Vec<f64> {
    // The scene's place of the map's first pixel.
    let first = half / scale - half;
    for row in matrix.chunks_exact_mut(4) {
        row[3] += (row[0] + row[1]) * first;
    }
    for row in matrix.chunks_exact_mut(4).take(3) {
        row[0] /= scale;
        row[1] /= scale;
    }
    matrix
}

/// Two errors; offsets of line, sample, latitude, longitude, height; scales of the same; polynomials. Lines and samples
/// are those of pixel centres.
fn coefficients(mut rpc: Vec<f64>, scale: f64) -> Vec<f64> {
    for offset in &mut rpc[2..4] {
        *offset = (*offset + 0.5) * scale - 0.5;
    }
    rpc[7..9].iter_mut().for_each(|extent| *extent *= scale);
    rpc
}

/// Metres along the side of a map's pixel, if its reference system is a projected one in metres or says no unit.
pub(super) fn metres(tags: &[RawTag]) -> Option<f64> {
    const MODEL_TYPE: u16 = 1024;
    const PROJECTED: u16 = 1;
    const LINEAR_UNITS: u16 = 3076;
    const METRE: u16 = 9001;
    let keys = find(tags, GEO_KEYS)?.to_shorts();
    let key = |code: u16| keys.chunks_exact(4).skip(1).find(|key| key[0] == code).map(|key| key[3]);
    let in_metres = key(MODEL_TYPE) == Some(PROJECTED) && key(LINEAR_UNITS).is_none_or(|unit| unit == METRE);
    let side = match (find(tags, MODEL_PIXEL_SCALE), find(tags, MODEL_TRANSFORMATION)) {
        (Some(scale), _) => scale.to_doubles().first().copied(),
        (None, Some(matrix)) => matrix.to_doubles().get(..5).map(|m| m[0].hypot(m[4])),
        (None, None) => None,
    };
    side.filter(|side| in_metres && side.is_finite() && *side > 0.0)
}

/// Names of bands that GDAL's metadata state, by band.
pub(super) fn band_names(tags: &[RawTag]) -> Vec<(usize, String)> {
    let Some(text) = find(tags, GDAL_METADATA).map(RawTag::to_text) else { return Vec::new() };
    let Ok(document) = roxmltree::Document::parse(&text) else { return Vec::new() };
    let items = document.descendants().filter(|node| node.attribute("role") == Some("description"));
    let named = |node: roxmltree::Node| {
        Some((node.attribute("sample")?.parse().ok()?, unescaped(node.text().unwrap_or_default().trim())))
    };
    items.filter_map(named).collect()
}

/// GDAL's metadata for a map made of `bands`: items of other bands are left out, and so are statistics, which are not the
/// map's. `None` if nothing is left, or the text is no XML.
fn band_metadata(text: &str, bands: &[usize]) -> Option<String> {
    let document = roxmltree::Document::parse(text).ok()?;
    let mut out = String::from("<GDALMetadata>\n");
    let empty = out.len();
    for item in document.descendants().filter(|node| node.has_tag_name("Item")) {
        let places: Vec<Option<usize>> = match item.attribute("sample") {
            None => vec![None],
            Some(sample) => {
                let sample: Option<usize> = sample.parse().ok();
                (0..bands.len()).filter(|&place| Some(bands[place]) == sample).map(Some).collect()
            }
        };
        if item.attribute("name").is_some_and(|name| name.starts_with("STATISTICS_")) {
            continue;
        }
        for place in places {
            out.push_str("  <Item");
            for attribute in item.attributes().filter(|attribute| attribute.name() != "sample") {
                let _ = write!(out, " {}=\"{}\"", attribute.name(), escaped(attribute.value()));
            }
            place.iter().for_each(|place| {
                let _ = write!(out, " sample=\"{place}\"");
            });
            let _ = writeln!(out, ">{}</Item>", escaped(item.text().unwrap_or_default()));
        }
    }
    (out.len() > empty).then(|| out + "</GDALMetadata>\n")
}

/// GDAL escapes texts once more than XML asks for.
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ground coordinates of the corner of pixel (column, row), as readers compute them.
    fn corner(tags: &[RawTag], column: f64, row: f64, half: f64) -> (f64, f64) {
        let (column, row) = (column - half, row - half);
        if let Some(matrix) = find(tags, MODEL_TRANSFORMATION) {
            let m = matrix.to_doubles();
            return (m[0] * column + m[1] * row + m[3], m[4] * column + m[5] * row + m[7]);
        }
        let scale = find(tags, MODEL_PIXEL_SCALE).unwrap().to_doubles();
        let tie = find(tags, MODEL_TIEPOINT).unwrap().to_doubles();
        (tie[3] + (column - tie[0]) * scale[0], tie[4] - (row - tie[1]) * scale[1])
    }

    #[test]
    fn a_pixels_corner_lies_where_it_lay() {
        let keys = |kind| RawTag::shorts(GEO_KEYS, &[1, 1, 0, 1, RASTER_TYPE_KEY, 0, 1, kind]);
        let tied = vec![
            RawTag::doubles(MODEL_PIXEL_SCALE, &[10.0, 20.0, 0.0]),
            RawTag::doubles(MODEL_TIEPOINT, &[0.0, 0.0, 0.0, 5e5, 4e6, 0.0]),
        ];
        let mut matrix = [0.0; 16];
        matrix[..8].copy_from_slice(&[10.0, 1.5, 0.0, 5e5, -2.0, -9.0, 0.0, 4e6]);
        matrix[15] = 1.0;
        let turned = vec![RawTag::doubles(MODEL_TRANSFORMATION, &matrix)];
        for (kind, half) in [(1, 0.0), (PIXEL_IS_POINT, 0.5)] {
            for geo in [&tied, &turned] {
                let tags: Vec<RawTag> = geo.iter().cloned().chain([keys(kind)]).collect();
                let map = map_tags(&tags, 4, &[0]);
                for (column, row) in [(0.0, 0.0), (7.0, 3.0)] {
                    let (x, y) = corner(&tags, column, row, half);
                    let (map_x, map_y) = corner(&map, 4.0 * column, 4.0 * row, half);
                    assert!((x - map_x).abs() < 1e-6 && (y - map_y).abs() < 1e-6, "{kind} {x} {y} {map_x} {map_y}");
                }
            }
        }
    }

    #[test]
    fn metadata_follow_their_bands() {
        let text = "<GDALMetadata><Item name=\"A\">x &amp; y</Item>\
            <Item name=\"DESCRIPTION\" sample=\"0\" role=\"description\">B02</Item>\
            <Item name=\"DESCRIPTION\" sample=\"2\" role=\"description\">B08 &amp;amp; B8A</Item>\
            <Item name=\"STATISTICS_MEAN\" sample=\"2\">5</Item></GDALMetadata>";
        let tags = map_tags(&[RawTag::text(GDAL_METADATA, text)], 2, &[2, 1]);
        let kept = find(&tags, GDAL_METADATA).unwrap().to_text();
        assert!(kept.contains("<Item name=\"A\">x &amp; y</Item>"), "{kept}");
        assert!(!kept.contains("B02") && !kept.contains("STATISTICS"), "{kept}");
        assert_eq!(band_names(&tags), [(0, "B08 & B8A".to_owned())]);
        assert!(find(&map_tags(&[RawTag::text(GDAL_METADATA, "no XML")], 2, &[0]), GDAL_METADATA).is_none());
    }

    #[test]
    fn colours_stay_where_the_bands_do() {
        let rgb = [RawTag::shorts(PHOTOMETRIC, &[RGB])];
        let kind = |bands: &[usize]| find(&map_tags(&rgb, 2, bands), PHOTOMETRIC).unwrap().to_shorts();
        assert_eq!((kind(&[0, 1, 2]), kind(&[2, 1, 0])), (vec![RGB], vec![GREY]));
    }
}
