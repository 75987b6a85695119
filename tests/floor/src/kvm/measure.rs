//! How long KVM takes: to stop a guest that runs, to read its state, to go on with it; to read a dirty log; to restore a guest.

use super::state::State;
use super::vm::{Vm, prepare};
use super::watch::with_runner;
use crate::error::Error;
use crate::memory::PAGE;
use crate::sample::{Effort, SERIES, best_median_of, timed};

/// Guest of the measurements that the size of memory does not matter to, in MiB.
const SMALL_MIB: usize = 64;
/// Pages that the guest writes to between two readings of the dirty log.
const DIRTY_PAGES: usize = 16;

/// What each stop costs.
pub(crate) struct Exits {
    /// MSRs in the state.
    pub(crate) msrs: usize,
    /// From sending a signal to a thread in KVM_RUN to its return.
    pub(crate) kick_us: f64,
    /// From calling KVM_RUN to the guest's first store.
    pub(crate) reentry_us: f64,
    /// To read all of the state.
    pub(crate) state_read_us: f64,
}

/// What may depend on the size of the guest.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The size.
    pub(crate) mib: usize,
    /// To read and clear the dirty log, with 16 pages in it.
    pub(crate) dirty_log_us: f64,
    /// To write all of the state into a VM that has not run yet and whose memory is there.
    pub(crate) restore_us: f64,
    /// From calling KVM_RUN to the first store of a guest restored that way.
    pub(crate) first_entry_us: f64,
}

/// Measures stops. A page once written to stays writable, so no write fault is in the figures.
pub(crate) fn exits(effort: Effort) -> Result<Exits, Error> {
    let memory = prepare(SMALL_MIB)?;
    let vm = Vm::new(&memory)?;
    vm.begin(1)?;
    let mut state = State::of(&vm);
    let (mut kicks, mut entries, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    with_runner(&vm, &memory, |runner| {
        for _ in 0..SERIES * effort.short {
            let stretch = runner.stretch()?;
            reads.push(timed(|| state.read(&vm))?);
            kicks.push(stretch.kick);
            entries.push(stretch.entry);
        }
        Ok(())
    })?;
    Ok(Exits {
        msrs: vm.msrs.len(),
        kick_us: best_median_of(&kicks),
        reentry_us: best_median_of(&entries),
        state_read_us: best_median_of(&reads),
    })
}

/// Measures what may depend on the size of the guest.
pub(crate) fn machine(mib: usize, effort: Effort) -> Result<Machine, Error> {
    let memory = prepare(mib)?;
    let (dirty_log_us, mut state) = {
        let vm = Vm::new(&memory)?;
        let dirty_log_us = with_runner(&vm, &memory, |runner| {
            vm.begin(DIRTY_PAGES)?;
            let mut bitmap = vec![0u64; (mib << 20) / PAGE / 64];
            let mut times = Vec::new();
            for _ in 0..SERIES * effort.short {
                runner.stretch()?;
                times.push(timed(|| vm.dirty_log(&mut bitmap))?);
                check_log(&bitmap)?;
            }
            Ok(best_median_of(&times))
        })?;
        vm.begin(1)?;
        let mut state = State::of(&vm);
        with_runner(&vm, &memory, |runner| runner.stretch().map(drop))?;
        state.read(&vm)?;
        (dirty_log_us, state)
    };
    let (mut restores, mut entries) = (Vec::new(), Vec::new());
    for _ in 0..SERIES * effort.long {
        let vm = Vm::new(&memory)?;
        restores.push(timed(|| state.write(&vm))?);
        entries.push(with_runner(&vm, &memory, |runner| runner.stretch())?.entry);
    }
    Ok(Machine { mib, dirty_log_us, restore_us: best_median_of(&restores), first_entry_us: best_median_of(&entries) })
}

/// A log without the pages that the guest has written to would be no floor.
fn check_log(bitmap: &[u64]) -> Result<(), Error> {
    let dirty: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
    if (dirty as usize) < DIRTY_PAGES {
        return Err(Error::other("KVM_GET_DIRTY_LOG", format!("{dirty} of {DIRTY_PAGES} pages written to")));
    }
    Ok(())
}
