//! Space in a ring buffer that is given back by events, in the order in which it was taken.

use std::collections::VecDeque;
use std::ops::Range;

/// Ranges of a buffer of `len` bytes; `E` tells when a range is free again.
#[derive(Debug)]
pub(super) struct Ring<E> {
    len: usize,
    head: usize,
    pending: VecDeque<(Range<usize>, E)>,
}

/// More events than this are not kept: the oldest is long over.
const MAX_PENDING: usize = 64;

/// Ranges start at its multiples.
const ALIGNMENT: usize = 256;

impl<E> Ring<E> {
    pub fn new(len: usize) -> Ring<E> {
        Ring { len, head: 0, pending: VecDeque::new() }
    }

    /// A range of `len` bytes that nothing uses, after waiting for what did. `len` is at most the ring's.
    pub fn reserve<X>(&mut self, len: usize, mut wait: impl FnMut(E) -> Result<(), X>) -> Result<Range<usize>, X> {
        assert!(len <= self.len, "{len} bytes of a ring of {}", self.len);
        let start = if self.head + len > self.len { 0 } else { self.head };
        let range = start..start + len;
        let in_use = |pending: &VecDeque<(Range<usize>, E)>| {
            pending.len() >= MAX_PENDING || pending.iter().any(|(r, _)| r.start < range.end && range.start < r.end)
        };
        while in_use(&self.pending) {
            if let Some((_, event)) = self.pending.pop_front() {
                wait(event)?;
            }
        }
        self.head = range.end.next_multiple_of(ALIGNMENT);
        Ok(range)
    }

    /// The range is in use until the event.
    pub fn use_until(&mut self, range: Range<usize>, event: E) {
        self.pending.push_back((range, event));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::rng::{Rng, Stream};

    #[test]
    fn no_range_is_given_out_twice_at_a_time() {
        let mut ring = Ring::new(10_000);
        let mut rng = Rng::new(7, Stream::Shuffle, 0, 0);
        let mut in_use: Vec<(Range<usize>, usize)> = Vec::new();
        let mut waits = 0;
        for id in 0..5000 {
            let len = 1 + rng.below(if id % 10 == 0 { 10_000 } else { 900 }) as usize;
            let range = ring
                .reserve(len, |done: usize| {
                    // Work ends in the order of its start.
                    in_use.retain(|(_, id)| *id > done);
                    waits += 1;
                    Ok::<(), Infallible>(())
                })
                .unwrap();
            assert!(range.len() == len && range.end <= 10_000 && range.start.is_multiple_of(ALIGNMENT));
            let overlaps = in_use.iter().any(|(r, _)| r.start < range.end && range.start < r.end);
            assert!(!overlaps, "{range:?} at {id}");
            in_use.push((range.clone(), id));
            ring.use_until(range, id);
            assert!(in_use.len() <= MAX_PENDING);
        }
        assert!(waits > 1000);
    }

    #[test]
    fn a_failed_wait_is_the_callers() {
        let mut ring = Ring::new(100);
        let range = ring.reserve(100, |()| Ok::<(), &str>(())).unwrap();
        ring.use_until(range, ());
        assert_eq!(ring.reserve(1, |()| Err("lost")), Err("lost"));
    }
}
