//! The content key of a store: a hash of everything that decides its bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{FORMAT, StoreRequest};
use crate::data::source;
use crate::error::{Error, Result};
use crate::rng::name_hash;

/// Pieces of a file that are looked at: its ends and places between them.
const SAMPLES: u64 = 18;
const SAMPLE_BYTES: u64 = 4096;

/// The key of the store for `request`. A source that was exchanged changes it: by its size, its time, or, where a copy
/// has kept both, by a sample of its bytes.
pub(super) fn content_key(request: &StoreRequest) -> Result<String> {
    let StoreRequest { bands, in_bands, layout, values, mask, dtype, .. } = request;
    let mut text = format!("{FORMAT} {bands:?} {in_bands} {layout:?} {values:?} {mask} {dtype:?}");
    for path in request.files.iter().flatten() {
        // One product holds an image for each resolution.
        let part = if source::is_product(path) { path.file_name() } else { None };
        text.push_str(&format!("\n{}", part.unwrap_or_default().to_string_lossy()));
        for file in source::files_of(path)? {
            text.push_str(&fingerprint(&file)?);
        }
        let mut sidecar = path.as_os_str().to_owned();
        sidecar.push(".msk");
        if Path::new(&sidecar).is_file() {
            text.push_str(&fingerprint(Path::new(&sidecar))?);
        }
    }
    Ok(format!("{:016x}", name_hash(&text)))
}

fn fingerprint(path: &Path) -> Result<String> {
    let io = |e| Error::io("read", path, e);
    let full = path.canonicalize().map_err(io)?;
    let file = File::open(&full).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let room = meta.len().saturating_sub(SAMPLE_BYTES);
    let mut sum = 0;
    let mut sample = vec![0; meta.len().min(SAMPLE_BYTES) as usize];
    for number in 0..SAMPLES {
        file.read_exact_at(&mut sample, (u128::from(room) * u128::from(number) / u128::from(SAMPLES - 1)) as u64)
            .map_err(io)?;
        sum = crc32c::crc32c_append(sum, &sample);
    }
    Ok(format!("{} {} {} {sum:08x}", full.display(), meta.len(), changed.as_nanos()))
}
