//! Checksums of a store's pixels, one for each block, so that a damaged store is built again instead of trained on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Bytes that one checksum covers.
const BLOCK: usize = 1 << 20;

/// Collects the checksums of bytes that are written one after the other.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    sums: Vec<u32>,
    sum: u32,
    in_block: usize,
}

impl Checksums {
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.in_block));
            self.sum = crc32c::crc32c_append(self.sum, now);
            self.in_block += now.len();
            if self.in_block == BLOCK {
                self.sums.push(std::mem::take(&mut self.sum));
                self.in_block = 0;
            }
            bytes = later;
        }
    }

    pub fn finish(mut self) -> Vec<u32> {
        if self.in_block > 0 {
            self.sums.push(self.sum);
        }
        self.sums
    }
}

/// Blocks that are compared when a store is opened whose file is as it was written.
const SAMPLE: usize = 16;
/// Bytes read at a time.
const PIECE: usize = 1 << 16;

/// The checksums of a store, and which of its blocks were compared.
#[derive(Debug)]
pub(super) struct Comparison {
    sums: Vec<u32>,
    compared: Vec<AtomicBool>,
    /// Where the pixels start and end in the file.
    extent: (u64, u64),
}

impl Comparison {
    /// For pixels that lie in the bytes `at..end` of the file `path`.
    ///
    /// # Errors
    /// If these are more or fewer than the checksums are of.
    pub fn new(path: &Path, (at, end): (u64, u64), sums: Vec<u32>) -> Result<Comparison> {
        if (end - at).div_ceil(BLOCK as u64) != sums.len() as u64 {
            return Err(Error::data(path, "another length than when it was written"));
        }
        let compared = sums.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Comparison { sums, compared, extent: (at, end) })
    }

    /// Compares a few blocks, the first and the last among them, or `all`.
    pub fn begin(&self, file: &File, path: &Path, all: bool) -> Result<()> {
        let count = self.sums.len();
        let looked_at = if all { count } else { count.min(SAMPLE) };
        let block = |i: usize| i * count.saturating_sub(1) / looked_at.saturating_sub(1).max(1);
        (0..looked_at).try_for_each(|i| self.compare(file, path, block(i)))
    }

    /// Compares those blocks that hold the bytes `first..end` of the file and were not compared before.
    pub fn cover(&self, file: &File, path: &Path, (first, end): (u64, u64)) -> Result<()> {
        let block = |at: u64| (at.saturating_sub(self.extent.0) / BLOCK as u64) as usize;
        (block(first)..=block(end.saturating_sub(1))).try_for_each(|number| self.compare(file, path, number))
    }

    /// All blocks are to be compared again.
    pub fn forget(&self) {
        self.compared.iter().for_each(|block| block.store(false, Ordering::Relaxed));
    }

    fn compare(&self, file: &File, path: &Path, number: usize) -> Result<()> {
        let Some(compared) = self.compared.get(number).filter(|block| !block.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let (at, end) = self.extent;
        let first = at + number as u64 * BLOCK as u64;
        let end = end.min(first + BLOCK as u64);
        let (mut position, mut sum, mut bytes) = (first, 0, [0; PIECE]);
        while position < end {
            let piece = &mut bytes[..PIECE.min((end - position) as usize)];
            file.read_exact_at(piece, position).map_err(|e| Error::io("read", path, e))?;
            sum = crc32c::crc32c_append(sum, piece);
            position += piece.len() as u64;
        }
        if sum != self.sums[number] {
            return Err(Error::data(path, format!("the patch store is damaged near byte {first}"))
                .with_hint("start again: it is built anew"));
        }
        compared.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_sums_of_blocks() {
        let bytes: Vec<u8> = (0..2 * BLOCK + 700).map(|i| (i * 31 % 253) as u8).collect();
        let want: Vec<u32> = bytes.chunks(BLOCK).map(crc32c::crc32c).collect();
        for piece in [1000, BLOCK - 1, BLOCK, 3 * BLOCK] {
            let mut sums = Checksums::default();
            bytes.chunks(piece).for_each(|part| sums.add(part));
            assert_eq!(sums.finish(), want, "{piece}");
        }
        assert!(Checksums::default().finish().is_empty());
    }
}
