//! Modules to machine code: through the cache, on all processors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::cache::Cache;
use super::driver::ModuleSource;
use super::nvrtc::{Arch, Nvrtc};
use crate::{Error, Result};

/// The compiler's recursion is deep.
const STACK_BYTES: usize = 16 << 20;

/// The machine code of each module. `progress` is called with the number of modules done so far.
///
/// # Errors
/// That of the first module that does not compile, in the order of the list.
pub fn machine_code(
    nvrtc: &Nvrtc,
    cache: &Cache,
    arch: &Arch,
    modules: &[ModuleSource],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u8>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(modules.len());
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    let mut codes: Vec<Vec<u8>> = vec![Vec::new(); modules.len()];
    let mut failed: Option<(usize, Error)> = None;
    thread::scope(|scope| -> Result<()> {
        for _ in 0..threads {
            let (send, next) = (send.clone(), &next);
            let work = move || {
                while let Some((i, module)) = take(next, modules) {
                    if send.send((i, one(nvrtc, cache, arch, module))).is_err() {
                        break;
                    }
                }
            };
            let builder = thread::Builder::new().name("nvrtc".into()).stack_size(STACK_BYTES);
            builder.spawn_scoped(scope, work).map_err(|e| Error::device(format!("cannot start a thread: {e}")))?;
        }
        drop(send);
        for (count, (i, result)) in results.iter().enumerate() {
            progress(count + 1);
            match result {
                Ok(code) => codes[i] = code,
                Err(error) => {
                    // Those before it have been taken already, so the first of the list is among the answers.
                    next.store(modules.len(), Ordering::Relaxed);
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        failed = Some((i, error));
                    }
                }
            }
        }
        Ok(())
    })?;
    failed.map_or(Ok(codes), |(_, error)| Err(error))
}

/// The next module that nobody has taken.
fn take<'a>(next: &AtomicUsize, modules: &'a [ModuleSource]) -> Option<(usize, &'a ModuleSource)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    modules.get(i).map(|module| (i, module))
}

fn one(nvrtc: &Nvrtc, cache: &Cache, arch: &Arch, module: &ModuleSource) -> Result<Vec<u8>> {
    let key = nvrtc.key(module, arch);
    if let Some(cubin) = cache.get(&key) {
        return Ok(cubin);
    }
    let cubin = nvrtc.compile(module, arch)?.cubin;
    // A cache that cannot be written costs the next run's time; `srgan doctor` says why.
    let _ = cache.put(&key, &cubin);
    Ok(cubin)
}
