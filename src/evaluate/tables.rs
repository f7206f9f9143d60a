//! An evaluation as text of 80 columns.

use std::fmt;

use super::measure::{Measure, Method};
use super::statistics::Summary;
use super::{Evaluation, PatchValues};
use crate::metrics::Direction;
use crate::table::Table;

/// Characters of a method's name that are shown.
const NAME: usize = 16;

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, split) = (self.places.len(), self.split.name());
        writeln!(f, "{count} patches of {} (split {split}), ×{}", self.config.display(), self.scale)?;
        for method in self.methods.iter().filter(|method| method.checkpoint.is_some()) {
            let path = method.checkpoint.as_deref().unwrap_or_else(|| std::path::Path::new(""));
            writeln!(f, "  {}: {}, {}", shortened(&method.name), path.display(), method.weights)?;
        }
        writeln!(f, "\n{}", self.overall("over bicubic", 0))?;
        if self.methods.len() > 2 {
            writeln!(f, "\n{}", self.overall(&format!("over {}", shortened(&self.methods[1].name)), 1))?;
        }
        writeln!(f, "\n{}", self.by_band())?;
        write!(f, "\n{NOTE}")
    }
}

/// What the numbers are.
const NOTE: &str = "Means over patches, ± half the 95 % confidence interval; differences are taken\n\
                    patch by patch. ↑ higher is better, ↓ lower is better.";

impl Evaluation {
    /// A row for each measure and method; the last column is the difference from the method `baseline`, which is the first
    /// that is shown.
    fn overall(&self, title: &str, baseline: usize) -> Table {
        let mut table = Table::new(["", "method", "mean", "± 95 %", "std", title]).left_aligned(2);
        for (m, measure) in self.measures.iter().enumerate() {
            for (number, method) in self.methods.iter().enumerate().skip(baseline) {
                let name = if number == baseline { with_arrow(measure) } else { String::new() };
                let digits = measure.digits;
                let summary = method.summary(m);
                let gain = match number == baseline {
                    true => String::new(),
                    false => signed(&self.difference(m, number, baseline), digits),
                };
                table.row([
                    name,
                    shortened(&method.name),
                    number_of(Some(summary.mean), digits),
                    number_of(summary.margin, digits),
                    number_of(summary.deviation, digits),
                    gain,
                ]);
            }
        }
        table
    }

    /// A row for each band and method.
    fn by_band(&self) -> Table {
        let titles = self.band_measures.iter().flat_map(|measure| [with_arrow(measure), "± 95 %".to_owned()]);
        let mut table = Table::new(["band", "method"].map(str::to_owned).into_iter().chain(titles)).left_aligned(2);
        for (band, name) in self.bands.iter().enumerate() {
            for (number, method) in self.methods.iter().enumerate() {
                let name = if number == 0 { name.clone() } else { String::new() };
                let cells = self.band_measures.iter().enumerate().flat_map(|(m, measure)| {
                    let summary = method.band_summary(band, m);
                    [number_of(Some(summary.mean), measure.digits), number_of(summary.margin, measure.digits)]
                });
                table.row([name, shortened(&method.name)].into_iter().chain(cells));
            }
        }
        table
    }

    /// By how much method `number` differs from `baseline`, patch by patch.
    pub fn difference(&self, measure: usize, number: usize, baseline: usize) -> Summary {
        let values = |method: &Method| method.values.iter().map(|v| v.overall[measure]).collect::<Vec<_>>();
        Summary::of_pairs(values(&self.methods[number]).into_iter().zip(values(&self.methods[baseline])))
    }
}

impl Method {
    /// Over all patches.
    pub fn summary(&self, measure: usize) -> Summary {
        Summary::of(self.values.iter().map(|values: &PatchValues| values.overall[measure]))
    }

    /// Over all patches, of one band.
    pub fn band_summary(&self, band: usize, measure: usize) -> Summary {
        Summary::of(self.values.iter().map(|values| values.bands[band][measure]))
    }
}

fn with_arrow(measure: &Measure) -> String {
    let arrow = match measure.better {
        Direction::Higher => '↑',
        Direction::Lower => '↓',
    };
    format!("{} {arrow}", measure.title)
}

/// A number, or a dash for one that there is not.
fn number_of(value: Option<f64>, digits: usize) -> String {
    match value.filter(|v| !v.is_nan()) {
        Some(value) => format!("{value:.digits$}"),
        None => "–".to_owned(),
    }
}

fn signed(summary: &Summary, digits: usize) -> String {
    match summary.margin {
        _ if summary.mean.is_nan() => "–".to_owned(),
        Some(margin) => format!("{:+.digits$} ± {margin:.digits$}", summary.mean),
        None => format!("{:+.digits$}", summary.mean),
    }
}

/// The end of a name that is too long.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(length + 1 - NAME).collect::<String>())
    }
}
