//! Ranks that are only counted: a run of them is planned, not done.

use super::Collective;
use crate::{Error, Result};

/// One of as many ranks as a launcher has started. Whatever they would exchange is an error.
pub struct Counted {
    /// Number of this rank, from 0.
    pub index: usize,
    /// Number of ranks.
    pub count: usize,
    /// What has started them.
    pub launcher: &'static str,
}

impl Counted {
    fn refuse(&self) -> Result<()> {
        Err(Error::Internal("ranks that are only counted exchange nothing".into()))
    }
}

impl Collective for Counted {
    fn index(&self) -> usize {
        self.index
    }

    fn count(&self) -> usize {
        self.count
    }

    fn describe(&self) -> String {
        format!("started by {}", self.launcher)
    }

    fn sum(&self, _values: &mut [f32]) -> Result<()> {
        self.refuse()
    }

    fn sum_f64(&self, _values: &mut [f64]) -> Result<()> {
        self.refuse()
    }

    fn max(&self, _values: &mut [u64]) -> Result<()> {
        self.refuse()
    }

    fn abort(&self, _code: u8) {}
}
