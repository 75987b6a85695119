//! Runs the guest for a moment, and finds out when it began and when it was stopped.
//!
//! The vCPU belongs to the calling thread. A second one watches the guest's memory for its first store, waits, and sends the
//! signal; it never sleeps, so that no wake-up is in the figures.

use std::hint::spin_loop;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::abi::run_until_signal;
use super::guest::FIRST_WORD;
use super::vm::Vm;
use crate::error::Error;
use crate::memory::Mapping;

/// How long the guest runs at least before it is stopped, so that it is well in.
const EPOCH: Duration = Duration::from_micros(200);
/// How long it may take to get through its pages.
const LIMIT: Duration = Duration::from_secs(5);
/// The round after the last.
const END: u64 = u64::MAX;

/// One stretch of the guest's running.
pub(super) struct Stretch {
    /// From calling KVM_RUN to the guest's first store.
    pub(super) entry: Duration,
    /// From sending the signal to KVM_RUN's return.
    pub(super) kick: Duration,
}

/// What the two threads tell each other. Times are in nanoseconds since `origin`; they are valid once `done` says so.
struct Shared {
    origin: Instant,
    /// Set by the vCPU's thread; the other two follow.
    round: AtomicU64,
    watching: AtomicU64,
    done: AtomicU64,
    stored_ns: AtomicU64,
    kicked_ns: AtomicU64,
}

/// Lets the guest run, one stretch at a time.
pub(super) struct Runner<'a> {
    vm: &'a Vm,
    shared: &'a Shared,
    round: u64,
}

/// Gives `body` the means to run the guest of `vm`.
pub(super) fn with_runner<T>(
    vm: &Vm,
    memory: &Mapping,
    body: impl FnOnce(&mut Runner<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(ignore_kicks);
    let zero = || AtomicU64::new(0);
    let shared = Shared {
        origin: Instant::now(),
        round: zero(),
        watching: zero(),
        done: zero(),
        stored_ns: zero(),
        kicked_ns: zero(),
    };
    // SAFETY: takes nothing and cannot fail.
    let runner = unsafe { libc::pthread_self() };
    thread::scope(|scope| {
        scope.spawn(|| shared.watch(vm, memory, runner));
        let result = body(&mut Runner { vm, shared: &shared, round: 0 });
        shared.round.store(END, Ordering::Release);
        result
    })
}

impl Runner<'_> {
    /// Runs the guest until it has been kicked.
    pub(super) fn stretch(&mut self) -> Result<Stretch, Error> {
        let shared = self.shared;
        self.round += 1;
        self.vm.set_immediate_exit(false);
        shared.round.store(self.round, Ordering::Release);
        await_round(&shared.watching, self.round);
        let entered = shared.now_ns();
        run_until_signal(&self.vm.vcpu)?;
        let returned = shared.now_ns();
        await_round(&shared.done, self.round);
        let stored = shared.stored_ns.load(Ordering::Acquire);
        let kicked = shared.kicked_ns.load(Ordering::Acquire);
        if stored == 0 {
            return Err(Error::other("KVM_RUN", format!("the guest did nothing for {} s", LIMIT.as_secs())));
        }
        Ok(Stretch {
            entry: Duration::from_nanos(stored.saturating_sub(entered)),
            kick: Duration::from_nanos(returned.saturating_sub(kicked)),
        })
    }
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// The second thread: for each round, waits for the first store, lets the guest run on for a moment, and kicks `runner`.
    fn watch(&self, vm: &Vm, memory: &Mapping, runner: libc::pthread_t) {
        for round in 1.. {
            if await_round(&self.round, round) == END {
                return;
            }
            let before = memory.watch(FIRST_WORD);
            self.watching.store(round, Ordering::Release);
            let limit = Instant::now() + LIMIT;
            let reached = |stores: u64| {
                while memory.watch(FIRST_WORD).wrapping_sub(before) < stores {
                    if Instant::now() >= limit || self.round.load(Ordering::Acquire) != round {
                        return false;
                    }
                }
                true
            };
            let stored = if reached(1) { self.now_ns() } else { 0 };
            // At the second store to its first page the guest has been through all of them.
            let end = Instant::now() + EPOCH;
            while reached(2) && Instant::now() < end {
                spin_loop();
            }
            self.stored_ns.store(stored, Ordering::Release);
            vm.set_immediate_exit(true);
            self.kicked_ns.store(self.now_ns(), Ordering::Release);
            // SAFETY: the thread waits for this one at the end of the scope; it is there.
            unsafe { libc::pthread_kill(runner, libc::SIGUSR1) };
            self.done.store(round, Ordering::Release);
        }
    }
}

/// Waits until `round` is reached. Returns what was reached.
fn await_round(reached: &AtomicU64, round: u64) -> u64 {
    loop {
        match reached.load(Ordering::Acquire) {
            now if now >= round => return now,
            _ => spin_loop(),
        }
    }
}

/// Has SIGUSR1 interrupt KVM_RUN and do nothing else.
fn ignore_kicks() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: all zeroes is a sigaction without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing, which is safe in any thread at any time.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert!(result == 0, "sigaction: {}", io::Error::last_os_error());
}
