//! GDAL's own tags: the no-data value, and scale and offset of each band.

use tiff_reader::{Ifd, TagValue};

const GDAL_METADATA: u16 = 42112;
const GDAL_NODATA: u16 = 42113;

/// The no-data value that a file states. The note is about a tag that says nothing.
pub(super) fn nodata(ifd: &Ifd) -> (Option<f64>, Option<String>) {
    let Some(tag) = ifd.tag(GDAL_NODATA) else { return (None, None) };
    let text = match &tag.value {
        TagValue::Ascii(text) => text.clone(),
        TagValue::Byte(bytes) | TagValue::Undefined(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        TagValue::Double(values) if !values.is_empty() => return (Some(values[0]), None),
        _ => String::from("of another type than text"),
    };
    let text = text.split('\0').next().unwrap_or_default().trim();
    match parse_number(text) {
        Some(value) => (Some(value), None),
        None => {
            let quoted: String = text.chars().take(40).collect();
            let note =
                format!("its no-data tag is no number ({quoted:?}) and is ignored; Data.nodata can state the value");
            (None, Some(note))
        }
    }
}

/// A number as programs have written it: with a decimal comma, and NaN and infinity in the words of old C libraries.
fn parse_number(text: &str) -> Option<f64> {
    if let Ok(value) = text.replacen(',', ".", 1).parse() {
        return Some(value);
    }
    let lower = text.to_ascii_lowercase();
    let magnitude = lower.trim_start_matches(['+', '-']);
    match magnitude {
        _ if magnitude.starts_with("nan") => Some(f64::NAN),
        _ if magnitude.starts_with("1.#inf") => {
            Some(if lower.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        _ if ["1.#ind", "1.#qnan", "1.#snan"].iter().any(|form| magnitude.starts_with(form)) => Some(f64::NAN),
        _ => None,
    }
}

/// Scale and offset of each band, if any band has some.
pub(super) fn scaling(ifd: &Ifd, bands: usize) -> Option<Vec<(f64, f64)>> {
    let TagValue::Ascii(text) = &ifd.tag(GDAL_METADATA)?.value else { return None };
    let options = roxmltree::ParsingOptions { nodes_limit: 1 << 20, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).ok()?;
    let mut scaling = vec![(1.0, 0.0); bands];
    for item in document.descendants().filter(|node| node.has_tag_name("Item")) {
        let band = item.attribute("sample").and_then(|sample| sample.parse::<usize>().ok());
        let value = item.text().and_then(|text| text.trim().parse::<f64>().ok()).filter(|value| value.is_finite());
        if let (Some(band), Some(value), Some(role)) = (band.filter(|&b| b < bands), value, item.attribute("role")) {
            match role {
                "scale" => scaling[band].0 = value,
                "offset" => scaling[band].1 = value,
                _ => {}
            }
        }
    }
    scaling.iter().any(|&pair| pair != (1.0, 0.0)).then_some(scaling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_programs_have_written_them() {
        for (text, value) in
            [("0", 0.0), ("-9999.0", -9999.0), ("1e+20", 1e20), ("-3,4e38", -3.4e38), ("inf", f64::INFINITY)]
        {
            assert_eq!(parse_number(text), Some(value), "{text}");
        }
        for text in ["nan", "NaN", "-nan", "nan(ind)", "-1.#IND", "1.#QNAN", "-1.#IND00"] {
            assert!(parse_number(text).is_some_and(f64::is_nan), "{text}");
        }
        assert_eq!(parse_number("-1.#INF"), Some(f64::NEG_INFINITY));
        for text in ["", "None", "unset", "0x", "1.2.3"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }
}
