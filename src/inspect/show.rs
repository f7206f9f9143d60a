//! An inspection as text.

use std::collections::BTreeMap;
use std::fmt;

use super::{Inspection, TensorSummary};
use crate::table::Table;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.file.display())?;
        let mut facts = Table::new(["kind", self.kind.as_str()]).left_aligned(2);
        for (name, value) in self.facts() {
            facts.row([name.to_owned(), value]);
        }
        writeln!(f, "{facts}\n")?;
        writeln!(f, "{}\n", self.groups())?;
        let mut table = Table::new(["tensor", "shape", "type", "norm", "min", "max", "non-finite"]).left_aligned(3);
        self.tensors.iter().for_each(|tensor| table.row(row(tensor)));
        write!(f, "{table}")?;
        for tensor in self.tensors.iter().filter_map(|tensor| tensor.error.as_ref()) {
            write!(f, "\n{tensor}")?;
        }
        Ok(())
    }
}

impl Inspection {
    /// What is known beside the tensors.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
        fact("generator", self.generator.as_ref().map(|g| g.describe()));
        fact(
            "bands",
            self.generator.as_ref().map(|g| match self.bands.as_slice() {
                [] => g.bands.to_string(),
                names => format!("{} ({})", g.bands, names.join(", ")),
            }),
        );
        fact("scale", self.generator.as_ref().map(|g| g.scale.to_string()));
        fact("normalisation", self.normalisation.clone());
        fact("step", self.step.map(|step| step.to_string()));
        fact("epoch", self.epoch.map(|epoch| epoch.to_string()));
        fact(
            "averaged weights",
            self.averaged.map(|updates| match updates {
                0 => "yes".to_owned(),
                updates => format!("yes, of {updates} updates"),
            }),
        );
        for best in &self.best {
            let metric = self.metric.as_deref().unwrap_or("metric");
            fact("best", Some(format!("{}: {metric} {} after step {}", best.file.display(), best.value, best.step)));
        }
        fact(
            "non-finite",
            Some(match self.non_finite() {
                0 => "no value".to_owned(),
                count => format!("{count} VALUES are NaN or infinite"),
            }),
        );
        self.notes.iter().for_each(|note| fact("note", Some(note.clone())));
        facts
    }

    /// Tensors and values by the first part of their names.
    fn groups(&self) -> Table {
        let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for tensor in &self.tensors {
            let name = tensor.name.split_once('.').map_or("", |(first, _)| first);
            let group = groups.entry(name).or_default();
            *group = (group.0 + 1, group.1 + tensor.shape.iter().product::<usize>());
        }
        let mut table = Table::new(["part", "tensors", "values"]);
        groups.iter().for_each(|(name, (tensors, values))| {
            table.row([(*name).to_owned(), tensors.to_string(), values.to_string()])
        });
        table
    }
}

fn row(tensor: &TensorSummary) -> [String; 7] {
    let shape = match tensor.shape.as_slice() {
        [] => "scalar".to_owned(),
        sizes => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("×"),
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
    let non_finite = if tensor.non_finite == 0 { String::new() } else { tensor.non_finite.to_string() };
    let (min, max) = (tensor.min.map(f64::from), tensor.max.map(f64::from));
    let (name, dtype) = (tensor.name.clone(), tensor.dtype.clone());
    [name, shape, dtype, number(tensor.norm), number(min), number(max), non_finite]
}
