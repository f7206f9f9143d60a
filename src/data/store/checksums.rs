//! Checksums of a store's pixels, one for each block, so that a damaged store is built again instead of trained on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

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

/// Compares the bytes of `file` from `at` to its end with their checksums.
pub(super) fn verify(file: &File, path: &Path, at: u64, sums: &[u32]) -> Result<()> {
    let io = |e| Error::io("read", path, e);
    let end = file.metadata().map_err(io)?.len();
    let mut block = vec![0; BLOCK];
    let mut blocks = 0;
    let mut position = at;
    while position < end {
        let part = &mut block[..BLOCK.min((end - position) as usize)];
        file.read_exact_at(part, position).map_err(io)?;
        if sums.get(blocks) != Some(&crc32c::crc32c(part)) {
            return Err(Error::data(path, format!("damaged near byte {position}")));
        }
        position += part.len() as u64;
        blocks += 1;
    }
    match blocks == sums.len() {
        true => Ok(()),
        false => Err(Error::data(path, "shorter than when it was written")),
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
