//! Errors in guest memory: pages whose content the hardware has lost.
//!
//! The kernel says so by SIGBUS (memory_failure(), mm/memory-failure.c): with `BUS_MCEERR_AO` as soon as it knows, which is
//! asked for here by `PR_MCE_KILL_EARLY`, or with `BUS_MCEERR_AR` when a thread touches the page, in the guest (KVM then sends
//! the signal, kvm_send_hwpoison_signal() in arch/x86/kvm/mmu/mmu.c) or in this program. Killing the process would be the
//! default; but another node holds the same page, so the handler only notes it and wakes the event loop.
//!
//! A vCPU that touched it leaves the guest and stays out ([`is_damaged`]). A device that touched it has to go on with something:
//! it is given a page of zeroes, and everything that comes of it is void ([`is_void`]).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use kemari_core::PAGE_SIZE;
use kemari_devices::Memory;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use crate::Error;
use crate::memory::replace;

/// Regions that can be watched at a time, in the whole process.
const REGIONS_MAX: usize = 64;
/// Pages of one region that can be noted before the event loop takes them.
const NOTES_MAX: usize = 16;
/// `si_addr_lsb` for a single page.
const PAGE_SHIFT: i16 = 12;
/// Not in libc (include/uapi/asm-generic/siginfo.h).
const BUS_MCEERR_AR: i32 = 4;
const BUS_MCEERR_AO: i32 = 5;

/// In the address of a page: the guest wants to use it.
const TOUCHED: u64 = 1;

/// A region, as a signal handler can read it: atomics only.
struct Watched {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    wake: AtomicI32,
    /// Addresses of lost pages, with [`TOUCHED`]; 0 is none.
    notes: [AtomicU64; NOTES_MAX],
    damaged: AtomicBool,
    /// More is lost than can be noted, or something was made of a page of zeroes.
    void: AtomicBool,
}

impl Watched {
    const fn new() -> Watched {
        Watched {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            wake: AtomicI32::new(-1),
            notes: [const { AtomicU64::new(0) }; NOTES_MAX],
            damaged: AtomicBool::new(false),
            void: AtomicBool::new(false),
        }
    }

    /// Called by the signal handler.
    fn note(&self, address: usize, touched: bool) {
        let page = (address & !(PAGE_SIZE - 1)) as u64;
        let flag = if touched { TOUCHED } else { 0 };
        let noted = self.notes.iter().any(|note| {
            match note.compare_exchange(0, page | flag, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => true,
                // If it was taken meanwhile, only the flag is left, which is no address.
                Err(before) if before & !TOUCHED == page => note.fetch_or(flag, Ordering::AcqRel) & !TOUCHED == page,
                Err(_) => false,
            }
        });
        if !noted {
            self.void.store(true, Ordering::Release);
        }
        self.damaged.store(true, Ordering::Release);
        // SAFETY: writes eight bytes of a local; the descriptor is an eventfd, or -1.
        unsafe { libc::write(self.wake.load(Ordering::Acquire), (&raw const ONE).cast(), size_of::<u64>()) };
    }
}

static ONE: u64 = 1;
static WATCHED: [Watched; REGIONS_MAX] = [const { Watched::new() }; REGIONS_MAX];

thread_local! {
    /// Whether this thread is inside KVM_RUN. Needs no destructor, so that a signal handler may read it.
    static IN_GUEST: Cell<bool> = const { Cell::new(false) };
}

/// Runs `enter`, which is KVM_RUN: a page that is touched meanwhile was touched by the guest.
pub(crate) fn in_guest<T>(enter: impl FnOnce() -> T) -> T {
    IN_GUEST.set(true);
    let result = enter();
    IN_GUEST.set(false);
    result
}

/// A lost page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Its address in this process.
    pub(crate) address: usize,
    /// Whether the guest wants to use it, and stands still until it can.
    pub(crate) touched: bool,
}

