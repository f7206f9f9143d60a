//! Modules to machine code: through the cache, on all processors.

pub mod cache;
pub mod module;
pub mod nvrtc;
mod ptxas;

pub use ptxas::Usage;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::driver::ModuleSource;
use crate::device::Compiling;
use crate::{Error, Result};
use cache::Cache;
use nvrtc::{Arch, Nvrtc};

/// The compiler's recursion is deep.
const STACK_BYTES: usize = 16 << 20;

/// The machine code of each module. `progress` is called when it is known what the cache holds, then after each module
/// that was compiled.
///
/// # Errors
/// Fails if a module does not compile; the error is that of the first in the list.
pub fn machine_code(
    nvrtc: &Nvrtc,
    cache: &Cache,
    arch: &Arch,
    modules: &[ModuleSource],
    progress: &mut dyn FnMut(Compiling),
) -> Result<Vec<Vec<u8>>> {
    let keys: Vec<String> = modules.iter().map(|module| nvrtc.key(module, arch)).collect();
    let mut codes: Vec<Option<Vec<u8>>> = keys.iter().map(|key| cache.get(key)).collect();
    let missing: Vec<usize> = (0..modules.len()).filter(|i| codes[*i].is_none()).collect();
    let cached = modules.len() - missing.len();
    let mut compiling = Compiling { total: modules.len(), cached, done: cached };
    progress(compiling);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    let mut failed: Option<(usize, Error)> = None;
    thread::scope(|scope| -> Result<()> {
        for _ in 0..threads {
            let (send, next, missing, keys) = (send.clone(), &next, &missing, &keys);
            let work = move || {
                while let Some(i) = take(next, missing) {
                    let code = nvrtc.compile(&modules[i], arch).map(|compiled| compiled.cubin);
                    if let Ok(code) = &code {
                        // A cache that cannot be written costs the next run's time; `srgan doctor` says why.
                        let _ = cache.put(&keys[i], code);
                    }
                    if send.send((i, code)).is_err() {
                        break;
                    }
                }
            };
            let builder = thread::Builder::new().name("nvrtc".into()).stack_size(STACK_BYTES);
            builder.spawn_scoped(scope, work).map_err(|e| Error::io("start", "a thread", e))?;
        }
        drop(send);
        for (i, result) in results {
            compiling.done += 1;
            progress(compiling);
            match result {
                Ok(code) => codes[i] = Some(code),
                Err(error) => {
                    // Those before it have been taken already, so the first of the list is among the answers.
                    next.store(missing.len(), Ordering::Relaxed);
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        failed = Some((i, error));
                    }
                }
            }
        }
        Ok(())
    })?;
    failed.map_or(Ok(codes.into_iter().flatten().collect()), |(_, error)| Err(error))
}

/// The next module that nobody has taken.
fn take(next: &AtomicUsize, missing: &[usize]) -> Option<usize> {
    missing.get(next.fetch_add(1, Ordering::Relaxed)).copied()
}
