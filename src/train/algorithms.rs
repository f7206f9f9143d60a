//! Algorithms that the device picks by timing: decided before the first step, kept with the run, shown by
//! `--dry-run -v`.

use super::run_dir::RunDir;
use super::session::{Key, Session};
use crate::Result;
use crate::checkpoint::Meta;
use crate::files::write_atomic;
use crate::log::Messages;
use crate::runtime::choices::short_name;
use crate::runtime::{Choice, Choices, Device, PlanId};
use crate::table::Table;

/// The file in a run's folder with the times of all candidates.
const FILE: &str = "algorithms.json";

/// Decides for the plans of a run, and writes down what was decided. A device without a choice has nothing to decide,
/// and loads plans when they are needed.
///
/// # Errors
/// If a plan cannot be loaded or the file cannot be written.
pub(super) fn decide(session: &mut Session, plans: &[Key], folder: &RunDir) -> Result<()> {
    if session.device().choices().is_none() {
        return Ok(());
    }
    session.load_all(plans)?;
    let text = session.device().choices().map(Choices::to_json).unwrap_or_default();
    write_atomic(&folder.join(FILE), |out| out.write_all(text.as_bytes()))
}

/// Takes what the run of a checkpoint had decided, or says that it means nothing here.
pub(super) fn reuse(session: &mut Session, meta: &Meta, messages: &Messages) {
    let here = session.device().choices().map(|choices| choices.timed_on.clone());
    if here.as_ref() == Some(&meta.timed_on) {
        let choice = |algorithm: &String| Choice { algorithm: algorithm.clone(), ..Choice::default() };
        let steps = meta.choices.iter().map(|(step, algorithm)| (step.clone(), choice(algorithm))).collect();
        session.reuse(Choices { timed_on: meta.timed_on.clone(), steps });
    } else if here.is_some() || !meta.choices.is_empty() {
        let there = if meta.choices.is_empty() { "a device without libraries" } else { &meta.timed_on };
        let here = here.unwrap_or_else(|| session.device().describe());
        messages.warn(&format!(
            "the run's algorithms were chosen on {there}; here is {here}: they are chosen anew, and the run goes on with \
             other rounding errors"
        ));
    }
}

/// Notes what was decided for the next checkpoint.
pub(super) fn note(device: &dyn Device, meta: &mut Meta) {
    let choices = device.choices();
    meta.choices = choices.map(Choices::algorithms).unwrap_or_default();
    meta.timed_on = choices.map_or_else(String::new, |choices| choices.timed_on.clone());
}

/// What was decided for each step of these plans, and what else there was.
pub(super) fn table(device: &dyn Device, plans: &[PlanId]) -> String {
    let Some(choices) = device.choices() else {
        return "algorithms: this program's own".to_owned();
    };
    let mut table = Table::new(["program", "layer", "algorithm", "µs", "others"]).left_aligned(3);
    for plan in plans {
        for (path, kind) in device.steps_with_choice(*plan) {
            let Some(choice) = choices.steps.get(kind) else { continue };
            let taken = |(name, _): &&(String, f64)| *name == choice.algorithm;
            let time = choice.times.iter().find(taken).map_or("?".to_owned(), |(_, time)| format!("{time:.1}"));
            let others = choice.times.iter().filter(|other| !taken(other));
            let others = others.map(|(name, time)| format!("{} {time:.1}", short_name(name)));
            let rejected = choice.rejected.iter().map(|(name, _)| format!("{} is wrong", short_name(name)));
            let others: Vec<String> = others.chain(rejected).collect();
            let (program, path) = (device.plan(*plan).name.to_owned(), path.to_string());
            table.row([program, path, short_name(&choice.algorithm), time, others.join(", ")]);
        }
    }
    format!("{table}\n\nalgorithms timed on {}", choices.timed_on)
}
