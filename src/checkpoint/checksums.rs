//! The checksums of a checkpoint: one text in the header's metadata, 8 hexadecimal digits for the header itself (taken with
//! zeros in place of this text), then 8 for the bytes of each tensor in the order of the file; all CRC-32C. Readers of
//! safetensors pass over the key, and files without it are read without a check.

use safetensors::tensor::Metadata;

/// Metadata key of the text.
pub const KEY: &str = "crc32c";
const DIGITS: usize = 8;

/// The text before anything is known, for a file of `tensors`.
pub fn blank(tensors: usize) -> String {
    "0".repeat(DIGITS * (1 + tensors))
}

/// Where in `header` the text begins. A quotation mark within a value has a backslash before it, so that only the key
/// itself matches.
fn place(header: &[u8]) -> Option<usize> {
    let start = format!("\"{KEY}\":\"");
    header.windows(start.len()).position(|bytes| bytes == start.as_bytes()).map(|at| at + start.len())
}

/// The place of the text in `header`, which has zeros there, and the text that belongs there.
pub fn text(header: &[u8], sums: &[u32]) -> Option<(u64, String)> {
    let at = place(header)?;
    let all = [crc32c::crc32c(header)].into_iter().chain(sums.iter().copied());
    Some((at as u64, all.map(|sum| format!("{sum:08x}")).collect()))
}

/// Compares the checksum of a header that states one, and returns those of the tensors; none if it states none. Leaves
/// zeros in place of the text.
///
/// # Errors
/// If the header is not the one that was written.
pub fn verify_header(header: &mut [u8], metadata: &Metadata) -> Result<Vec<u32>, ()> {
    let Some(text) = metadata.metadata().as_ref().and_then(|all| all.get(KEY)) else { return Ok(Vec::new()) };
    if text.len() != DIGITS * (1 + metadata.tensors().len()) || !text.is_ascii() {
        return Err(());
    }
    let number = |at: usize| u32::from_str_radix(&text[at..at + DIGITS], 16).map_err(|_| ());
    let sums = (0..text.len()).step_by(DIGITS).map(number).collect::<Result<Vec<u32>, ()>>()?;
    let at = place(header).ok_or(())?;
    header.get_mut(at..at + text.len()).ok_or(())?.fill(b'0');
    if crc32c::crc32c(header) == sums[0] { Ok(sums[1..].to_vec()) } else { Err(()) }
}
