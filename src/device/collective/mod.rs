//! Several processes that train as one, each with a device of its own: sums over all of them by MPI ([`mpi`]), or, for
//! tests, between threads (`threads`). No collective is written here: the library's are used.

pub mod mpi;
#[cfg(feature = "host-driver")]
pub mod threads;

use std::fmt;
use std::sync::Arc;

use crate::Result;

/// What joins the ranks of a run. Every rank makes the same calls in the same order, and gets the same bits from each.
pub trait Collective: Send + Sync {
    /// Number of this rank, from 0.
    fn index(&self) -> usize;

    /// Number of ranks.
    fn count(&self) -> usize;

    /// Library and version, for messages.
    fn describe(&self) -> String;

    /// Replaces each value by its sum over the ranks.
    ///
    /// # Errors
    /// Fails if the library reports an error: a rank or the network between them is gone.
    fn sum(&self, values: &mut [f32]) -> Result<()>;

    /// The same in double precision.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces each value by its largest over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn max(&self, values: &mut [u64]) -> Result<()>;

    /// Ends every rank of the run with this exit code, without waiting for them; what this one has written is shown.
    fn abort(&self, code: u8);
}

/// The ranks of a run, of which this process is one; a run of one process needs no library and sums nothing.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<dyn Collective>>);

impl Ranks {
    /// Ranks that a library joins; a single one is like none.
    pub fn joined(collective: Arc<dyn Collective>) -> Ranks {
        Ranks(Some(collective).filter(|c| c.count() > 1))
    }

    /// Number of this rank, from 0.
    pub fn index(&self) -> usize {
        self.0.as_ref().map_or(0, |c| c.index())
    }

    /// Number of ranks.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |c| c.count())
    }

    /// Whether this rank writes the run's files.
    pub fn is_first(&self) -> bool {
        self.index() == 0
    }

    /// Whether there are others.
    pub fn are_several(&self) -> bool {
        self.0.is_some()
    }

    /// Replaces each value by its mean over the ranks: the sum, in the library's order, over their number.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn mean(&self, values: &mut [f32]) -> Result<()> {
        let Some(collective) = &self.0 else { return Ok(()) };
        collective.sum(values)?;
        let count = collective.count() as f32;
        values.iter_mut().for_each(|v| *v /= count);
        Ok(())
    }

    /// Replaces each value by its sum over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |c| c.sum_f64(values))
    }

    /// Replaces each value by its largest over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn max(&self, values: &mut [u64]) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |c| c.max(values))
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn wait(&self) -> Result<()> {
        self.max(&mut [0])
    }

    /// The text of the first rank, on every rank.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn first_text(&self, text: &str) -> Result<String> {
        let mut len = [if self.is_first() { text.len() as u64 } else { 0 }];
        self.max(&mut len)?;
        let mut bytes: Vec<u64> = match self.is_first() {
            true => text.bytes().map(u64::from).collect(),
            false => vec![0; len[0] as usize],
        };
        self.max(&mut bytes)?;
        let bytes: Vec<u8> = bytes.into_iter().map(|b| b as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first rank whose values differ from the first rank's, and the first of its values that does; the same answer
    /// on every rank.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn difference(&self, values: &[u64]) -> Result<Option<(usize, usize)>> {
        if !self.are_several() {
            return Ok(None);
        }
        let mut all = vec![0; values.len() * self.count()];
        all[values.len() * self.index()..][..values.len()].copy_from_slice(values);
        self.max(&mut all)?;
        let (first, others) = all.split_at(values.len());
        let differs = |(rank, other): (usize, &[u64])| {
            let at = other.iter().zip(first).position(|(a, b)| a != b)?;
            Some((rank + 1, at))
        };
        Ok(others.chunks_exact(values.len().max(1)).enumerate().find_map(differs))
    }

    /// Ends every rank with this exit code, if there are others.
    pub fn abort(&self, code: u8) {
        self.0.iter().for_each(|c| c.abort(code));
    }

    /// `rank 1 of 4`, for messages.
    pub fn name(&self) -> String {
        format!("rank {} of {}", self.index(), self.count())
    }

    /// Library and version; nothing for one process.
    pub fn library(&self) -> Option<String> {
        self.0.as_ref().map(|c| c.describe())
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::threads::together;
    use super::*;

    #[test]
    fn means_sums_and_texts_are_those_of_all_ranks() {
        let results = together(3, |ranks| {
            let mut values = [ranks.index() as f32, 3.0];
            ranks.mean(&mut values).unwrap();
            let mut sums = [0.5, ranks.index() as f64];
            ranks.sum_f64(&mut sums).unwrap();
            let text = ranks.first_text(&format!("größe {}", ranks.index())).unwrap();
            (values, sums, text)
        });
        for (values, sums, text) in results {
            assert_eq!((values, sums), ([1.0, 3.0], [1.5, 3.0]));
            assert_eq!(text, "größe 0");
        }
    }

    #[test]
    fn a_difference_names_rank_and_value() {
        let same = together(3, |ranks| ranks.difference(&[7, 8, 9]).unwrap());
        assert_eq!(same, [None; 3]);
        let other = together(3, |ranks| ranks.difference(&[7, 8, 9 + (ranks.index() as u64 / 2)]).unwrap());
        assert_eq!(other, [Some((2, 2)); 3]);
    }

    #[test]
    fn a_process_alone_changes_nothing() {
        let ranks = Ranks::default();
        let mut values = [0.1, f32::NAN];
        ranks.mean(&mut values).unwrap();
        assert!(values[0] == 0.1 && values[1].is_nan());
        assert_eq!(ranks.first_text("a").unwrap(), "a");
        assert_eq!(ranks.difference(&[1]).unwrap(), None);
        assert!(ranks.is_first() && !ranks.are_several());
    }
}
