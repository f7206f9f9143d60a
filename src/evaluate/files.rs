//! What `--report` writes: `evaluation.txt` and `.json`, `patches.csv`, pictures of the best and the worst patches, a page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Evaluation;
use super::extremes::{Extreme, Extremes, NAMES};
use super::measure::{Measure, Place};
use super::statistics::Summary;
use crate::Result;
use crate::config::Config;
use crate::files::write_atomic;
use crate::log::{EVALUATION_TEXT, Page, REPORT};

/// Writes all files into `folder`. Pictures of an earlier evaluation are removed.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(folder: &Path, evaluation: &Evaluation, extremes: &Extremes, cfg: &Config) -> Result<()> {
    let text = evaluation.to_string();
    let json = format!("{:#}\n", evaluation.to_json());
    for (name, content) in [(EVALUATION_TEXT, &text), ("evaluation.json", &json), ("patches.csv", &csv(evaluation))] {
        write_atomic(&folder.join(name), |out| out.write_all(content.as_bytes()))?;
    }
    let mut page = Page::new(&format!("Evaluation on {}", evaluation.config.display()));
    page.heading("Numbers");
    page.preformatted(&text);
    page.heading("Best and worst patches");
    let count = evaluation.places.len();
    let pictures = extremes.pictures(&cfg.data.rgb_bands, cfg.training.losses.max_val, count)?;
    for name in NAMES {
        // Left by an earlier evaluation.
        let _ = fs::remove_file(folder.join(format!("{name}.png")));
    }
    for Extreme { name, patch, gain, picture } in &pictures {
        let png = picture.to_png()?;
        write_atomic(&folder.join(format!("{name}.png")), |out| out.write_all(&png))?;
        let Place { file, origin: (row, column), .. } = &evaluation.places[*patch];
        page.picture(&png, &format!("{name}: {gain:+.2} dB over bicubic · {file}, row {row}, column {column}"));
    }
    page.heading("Configuration");
    page.details("config.yaml", &cfg.to_yaml());
    page.write(&folder.join(REPORT))
}

impl Evaluation {
    /// Means, deviations and intervals as a JSON document. What is not finite is null.
    pub fn to_json(&self) -> Value {
        let methods = self.methods.iter().enumerate().map(|(number, method)| {
            let overall = named(&self.measures, |m| method.summary(m));
            let bands = self.bands.iter().enumerate().map(|(band, name)| {
                let mut of_band = named(&self.band_measures, |m| method.band_summary(band, m));
                of_band.shift_insert(0, "band".into(), json!(name));
                Value::Object(of_band)
            });
            let others = (0..self.methods.len()).filter(|other| *other != number).map(|other| {
                (self.methods[other].name.clone(), named(&self.measures, |m| self.difference(m, number, other)).into())
            });
            json!({
                "name": method.name,
                "checkpoint": method.checkpoint,
                "weights": method.weights,
                "overall": overall,
                "bands": bands.collect::<Vec<_>>(),
                "difference_from": others.collect::<Map<String, Value>>(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": self.config,
            "split": self.split.name(),
            "scale": self.scale,
            "patches": self.places.len(),
            "methods": methods.collect::<Vec<_>>(),
        })
    }
}

/// The summaries of measures by their keys.
fn named(measures: &[Measure], summary: impl Fn(usize) -> Summary) -> Map<String, Value> {
    let value = |summary: Summary| {
        let Summary { count, mean, deviation, margin } = summary;
        let interval = margin.map(|margin| [mean - margin, mean + margin]);
        json!({ "mean": mean, "std": deviation, "ci95": interval, "patches": count })
    };
    measures.iter().enumerate().map(|(m, measure)| (measure.key.to_owned(), value(summary(m)))).collect()
}

/// A row for each method and patch; a value that there is not is an empty cell.
fn csv(evaluation: &Evaluation) -> String {
    let mut text = String::from("method,file,row,column,height,width");
    evaluation.measures.iter().for_each(|measure| text.push_str(&format!(",{}", measure.key)));
    for band in &evaluation.bands {
        evaluation.band_measures.iter().for_each(|measure| text.push_str(&format!(",{}_band_{band}", measure.key)));
    }
    text.push('\n');
    for method in &evaluation.methods {
        for (place, values) in evaluation.places.iter().zip(&method.values) {
            let Place { file, origin: (row, column), size: (height, width) } = place;
            let _ = write!(text, "{},{},{row},{column},{height},{width}", quoted(&method.name), quoted(file));
            for value in values.overall.iter().chain(values.bands.iter().flatten()) {
                let _ = if value.is_nan() { write!(text, ",") } else { write!(text, ",{value}") };
            }
            text.push('\n');
        }
    }
    text
}

/// A cell of text.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
