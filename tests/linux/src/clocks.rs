//! The guest's clocks, watched from inside: one thread on every CPU looks at the TSC and at CLOCK_MONOTONIC again and again.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::report::Report;
use crate::timer::Timer;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// A CPU that did not look for so long does not run, or its timers do not fire.
const LOOK_LIMIT_NS: u64 = 1_000_000_000;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// What each CPU saw last.
    cpus: Vec<Option<Reading>>,
    /// What any of them saw last.
    last: Option<Reading>,
    first: Option<Reading>,
    looks: u64,
    /// Looks at which the TSC was behind what another CPU, or the same, had read before.
    tsc_back: u64,
    monotonic_back: u64,
    /// The longest step of one CPU since the mark, and before it.
    longest: Step,
    longest_before: Step,
    timer: Option<Timer>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Step {
    ns: u64,
    ticks: u64,
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
        Reading { ticks, monotonic_ns: clock_ns(libc::CLOCK_MONOTONIC) }
    }
}

impl Seen {
    fn of(cpus: usize) -> Seen {
        Seen { cpus: vec![None; cpus], ..Seen::default() }
    }

    fn look(&mut self, cpu: usize, now: Reading) {
        let last = self.last.replace(now).unwrap_or(now);
        self.first.get_or_insert(now);
        self.looks += 1;
        self.tsc_back += u64::from(now.ticks < last.ticks);
        self.monotonic_back += u64::from(now.monotonic_ns < last.monotonic_ns);
        if let Some(before) = self.cpus.get_mut(cpu).and_then(|own| own.replace(now)) {
            self.longest.ns = self.longest.ns.max(now.monotonic_ns.saturating_sub(before.monotonic_ns));
            self.longest.ticks = self.longest.ticks.max(now.ticks.saturating_sub(before.ticks));
        }
    }

    /// The step by the TSC, whose frequency is what it was on the whole.
    fn by_tsc_ns(&self, step: Step) -> u64 {
        let (Some(first), Some(last)) = (self.first, self.last) else { return 0 };
        let (ticks, ns) = (last.ticks.wrapping_sub(first.ticks), last.monotonic_ns.wrapping_sub(first.monotonic_ns));
        if ticks == 0 { 0 } else { (u128::from(step.ticks) * u128::from(ns) / u128::from(ticks)) as u64 }
    }

    fn report(&self, monotonic_ns: u64) -> Report {
        let looks = |own: &&Option<Reading>| own.is_some_and(|own| monotonic_ns < own.monotonic_ns + LOOK_LIMIT_NS);
        Report {
            cpus: self.cpus.len() as u64,
            cpus_looking: self.cpus.iter().filter(looks).count() as u64,
            looks: self.looks,
            tsc_back: self.tsc_back,
            monotonic_back: self.monotonic_back,
            longest_before_ns: self.longest_before.ns,
            longest_ns: self.longest.ns,
            longest_by_tsc_ns: self.by_tsc_ns(self.longest),
            timer_late_ns: self.timer.as_ref().and_then(Timer::late_ns),
            realtime_ns: clock_ns(libc::CLOCK_REALTIME),
        }
    }
}

/// What all threads together have seen.
#[derive(Clone)]
pub(crate) struct Clocks(Arc<Mutex<Seen>>);

impl Clocks {
    /// Begins to look, on every CPU.
    pub(crate) fn watch() -> Clocks {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let clocks = Clocks(Arc::new(Mutex::new(Seen::of(cpus))));
        for cpu in 0..cpus {
            let clocks = clocks.clone();
            thread::spawn(move || {
                // One that cannot be had does not look, which the report shows.
                while stay_on(cpu) {
                    let mut seen = clocks.lock();
                    // With the lock held, so that readings of different CPUs have an order.
                    seen.look(cpu, Reading::now());
                    drop(seen);
                    thread::sleep(PAUSE);
                }
            });
        }
        clocks
    }

    /// From here on the longest step is a new one, and a timer runs.
    pub(crate) fn mark(&self, timer: Duration) -> std::io::Result<()> {
        let timer = Timer::arm(timer)?;
        let mut seen = self.lock();
        seen.longest_before = std::mem::take(&mut seen.longest);
        seen.timer = Some(timer);
        Ok(())
    }

    pub(crate) fn report(&self) -> Report {
        self.lock().report(clock_ns(libc::CLOCK_MONOTONIC))
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

/// One of the kernel's clocks.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ticks: u64, ms: u64) -> Reading {
        Reading { ticks, monotonic_ns: ms * MS }
    }

    #[test]
    fn what_goes_back_is_seen_whichever_cpu_had_looked_and_the_longest_step_is_kept() {
        let mut seen = Seen::of(2);
        for (cpu, now) in [(0, at(1000, 0)), (1, at(2000, 1)), (0, at(9000, 8)), (1, at(8000, 7))] {
            seen.look(cpu, now);
        }
        assert_eq!((seen.tsc_back, seen.monotonic_back), (1, 1));
        assert_eq!(seen.longest, Step { ns: 8 * MS, ticks: 8000 });
        assert_eq!(seen.by_tsc_ns(seen.longest), 8 * MS);
    }

    #[test]
    fn a_cpu_that_does_not_look_any_more_is_missed_though_others_do() {
        let mut seen = Seen::of(2);
        for ms in [0, 500, 1000, 1600] {
            seen.look(0, at(ms, ms));
            if ms == 0 {
                seen.look(1, at(ms, ms));
            }
        }
        assert_eq!(seen.report(500 * MS).cpus_looking, 2);
        assert_eq!(seen.report(1601 * MS).cpus_looking, 1);
    }

    #[test]
    fn a_mark_begins_a_new_longest_step() {
        let clocks = Clocks(Arc::new(Mutex::new(Seen::of(1))));
        clocks.lock().look(0, at(0, 0));
        clocks.lock().look(0, at(7, 7));
        clocks.mark(Duration::from_millis(1)).expect("a timer");
        clocks.lock().look(0, at(9, 9));
        let report = clocks.report();
        assert_eq!((report.longest_before_ns, report.longest_ns), (7 * MS, 2 * MS));
    }
}