/// Watches the memory of one machine.
pub(crate) struct Watch(Vec<&'static Watched>);

impl Watch {
    /// Begins to watch. `wake` becomes readable when [`take`](Watch::take) has something; it must live as long as this.
    pub(crate) fn new(memory: &Memory, wake: &EventFd) -> Result<Watch, Error> {
        register_signal_handler(libc::SIGBUS, on_sigbus)
            .map_err(|error| Error::Resource { what: "the signal handler for memory errors", source: error.into() })?;
        be_told_early();
        let mut watch = Watch(Vec::new());
        for region in memory.iter() {
            let start = region.as_ptr() as usize;
            watch.0.push(claim(start, start + region.len() as usize, wake.as_raw_fd())?);
        }
        Ok(watch)
    }

    /// Whether a page is lost, and the guest must not go on.
    pub(crate) fn is_damaged(&self) -> bool {
        self.0.iter().any(|region| region.damaged.load(Ordering::Acquire))
    }

    /// Whether something was made of what is not there: nothing that this machine shows or saves from here on is true.
    pub(crate) fn is_void(&self) -> bool {
        self.0.iter().any(|region| region.void.load(Ordering::Acquire))
    }

    /// Whether something was lost since it was taken last.
    pub(crate) fn has_notes(&self) -> bool {
        self.notes().any(|note| note.load(Ordering::Acquire) & !TOUCHED != 0)
    }

    /// What was lost since the last call. To be taken with the guest paused: one page may be told of by several vCPUs, and by the
    /// kernel besides.
    pub(crate) fn take(&self) -> Vec<Loss> {
        let taken = self.notes().map(|note| note.swap(0, Ordering::AcqRel)).filter(|note| note & !TOUCHED != 0);
        taken.map(|note| Loss { address: (note & !TOUCHED) as usize, touched: note & TOUCHED != 0 }).collect()
    }

    /// The pages at `addresses` are whole again, with the guest paused: what is told of them late is forgotten. The guest may go
    /// on, unless more was lost.
    pub(crate) fn replaced(&self, addresses: &[usize]) {
        let is_whole = |note: u64| addresses.contains(&((note & !TOUCHED) as usize));
        for note in self.notes() {
            let told = note.load(Ordering::Acquire);
            if told != 0 && is_whole(told) {
                // It fails if the page is told of once more right now, which is looked at by itself.
                let _ = note.compare_exchange(told, 0, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        for region in &self.0 {
            region.damaged.store(false, Ordering::Release);
            if region.notes.iter().any(|note| note.load(Ordering::Acquire) & !TOUCHED != 0) {
                region.damaged.store(true, Ordering::Release);
            }
        }
    }

    fn notes(&self) -> impl Iterator<Item = &'static AtomicU64> {
        self.0.iter().flat_map(|region| &region.notes)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for region in &self.0 {
            region.end.store(0, Ordering::Release);
            region.wake.store(-1, Ordering::Release);
            region.taken.store(false, Ordering::Release);
        }
    }
}

fn claim(start: usize, end: usize, wake: RawFd) -> Result<&'static Watched, Error> {
    let free = |region: &&Watched| !region.taken.swap(true, Ordering::AcqRel);
    let Some(region) = WATCHED.iter().find(free) else {
        let source = io::Error::other("too many machines in one process");
        return Err(Error::Resource { what: "a place to note memory errors", source });
    };
    region.notes.iter().for_each(|note| note.store(0, Ordering::Release));
    region.damaged.store(false, Ordering::Release);
    region.void.store(false, Ordering::Release);
    region.wake.store(wake, Ordering::Release);
    region.start.store(start, Ordering::Release);
    region.end.store(end, Ordering::Release);
    Ok(region)
}

/// Asks for the signal as soon as the kernel knows, for this thread and those it starts.
fn be_told_early() {
    // SAFETY: prctl with these arguments takes integers only.
    let result = unsafe { libc::prctl(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY, 0, 0) };
    if result != 0 {
        log::debug!("PR_MCE_KILL: {}; this kernel does not watch memory", io::Error::last_os_error());
    }
}

/// Only does what is allowed in a signal handler: atomics, write(2), and mmap(2), which is a plain system call.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo_t; for SIGBUS it has an address, and after it the number of low bits of the address that
    // mean nothing (`si_addr_lsb`, a short right behind `si_addr`), which libc's type does not name.
    let (code, address, lost_bits) = unsafe {
        let address = (*info).si_addr();
        let behind = info.cast::<u8>().add(SI_ADDR_LSB).cast::<i16>();
        ((*info).si_code, address as usize, behind.read())
    };
    let contains = |region: &&Watched| {
        (region.start.load(Ordering::Acquire)..region.end.load(Ordering::Acquire)).contains(&address)
    };
    let region = WATCHED.iter().find(contains).filter(|_| matches!(code, BUS_MCEERR_AR | BUS_MCEERR_AO));
    let Some(region) = region else {
        // Not guest memory, or no memory error: what happens is what happens without a handler, when this returns.
        // SAFETY: restores the default action.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if code <= 0 || code == BUS_MCEERR_AO {
                libc::raise(signal);
            }
        }
        return;
    };
    let touched = code == BUS_MCEERR_AR && !IN_GUEST.get();
    if touched || lost_bits > PAGE_SHIFT {
        // The instruction is done again when this returns, and needs something to work on.
        if touched && replace(address & !(PAGE_SIZE - 1)).is_err() {
            // SAFETY: abort may be called at any time.
            unsafe { libc::abort() };
        }
        region.void.store(true, Ordering::Release);
    }
    region.note(address, code == BUS_MCEERR_AR);
}

