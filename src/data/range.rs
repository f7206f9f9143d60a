//! What a normalisation makes of the data: told at the start, so that values of another range than it expects are seen
//! before a training is lost to them.

use std::fmt::{self, Write};

use super::dataset::{Parts, Stored};
use super::pixels::values_as_f32;
use super::store::Crop;
use super::{DataSettings, DatasetKind};
use crate::error::{Error, Result};
use crate::ops::prepare::Normalization;

/// Rows looked at, evenly over all images.
const ROWS: usize = 256;
/// Columns of a row that are looked at.
const COLUMNS: usize = 2048;

const METHODS: [Normalization; 7] = [
    Normalization::Sen2Stretch,
    Normalization::Normalise10k,
    Normalization::Normalise10kSigned,
    Normalization::NormaliseS2,
    Normalization::ZeroOne,
    Normalization::ZeroOneSigned,
    Normalization::Identity,
];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

/// Looks at a sample of the images, HR and LR.
///
/// # Errors
/// `Data.normalization` is not stated where it must be, or clips more than half of a band.
pub(super) fn check(settings: &DataSettings, parts: &Parts) -> Result<Findings> {
    let hr = sample(parts.images.iter().map(|image| &image.hr))?;
    let method = match (settings.normalization, settings.kind) {
        (_, DatasetKind::Example) => Normalization::Identity,
        (Some(method), _) => method,
        (None, _) => return Err(unstated(&hr)),
    };
    let mut findings = Findings::default();
    if settings.kind == DatasetKind::Example {
        let rule =
            "ExampleDataset divides the values of a file by 10000 where its largest is above 1.5, as opensr-srgan does";
        findings.notes.push(match settings.normalization {
            Some(stated) => format!("{rule}; Data.normalization {} has no effect", stated.name()),
            None => rule.to_owned(),
        });
    }
    describe("HR", method, &hr, settings.check_range, &mut findings)?;
    if parts.images.iter().any(|image| image.lr.is_some()) {
        let lr = sample(parts.images.iter().filter_map(|image| image.lr.as_ref()))?;
        describe("LR", method, &lr, settings.check_range, &mut findings)?;
    }
    Ok(findings)
}

/// Sorted values of each band that have a value.
fn sample<'a>(images: impl Iterator<Item = &'a Stored>) -> Result<Vec<Vec<f32>>> {
    let images: Vec<&Stored> = images.collect();
    let mut bands: Vec<Vec<f32>> = Vec::new();
    let looked_at = images.len().min(ROWS);
    for number in 0..looked_at {
        let Stored { store, image } = images[number * images.len() / looked_at];
        let stored = &store.images[*image];
        let masked = store.masked_runs()?;
        bands.resize(store.bands, Vec::new());
        let rows = (ROWS / looked_at).min(stored.height);
        for row in (0..rows).map(|r| r * stored.height / rows) {
            let width = stored.width.min(COLUMNS);
            let column = (stored.width - width) / 2;
            let mut bytes = vec![0; width * store.bands * store.dtype.bytes()];
            store.copy_crop(*image, Crop { row, column, height: 1, width }, &mut bytes)?;
            let first = masked.partition_point(|run| (run.row as usize) < row);
            let runs = || masked[first..].iter().take_while(|run| run.row as usize == row);
            for (i, value) in values_as_f32(&bytes, store.dtype).enumerate() {
                let x = (column + i / store.bands) as u32;
                if value.is_finite() && !runs().any(|run| (run.first..run.end).contains(&x)) {
                    bands[i % store.bands].push(value);
                }
            }
        }
    }
    bands.iter_mut().for_each(|values| values.sort_by(f32::total_cmp));
    Ok(bands)
}

/// Whether a method cannot give this value back.
fn is_clipped(method: Normalization, value: f32) -> bool {
    let back = method.denormalize(method.normalize(value));
    // Rounding on the way is no clipping.
    (back - value).abs() > 1e-3 * value.abs() + 1e-5 * method.denormalize(1.0)
}

/// Share of sorted values that a method clips.
pub(crate) fn clipped_share(method: Normalization, values: &[f32]) -> f64 {
    // What is clipped lies at the ends.
    let inside = values.partition_point(|&v| is_clipped(method, v) && v < middle(method));
    let outside = values[inside..].partition_point(|&v| !is_clipped(method, v));
    (values.len() - outside) as f64 / values.len().max(1) as f64
}

/// A value that no method clips.
fn middle(method: Normalization) -> f32 {
    match method {
        Normalization::Identity => 0.0,
        _ => method.denormalize(0.5),
    }
}

/// Smallest, median and largest of sorted values, normalised.
fn spread(method: Normalization, values: &[f32]) -> [f32; 3] {
    [0, values.len() / 2, values.len() - 1].map(|i| method.normalize(values[i]))
}

/// A value in few characters: of 1e38 nobody reads 39 digits.
struct Short(f32);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Short(value) = *self;
        let plain = value == 0.0 || (1e-4..1e7).contains(&value.abs());
        match (plain, f.precision()) {
            (false, _) => write!(f, "{value:e}"),
            (true, Some(digits)) => write!(f, "{value:.digits$}"),
            (true, None) => write!(f, "{value}"),
        }
    }
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent > 0.0 && percent < 0.1 { "under 0.1 %".into() } else { format!("{percent:.1} %") }
}

