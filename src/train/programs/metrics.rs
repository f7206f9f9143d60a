//! The numbers that a training program reports.

use crate::Result;
use crate::graph::{Tape, Value};
use crate::loss::ContentTerms;
use crate::ops::concat::ConcatChannels;
use crate::plan::{Commit, Program};
use crate::train::names;

/// Scalars that a program reports, in one vector whose name lists theirs, one per line.
#[derive(Default)]
pub(super) struct Metrics {
    names: Vec<&'static str>,
    values: Vec<Value>,
}

impl Metrics {
    pub fn push(&mut self, name: &'static str, value: Value) {
        self.names.push(name);
        self.values.push(value);
    }

    pub fn content(&mut self, terms: &ContentTerms, objective: Value) {
        self.push(names::CONTENT, objective);
        let components = [terms.l1, terms.sam, terms.tv, terms.psnr, terms.ssim];
        for (name, value) in names::TRAIN_COMPONENTS.into_iter().zip(components) {
            self.push(name, value);
        }
        if let Some(perceptual) = terms.perceptual {
            self.push(names::TRAIN_PERCEPTUAL, perceptual);
        }
    }

    pub fn finish(
        self,
        name: &'static str,
        mut tape: Tape,
        checks: Vec<Value>,
        commits: Vec<Commit>,
    ) -> Result<Program> {
        let mut outputs = Vec::new();
        if !self.values.is_empty() {
            let vector = tape.scoped("metrics", |tape| tape.push(ConcatChannels, &self.values))?;
            outputs.push((self.names.join("\n"), vector));
        }
        Ok(Program { name, tape, outputs, checks, commits })
    }
}
