//! Places where a patch can be cut from a scene without touching a masked pixel.

use std::ops::Range;

use super::store::MaskedRun;
use crate::rng::Rng;

/// Patches start at (`row`, `first`) to (`row`, `first + count - 1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OriginRun {
    row: u32,
    first: u32,
    count: u32,
}

/// All places of square patches of one size in a band of rows of a scene: runs by row, so that a clean scene
/// takes one run a row whatever its width.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    runs: Vec<OriginRun>,
    /// Places before each run; one more at the end, their total.
    before: Vec<u64>,
}

impl Origins {
    /// The places of `size` × `size` patches inside `rows` of a scene of `width` columns. `masked` is in order
    /// of rows.
    pub fn new(rows: Range<usize>, width: usize, size: usize, masked: &[MaskedRun]) -> Origins {
        // The last masked row seen in each column, + 1; a column is free for a patch if it lies above the patch.
        let mut masked_below = vec![rows.start; width];
        let mut runs = Vec::new();
        let mut next_masked = masked.partition_point(|m| (m.row as usize) < rows.start);
        for bottom in rows.clone() {
            while let Some(m) = masked.get(next_masked).filter(|m| m.row as usize == bottom) {
                masked_below[m.first as usize..m.end as usize].fill(bottom + 1);
                next_masked += 1;
            }
            let Some(top) = (bottom + 1).checked_sub(size).filter(|&top| top >= rows.start) else { continue };
            let mut column = 0;
            for free in masked_below.chunk_by(|a, b| (*a <= top) == (*b <= top)) {
                if free[0] <= top && free.len() >= size {
                    let count = (free.len() - size + 1) as u32;
                    runs.push(OriginRun { row: top as u32, first: column as u32, count });
                }
                column += free.len();
            }
        }
        let mut before = vec![0];
        before.extend(runs.iter().scan(0, |total, run| {
            *total += u64::from(run.count);
            Some(*total)
        }));
        Origins { runs, before }
    }

    /// Number of places.
    pub fn len(&self) -> u64 {
        self.before[self.runs.len()]
    }

    /// Row and column of place `index` < `len()`.
    pub fn place(&self, index: u64) -> (usize, usize) {
        let run = self.before.partition_point(|&before| before <= index) - 1;
        let OriginRun { row, first, .. } = self.runs[run];
        (row as usize, first as usize + (index - self.before[run]) as usize)
    }

    /// Whether a patch can start at (`row`, `column`).
    pub fn contains(&self, row: usize, column: usize) -> bool {
        let after = self.runs.partition_point(|run| (run.row as usize, run.first as usize) <= (row, column));
        after.checked_sub(1).is_some_and(|i| {
            let OriginRun { row: run_row, first, count } = self.runs[i];
            run_row as usize == row && column < (first + count) as usize
        })
    }

    /// The places that lie on a grid of patches side by side, from the top left corner of `rows` on.
    pub fn grid(&self, rows: Range<usize>, width: usize, size: usize) -> Vec<(usize, usize)> {
        let tops = rows.start..(rows.end + 1).saturating_sub(size).max(rows.start);
        let lefts = 0..(width + 1).saturating_sub(size);
        tops.step_by(size)
            .flat_map(|row| lefts.clone().step_by(size).map(move |column| (row, column)))
            .filter(|&(row, column)| self.contains(row, column))
            .collect()
    }
}

/// Uniform in 0..`bound`; the bias, under `bound` / 2^64, is far below anything that can be seen.
pub(crate) fn below_u64(rng: &mut Rng, bound: u64) -> u64 {
    let bits = u64::from(rng.next_u32()) << 32 | u64::from(rng.next_u32());
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    /// Random masks: the places are exactly those that a direct search finds.
    #[test]
    fn places_are_those_of_a_direct_search() {
        let mut rng = Rng::new(3, Stream::Crop, 0, 0);
        for case in 0..60 {
            let (height, width) = (1 + rng.below(14) as usize, 1 + rng.below(14) as usize);
            let size = 1 + rng.below(5) as usize;
            let start = rng.below(height as u32) as usize;
            let density = rng.below(30);
            let bad: Vec<bool> = (0..height * width).map(|_| rng.below(100) < density).collect();
            let masked: Vec<MaskedRun> = (0..height * width)
                .filter(|&i| bad[i])
                .map(|i| ((i / width) as u32, (i % width) as u32))
                .map(|(row, first)| MaskedRun { row, first, end: first + 1 })
                .collect();
            let origins = Origins::new(start..height, width, size, &masked);
            let clean = |y: usize, x: usize| {
                y + size <= height
                    && x + size <= width
                    && (y..y + size).all(|r| (x..x + size).all(|c| !bad[r * width + c]))
            };
            let want: Vec<_> =
                (start..height).flat_map(|y| (0..width).map(move |x| (y, x))).filter(|&(y, x)| clean(y, x)).collect();
            let got: Vec<_> = (0..origins.len()).map(|i| origins.place(i)).collect();
            assert_eq!(got, want, "case {case}: {height}x{width}, size {size}, from row {start}");
            for y in 0..height {
                for x in 0..width {
                    assert_eq!(origins.contains(y, x), want.contains(&(y, x)));
                }
            }
            let on_grid = |&(y, x): &(usize, usize)| (y - start).is_multiple_of(size) && x.is_multiple_of(size);
            let want_grid: Vec<_> = want.iter().copied().filter(on_grid).collect();
            assert_eq!(origins.grid(start..height, width, size), want_grid);
        }
    }

    #[test]
    fn draws_reach_both_ends() {
        let mut rng = Rng::new(1, Stream::Crop, 0, 0);
        let draws: Vec<u64> = (0..200).map(|_| below_u64(&mut rng, 5)).collect();
        assert!((0..5).all(|v| draws.contains(&v)) && draws.iter().all(|&v| v < 5));
    }
}
