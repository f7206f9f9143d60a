//! `report.html`: a run, or several beside each other, in one file that needs nothing else. [`html`] is the file's form,
//! [`curves`] read and draw metrics, [`run`] puts a run's files together.

mod curves;
mod facts;
mod html;
mod run;
#[cfg(test)]
mod tests;

pub use facts::RunFacts;
pub use html::Page;
pub use run::{write_comparison, write_run};

/// The page's name in the folder of a run or of an evaluation.
pub const REPORT: &str = "report.html";
/// The picture of the held-out imagery at a run's end.
pub const HELD_OUT: &str = "held_out.png";
/// The folder of an evaluation within a run's, which the run's page shows.
pub const EVALUATION: &str = "evaluation";
/// The table of an evaluation.
pub const EVALUATION_TEXT: &str = "evaluation.txt";