/// Tells of one side of the data; adds warnings.
fn describe(
    side: &str,
    method: Normalization,
    bands: &[Vec<f32>],
    strict: bool,
    findings: &mut Findings,
) -> Result<()> {
    let name = method.name();
    let mut text = format!("{side} values after {name}, smallest · median · largest, of a sample:");
    for (band, values) in bands.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        let [low, median, high] = spread(method, values);
        let [low_text, median_text, high_text] = [low, median, high].map(Short);
        let share = clipped_share(method, values);
        let _ = write!(text, "\n  band {band}: {low_text:.4} · {median_text:.4} · {high_text:.4}");
        if share > 0.0 {
            let _ = write!(text, ", {} clipped", percent(share));
        }
        let raw = format!(
            "band {band} of the {side} files holds {} to {}",
            Short(values[0]),
            Short(values[values.len() - 1])
        );
        if share > 0.5 && strict {
            let message = format!("{raw}, of which {name} clips {}", percent(share));
            return Err(Error::config("Data.normalization", message).with_hint(options(bands)));
        }
        let is_signed = method.normalize(0.0) < 0.0;
        let largest = if is_signed { (high + 1.0) / 2.0 } else { high };
        if share > 0.01 {
            findings.warnings.push(format!("{raw}, of which {name} clips {}", percent(share)));
        } else if low == high {
            findings.warnings.push(format!("band {band} of the {side} files is constant: {low_text} after {name}"));
        } else if largest < 0.05 {
            findings.warnings.push(format!(
                "{raw}, at most {high_text} after {name}: networks and metrics expect values up to 1; is this the right Data.normalization?"
            ));
        } else if high > 10.0 {
            findings
                .warnings
                .push(format!("{raw}: {name} leaves values far above 1, which networks and metrics expect"));
        }
    }
    findings.notes.push(text);
    Ok(())
}

/// The error for data whose normalisation was not stated.
fn unstated(bands: &[Vec<f32>]) -> Error {
    let message = "how stored values become network input must be stated for these data";
    Error::config("Data.normalization", message).with_hint(options(bands))
}

/// What each method would make of the data.
fn options(bands: &[Vec<f32>]) -> String {
    let mut text = describe_methods(bands);
    text.push_str(
        "\n  Data.scale and Data.offset change values before that; Data.check_range: false accepts any range",
    );
    text
}

/// What each method would make of the values of all bands, as a table.
pub(crate) fn describe_methods(bands: &[Vec<f32>]) -> String {
    let mut all: Vec<f32> = bands.iter().flatten().copied().collect();
    all.sort_by(f32::total_cmp);
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return "the data hold no valid pixel".into() };
    let [first, middle, last] = [*first, all[all.len() / 2], *last].map(Short);
    let mut text = format!("the values are {first} to {last}, half of them below {middle}. They would become");
    for method in METHODS {
        let [low, median, high] = spread(method, &all).map(Short);
        let clipped = percent(clipped_share(method, &all));
        let _ = write!(text, "\n    {:<20} {low:.4} · {median:.4} · {high:.4}, {clipped} clipped", method.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_method_cannot_give_back_are_clipped() {
        let values: Vec<f32> = (0..=255).map(|v| v as f32).collect();
        assert_eq!(clipped_share(Normalization::Normalise10k, &values), 0.0);
        assert_eq!(clipped_share(Normalization::ZeroOne, &values), 254.0 / 256.0);
        assert_eq!(clipped_share(Normalization::Identity, &values), 0.0);
        let values: Vec<f32> = (-20..=80).map(|v| v as f32 * 200.0).collect();
        assert_eq!(clipped_share(Normalization::Normalise10k, &values), 50.0 / 101.0);
        assert_eq!(clipped_share(Normalization::Normalise10kSigned, &values), 50.0 / 101.0);
    }

    #[test]
    fn odd_bands_are_warned_of_and_clipped_ones_refused() {
        let ramp = |step: f32| (0..100).map(|i| i as f32 * step).collect::<Vec<f32>>();
        let warnings = |method, values: Vec<f32>| {
            let mut findings = Findings::default();
            describe("HR", method, &[values], true, &mut findings).map(|()| findings.warnings)
        };
        assert!(warnings(Normalization::Normalise10k, ramp(80.0)).unwrap().is_empty());
        assert!(warnings(Normalization::Normalise10k, ramp(0.01)).unwrap()[0].contains("expect values up to 1"));
        assert!(warnings(Normalization::Normalise10kSigned, ramp(0.01)).unwrap()[0].contains("expect values up to 1"));
        assert!(warnings(Normalization::Normalise10k, vec![500.0; 9]).unwrap()[0].contains("is constant"));
        assert!(warnings(Normalization::Normalise10k, ramp(105.0)).unwrap()[0].contains("clips 4.0 %"));
        assert!(warnings(Normalization::Identity, ramp(1.0)).unwrap()[0].contains("far above 1"));
        let message = warnings(Normalization::ZeroOne, ramp(2.0)).unwrap_err().to_string();
        assert!(message.contains("Data.normalization") && message.contains("normalise_10k "), "{message}");
        let message = warnings(Normalization::ZeroOne, ramp(2e36)).unwrap_err().to_string();
        assert!(message.contains("e38, of which"), "{message}");
    }
}