/// Where `si_addr_lsb` is: behind signal, errno, code, padding and address.
const SI_ADDR_LSB: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;

    /// What the kernel does for a poisoned page.
    fn send(code: i32, address: usize) {
        let mut info = [0u8; 128];
        info[0..4].copy_from_slice(&libc::SIGBUS.to_ne_bytes());
        info[8..12].copy_from_slice(&code.to_ne_bytes());
        info[16..24].copy_from_slice(&address.to_ne_bytes());
        info[SI_ADDR_LSB..26].copy_from_slice(&PAGE_SHIFT.to_ne_bytes());
        // SAFETY: the kernel reads 128 bytes, a siginfo_t, and delivers it to this thread before it returns.
        let result = unsafe {
            let thread = libc::syscall(libc::SYS_gettid);
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), thread, libc::SIGBUS, info.as_ptr())
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    fn watched() -> (Memory, Watch, EventFd, usize) {
        let memory = Ram::map(16).expect("16 MiB");
        let wake = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let watch = Watch::new(&memory, &wake).expect("free places");
        let start = memory.iter().next().expect("a region").as_ptr() as usize;
        (memory, watch, wake, start)
    }

    fn byte_at(address: usize) -> u8 {
        // SAFETY: the tests pass addresses in mapped memory.
        unsafe { (address as *const u8).read_volatile() }
    }

    fn fill(address: usize, value: u8) {
        // SAFETY: as above; a page long.
        unsafe { (address as *mut u8).write_bytes(value, PAGE_SIZE) };
    }

    fn loss(address: usize, touched: bool) -> Loss {
        Loss { address, touched }
    }

    #[test]
    fn an_early_warning_is_noted_once_and_changes_nothing() {
        let (_memory, watch, wake, start) = watched();
        let page = start + 3 * PAGE_SIZE;
        fill(page, 7);
        assert!(!watch.is_damaged() && !watch.has_notes() && watch.take().is_empty());
        send(BUS_MCEERR_AO, page + 100);
        send(BUS_MCEERR_AO, page + 200);
        assert!(watch.is_damaged() && watch.has_notes() && !watch.is_void());
        assert_eq!(wake.read().expect("woken"), 2);
        assert_eq!(watch.take(), [loss(page, false)]);
        assert!(watch.is_damaged() && !watch.has_notes(), "until it is replaced");
        watch.replaced(&[page]);
        assert!(!watch.is_damaged());
        send(BUS_MCEERR_AO, page);
        watch.replaced(&[page + PAGE_SIZE]);
        assert!(watch.is_damaged(), "another one was replaced");
        assert_eq!(byte_at(page), 7);
    }

    #[test]
    fn what_is_told_of_a_page_again_after_it_was_taken_is_forgotten_with_it() {
        let (_memory, watch, _wake, start) = watched();
        in_guest(|| send(BUS_MCEERR_AR, start));
        assert_eq!(watch.take(), [loss(start, true)]);
        // Another vCPU, and the kernel itself.
        in_guest(|| send(BUS_MCEERR_AR, start));
        send(BUS_MCEERR_AO, start);
        send(BUS_MCEERR_AO, start + PAGE_SIZE);
        watch.replaced(&[start]);
        assert!(watch.is_damaged());
        assert_eq!(watch.take(), [loss(start + PAGE_SIZE, false)]);
    }

    #[test]
    fn what_the_guest_touched_is_left_to_the_event_loop() {
        let (_memory, watch, _wake, start) = watched();
        fill(start, 7);
        send(BUS_MCEERR_AO, start);
        in_guest(|| send(BUS_MCEERR_AR, start));
        assert_eq!(watch.take(), [loss(start, true)]);
        assert_eq!(byte_at(start), 7);
    }

    #[test]
    fn what_this_program_touched_reads_as_zeroes_and_voids_all_that_follows() {
        let (_memory, watch, _wake, start) = watched();
        fill(start, 7);
        fill(start + PAGE_SIZE, 8);
        send(BUS_MCEERR_AR, start + 8);
        assert_eq!((byte_at(start), byte_at(start + PAGE_SIZE)), (0, 8));
        assert_eq!(watch.take(), [loss(start, true)]);
        assert!(watch.is_void(), "for good");
    }

    #[test]
    fn more_than_can_be_noted_is_not_forgotten() {
        let (_memory, watch, _wake, start) = watched();
        (0..=NOTES_MAX).for_each(|page| send(BUS_MCEERR_AO, start + page * PAGE_SIZE));
        assert_eq!((watch.take().len(), watch.is_void()), (NOTES_MAX, true));
    }

    #[test]
    fn each_machine_is_told_of_its_own() {
        let (_one, one, _, _) = watched();
        let (_other, other, _, start) = watched();
        send(BUS_MCEERR_AO, start);
        assert!(other.is_damaged() && !one.is_damaged());
    }
}
