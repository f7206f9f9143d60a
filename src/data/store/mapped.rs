//! A mapped file that may be cut while it is mapped. Reading behind the new end raises SIGBUS, which would end the process
//! and with it the state of a run. A handler puts a page of zeros there instead and notes it; whoever has copied from the
//! mapping asks for the note. (libwayland guards the buffers of its clients in the same way.)

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Advice, Mmap};

/// Mappings that can be guarded at the same time.
const SLOTS: usize = 1024;

/// A guarded mapping; a start of 0 is a free slot.
struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    cut: AtomicBool,
}

static GUARDED: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), cut: AtomicBool::new(false) } }; SLOTS];

/// A start that no mapping has: the slot is being filled.
const TAKEN: usize = 1;

/// Page size, once the handler is there.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// What SIGBUS did before.
struct Previous(libc::sigaction);

// SAFETY: plain data that is never changed; the pointer in it is a function's.
unsafe impl Send for Previous {}
// SAFETY: as above.
unsafe impl Sync for Previous {}

static PREVIOUS: OnceLock<Option<Previous>> = OnceLock::new();

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a description, which has an address for this signal.
    let address = unsafe { (*info).si_addr() } as usize;
    let page = PAGE.load(Ordering::Acquire);
    let holds = |slot: &&Slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > TAKEN && (start..start + slot.len.load(Ordering::Acquire)).contains(&address)
    };
    if let Some(slot) = GUARDED.iter().find(holds) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page is part of a mapping of this process that is only read; zeros take its place.
        let zeros = unsafe { libc::mmap((address & !(page - 1)) as *mut _, page, libc::PROT_READ, flags, -1, 0) };
        if zeros != libc::MAP_FAILED {
            return slot.cut.store(true, Ordering::Release);
        }
    }
    // Another fault: the instruction is tried again and meets what was there before.
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: an action that the system has given out.
        unsafe { libc::sigaction(signal, &previous.0, std::ptr::null_mut()) };
    }
}

/// Whether the handler is there.
fn is_guarding() -> bool {
    let install = || {
        // SAFETY: takes a number and touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        PAGE.store(page, Ordering::Release);
        // SAFETY: all zeros is a value of the type; the handler does only what a handler may.
        let (mut action, mut previous): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus_error as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both are valid for the call.
        let installed = unsafe { libc::sigaction(libc::SIGBUS, &action, &mut previous) } == 0;
        installed.then_some(Previous(previous))
    };
    PREVIOUS.get_or_init(install).is_some()
}

/// A file's bytes; of a file that is cut, zeros.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    slot: usize,
}

impl Mapped {
    /// Maps `file`; `None` if no more mappings can be guarded. `random` says that reading ahead is of no use.
    pub fn new(file: &File, random: bool) -> io::Result<Option<Mapped>> {
        if !is_guarding() {
            return Ok(None);
        }
        let take = |slot: &Slot| slot.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(slot) = GUARDED.iter().position(take) else { return Ok(None) };
        // SAFETY: a store is written once under a temporary name and renamed, never changed in place. If somebody cuts
        // it off nevertheless, the handler above puts zeros in place of what is gone.
        let map = unsafe { Mmap::map(file) }.inspect_err(|_| GUARDED[slot].start.store(0, Ordering::Release))?;
        if random {
            // Advice may fail.
            let _ = map.advise(Advice::Random);
        }
        GUARDED[slot].cut.store(false, Ordering::Release);
        GUARDED[slot].len.store(map.len(), Ordering::Release);
        GUARDED[slot].start.store(map.as_ptr() as usize, Ordering::Release);
        Ok(Some(Mapped { map, slot }))
    }

    /// Whether bytes that were read since the file was mapped were no longer there.
    pub fn was_cut(&self) -> bool {
        GUARDED[self.slot].cut.load(Ordering::Acquire)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        GUARDED[self.slot].start.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_is_cut_while_it_is_mapped_reads_as_zeros_and_is_noticed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        let mapped = Mapped::new(&file, true).unwrap().unwrap();
        assert_eq!((mapped[99_999], mapped.was_cut()), (7, false));
        file.set_len(10).unwrap();
        assert_eq!((mapped[50_000], mapped[99_999]), (0, 0));
        assert!(mapped.was_cut());
        drop(mapped);
        let again = Mapped::new(&file, false).unwrap().unwrap();
        assert_eq!((again.len(), again[9], again.was_cut()), (10, 7, false), "a slot is used again");
    }
}
