//! The guest's clocks, watched from inside: one thread on every CPU looks at the TSC and at CLOCK_MONOTONIC again and again.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What was seen so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    last: Option<Reading>,
    /// CPUs that looked.
    pub(crate) cpus: usize,
    looks: u64,
    /// Looks at which the TSC was behind what another CPU, or the same, had read before.
    tsc_back: u64,
    monotonic_back: u64,
    longest_ns: u64,
    longest_ticks: u64,
    first: Option<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    ticks: u64,
    monotonic_ns: u64,
}

impl Reading {
    fn now() -> Reading {
        // SAFETY: every x86-64 has both; LFENCE keeps the TSC from being read ahead of the lock.
        let ticks = unsafe {
            _mm_lfence();
            _rdtsc()
        };
        Reading { ticks, monotonic_ns: monotonic_ns() }
    }
}

impl Seen {
    fn look(&mut self, now: Reading) {
        let last = *self.last.get_or_insert(now);
        self.first.get_or_insert(now);
        self.looks += 1;
        self.tsc_back += u64::from(now.ticks < last.ticks);
        self.monotonic_back += u64::from(now.monotonic_ns < last.monotonic_ns);
        self.longest_ticks = self.longest_ticks.max(now.ticks.saturating_sub(last.ticks));
        self.longest_ns = self.longest_ns.max(now.monotonic_ns.saturating_sub(last.monotonic_ns));
        self.last = Some(now);
    }

    /// The longest time between two looks by the TSC, whose frequency is what it was on the whole.
    fn longest_by_tsc_ns(&self) -> u64 {
        let (Some(first), Some(last)) = (self.first, self.last) else { return 0 };
        let (ticks, ns) = (last.ticks.wrapping_sub(first.ticks), last.monotonic_ns - first.monotonic_ns);
        if ticks == 0 { 0 } else { (u128::from(self.longest_ticks) * u128::from(ns) / u128::from(ticks)) as u64 }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cpus={} looks={} tsc_back={} monotonic_back={} longest_ms={} longest_by_tsc_ms={}",
            self.cpus,
            self.looks,
            self.tsc_back,
            self.monotonic_back,
            self.longest_ns / 1_000_000,
            self.longest_by_tsc_ns() / 1_000_000
        )
    }
}

/// What all threads together have seen.
#[derive(Clone, Default)]
pub(crate) struct Clocks(Arc<Mutex<Seen>>);

impl Clocks {
    /// Begins to look, on every CPU.
    pub(crate) fn watch() -> Clocks {
        let clocks = Clocks::default();
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        for cpu in 0..cpus {
            let clocks = clocks.clone();
            thread::spawn(move || {
                if stay_on(cpu) {
                    clocks.lock().cpus += 1;
                }
                loop {
                    let mut seen = clocks.lock();
                    // With the lock held, so that readings of different CPUs have an order.
                    seen.look(Reading::now());
                    drop(seen);
                    thread::sleep(PAUSE);
                }
            });
        }
        clocks
    }

    pub(crate) fn seen(&self) -> Seen {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stay_on(cpu: usize) -> bool {
    // SAFETY: an all-zero set is a valid one; CPU_SET stays in its bounds for the CPUs of a guest, and the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

/// CLOCK_MONOTONIC.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_is_seen_and_the_longest_step_is_kept() {
        let mut seen = Seen::default();
        for (ticks, monotonic_ns) in [(1000, 0), (2000, 1_000_000), (9000, 8_000_000), (8000, 7_000_000)] {
            seen.look(Reading { ticks, monotonic_ns });
        }
        assert_eq!((seen.tsc_back, seen.monotonic_back, seen.longest_ns), (1, 1, 7_000_000));
        assert_eq!(seen.longest_by_tsc_ns(), 7_000_000);
    }
}
