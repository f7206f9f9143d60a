//! Compiled kernels on disk, by all that decides what they are compiled to. A cache that cannot be read or written
//! costs time, never the run.
//!
//! An entry is a file named by a hash of its key: `MAGIC`, the CRC-32C of the rest, the key's length (u64, little
//! endian), the key, the machine code. It holds its whole key, so that two keys of one hash are never mixed up.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::device::cuda::libraries::search::Env;

const MAGIC: &[u8; 8] = b"srgan-k1";
const HEAD: usize = MAGIC.len() + 4 + 8;

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Compiled modules.
    pub entries: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Cache {
    /// The cache in a folder, which is created when it is first written to.
    pub fn at(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: Some(folder.into()) }
    }

    /// The user's cache: `SRGAN_CACHE_DIR`, else `XDG_CACHE_HOME/srgan`, else `HOME/.cache/srgan`, else none.
    pub fn of_user(env: Env) -> Cache {
        let folder = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = folder("SRGAN_CACHE_DIR")
            .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("srgan")))
            .or_else(|| folder("HOME").map(|f| f.join(".cache/srgan")));
        Cache { folder: folder.map(|f| f.join("kernels")) }
    }

    /// Where it is.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The machine code stored for a key; nothing where there is none or the entry is damaged.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut entry = fs::read(self.path(key)?).ok()?;
        let (head, rest) = entry.split_at_checked(HEAD)?;
        let (magic, numbers) = head.split_at(MAGIC.len());
        let checksum = u32::from_le_bytes(numbers[..4].try_into().ok()?);
        let is_intact = magic == MAGIC && checksum == crc32c::crc32c_append(crc32c::crc32c(&numbers[4..]), rest);
        let has_key = numbers[4..] == (key.len() as u64).to_le_bytes() && rest.starts_with(key.as_bytes());
        (is_intact && has_key).then(|| entry.split_off(HEAD + key.len()))
    }

    /// Stores machine code. Readers see a whole entry or none, also when several processes write.
    ///
    /// # Errors
    /// Fails if the entry cannot be written; callers go on without it.
    pub fn put(&self, key: &str, cubin: &[u8]) -> io::Result<()> {
        let (Some(folder), Some(path)) = (self.folder(), self.path(key)) else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let len = (key.len() as u64).to_le_bytes();
        let checksum = [&len[..], key.as_bytes(), cubin].iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        for part in [&MAGIC[..], &checksum.to_le_bytes(), &len, key.as_bytes(), cubin] {
            file.write_all(part)?;
        }
        file.persist(path)?;
        Ok(())
    }

    /// The file beside the entries that is kept for a key; no folder, no file.
    pub fn companion(&self, key: &str, extension: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{:016x}.{extension}", fnv1a(key.as_bytes()))))
    }

    /// Counts the entries.
    pub fn contents(&self) -> Contents {
        let entries = self.folder().and_then(|f| fs::read_dir(f).ok()).into_iter().flatten().flatten();
        let mut found = Contents::default();
        for entry in entries.filter(|e| e.path().extension().is_some_and(|x| x == "cubin")) {
            found.entries += 1;
            found.bytes += entry.metadata().map_or(0, |m| m.len());
        }
        found
    }

    /// Tries to write to the folder.
    ///
    /// # Errors
    /// Fails if the folder cannot be made or written to.
    pub fn check_writable(&self) -> io::Result<()> {
        let Some(folder) = self.folder() else { return Ok(()) };
        fs::create_dir_all(folder)?;
        tempfile::tempfile_in(folder)?.write_all(MAGIC)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.companion(key, "cubin")
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn what_was_put_is_found_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("new/folder"));
        assert_eq!(cache.get("a"), None);
        assert_eq!(cache.contents(), Contents::default());
        cache.put("a", b"first").unwrap();
        cache.put("b", b"").unwrap();
        assert_eq!(cache.get("a").as_deref(), Some(&b"first"[..]));
        assert_eq!(cache.get("b").as_deref(), Some(&b""[..]));
        assert_eq!(cache.get("ab"), None);
        cache.put("a", b"again").unwrap();
        assert_eq!(cache.get("a").as_deref(), Some(&b"again"[..]));
        let bytes = (2 * (HEAD + 1) + 5) as u64;
        assert_eq!(cache.contents(), Contents { entries: 2, bytes });
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        cache.put("key", b"machine code").unwrap();
        let path = cache.path("key").unwrap();
        let whole = fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 4;
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get("key"), None, "byte {i}");
            fs::write(&path, &whole[..i]).unwrap();
            assert_eq!(cache.get("key"), None, "{i} bytes");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(cache.get("key").as_deref(), Some(&b"machine code"[..]));
    }

    #[test]
    fn another_key_of_the_same_hash_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        cache.put("key", b"machine code").unwrap();
        fs::rename(cache.path("key").unwrap(), cache.path("other").unwrap()).unwrap();
        assert_eq!(cache.get("other"), None);
    }

    #[test]
    fn no_folder_and_no_room_are_no_panic() {
        let none = Cache { folder: None };
        none.put("key", b"code").unwrap();
        assert_eq!(none.get("key"), None);
        none.check_writable().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let blocked = Cache::at(file.join("folder"));
        blocked.put("key", b"code").unwrap_err();
        blocked.check_writable().unwrap_err();
        assert_eq!(blocked.get("key"), None);
        Cache::at(dir.path()).check_writable().unwrap();
    }

    #[test]
    fn the_folder_is_the_users() {
        let folder = |set: &[(&str, &str)]| {
            let env = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            Cache::of_user(&env).folder().map(Path::to_owned)
        };
        let all = [("SRGAN_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(folder(&all), Some("/a/kernels".into()));
        assert_eq!(folder(&all[1..]), Some("/b/srgan/kernels".into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", ""), ("HOME", "/c")]), Some("/c/.cache/srgan/kernels".into()));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn the_hash_is_fnv1a() {
        // Test vectors of draft-eastlake-fnv.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
