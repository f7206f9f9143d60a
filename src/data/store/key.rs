//! The content key of a store: a hash of everything that decides its bytes.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{FORMAT, StoreRequest};
use crate::data::source;
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::rng::name_hash;

/// Pieces of a file that are looked at: its ends and places between them.
const SAMPLES: u64 = 18;
const SAMPLE_BYTES: u64 = 4096;

/// What names a store.
pub(super) struct ContentKey {
    /// Decides the store's bytes: paths, sizes, times and samples of the sources, and the settings.
    pub key: String,
    /// Sizes and samples of the sources alone: the same for a copy of them elsewhere.
    pub contents: u64,
}

/// The key of the store for `request`. A source that was exchanged changes it: by its size, its time, or, where a copy
/// has kept both, by a sample of its bytes.
pub(super) fn content_key(request: &StoreRequest) -> Result<ContentKey> {
    let StoreRequest { bands, in_bands, layout, values, mask, dtype, .. } = request;
    let mut text = format!("{FORMAT} {bands:?} {in_bands} {layout:?} {values:?} {mask} {dtype:?}");
    let mut contents = String::new();
    for path in request.files.iter().flatten() {
        // One product holds an image for each resolution.
        let part = if source::is_product(path) { path.file_name() } else { None };
        text.push_str(&format!("\n{}", part.unwrap_or_default().to_string_lossy()));
        let mut sidecar = path.as_os_str().to_owned();
        sidecar.push(".msk");
        let sidecar = Some(PathBuf::from(sidecar)).filter(|sidecar| sidecar.is_file());
        for file in source::files_of(path)?.into_iter().chain(sidecar) {
            let (place, content) = fingerprint(&file)?;
            text.push_str(&format!("\n{place} {content}"));
            contents.push_str(&format!("{content}\n"));
        }
    }
    Ok(ContentKey { key: format!("{:016x}", name_hash(&text)), contents: name_hash(&contents) })
}

/// Where a file is and when it was changed; its size and a checksum of samples.
fn fingerprint(path: &Path) -> Result<(String, String)> {
    let io = |e| Error::io("read", path, e);
    let full = path.canonicalize().map_err(io)?;
    let file = open_regular(&full).map_err(io)?;
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
    Ok((format!("{} {}", full.display(), changed.as_nanos()), format!("{} {sum:08x}", meta.len())))
}
