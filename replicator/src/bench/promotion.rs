//! How long a promotion takes, from the command to the guest's first instruction.
//!
//! The guest writes to one page all the time. From outside, through `/proc/PID/mem`, it is seen when it goes on.

use std::thread;
use std::time::{Duration, Instant};

use kemari_control::Replication;
use kemari_core::PAGE_SIZE;
use kemari_site::{Alone, Node, Protected, Site, SiteOptions, Survivor};

use super::process::{GuestMemory, Process};
use super::table::{Row, Target, Unit};
use super::{Bench, BenchError, RESTLESS};

/// The guests, and how much of the largest may be left out when it is to be quick.
const GUESTS_MIB: [u64; 3] = [64, 256, 1024];
/// Of a raw restore and first entry.
const TIME_TARGET: f64 = 4.0;
/// The largest guest against the smallest.
const SIZE_TARGET: f64 = 1.5;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the page that the guest writes to.
const LOOK: Duration = Duration::from_millis(1);
/// The same while a promotion is on its way: figures are up to so much too high. Looking much more often, its interrupts would
/// keep the guest from getting anywhere.
const GLANCE: Duration = Duration::from_micros(100);
/// How often it must have changed to be taken for that.
const LOOKS: usize = 5;

/// What was measured of one promotion.
struct Promotion {
    /// Until the guest wrote.
    first_store: Duration,
    /// Until the command was answered.
    answer: Duration,
}

/// Measures it.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let guests = &GUESTS_MIB[..bench.effort(3, 2)];
    let record = Row::new(
        "of that, the grant on stable storage (the floor's own write)",
        Unit::Us,
        bench.floors.write_through_us,
    );
    let (mut promotions, mut smallest) = (Vec::new(), None);
    for &mib in guests {
        let times = promote(bench, mib)?;
        let us = |time: fn(&Promotion) -> Duration| times.iter().map(|at| time(at).as_secs_f64() * 1e6).collect();
        let first = Row::of_samples(format!("{mib} MiB: to the first instruction"), Unit::Us, us(|at| at.first_store));
        let answer = Row::of_samples(format!("{mib} MiB: to the answer"), Unit::Us, us(|at| at.answer));
        let against = *smallest.get_or_insert(first.figure);
        let relative = Row::new(format!("{mib} MiB: against {} MiB", guests[0]), Unit::Us, first.figure);
        promotions.push(first.beside(bench.floors.promotion_us(mib)).aiming(Target::TimesAtMost(TIME_TARGET)));
        promotions.push(answer);
        if mib != guests[0] {
            promotions.push(relative.beside(Some(against)).aiming(Target::TimesAtMost(SIZE_TARGET)));
        }
    }
    promotions.push(record);
    bench.add("promotion, from the command, after a SIGKILL of the primary", promotions)
}

/// Kills and promotes some times.
fn promote(bench: &Bench, mib: u64) -> Result<Vec<Promotion>, BenchError> {
    let site = Site::build(SiteOptions { dirty_pages: 1, dirty_rate: RESTLESS, ..bench.site(mib) })?;
    let mut pair = Protected::boot(&site, |_| ())?;
    let page = find_page(&memory_of(&pair.primary, mib)?, mib)?;
    let mut times = Vec::new();
    for _ in 0..bench.effort(9, 3) {
        bench.go_on()?;
        let watched = memory_of(&pair.standby, mib)?;
        let survivor = pair.kill_primary()?;
        await_loss(survivor.standby())?;
        let (alone, promotion) = promote_watched(survivor, &watched, page)?;
        times.push(promotion);
        pair = alone.rejoin(&site, |_| ())?;
    }
    Ok(times)
}

fn memory_of(node: &Node, mib: u64) -> Result<GuestMemory, BenchError> {
    Process(node.status()?.pid).guest_memory(mib)
}

/// Waits until the standby has seen that its primary is gone: how soon that is, is not the question here.
fn await_loss(standby: &Node) -> Result<(), BenchError> {
    let limit = Instant::now() + LIMIT;
    while standby.status()?.replication != Replication::Alone {
        if Instant::now() >= limit {
            return Err(unmeasured("the standby does not see that its primary is gone".to_owned()));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Gives the command, and sees when the guest writes to `page`.
fn promote_watched(survivor: Survivor, memory: &GuestMemory, page: u64) -> Result<(Alone, Promotion), BenchError> {
    let before = memory.word(page)?;
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            go_before_others();
            await_change(memory, page, before)
        });
        // The watcher is in place: to start a thread is no part of what is measured.
        thread::sleep(LOOK);
        let asked = Instant::now();
        let alone = survivor.promote()?;
        let answer = asked.elapsed();
        let stored = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((alone, Promotion { first_store: stored.duration_since(asked), answer }))
    })
}

/// Lets this thread run as soon as its sleep is over, whatever else runs: otherwise it may have to wait for the next tick, some
/// milliseconds, and so would the figure.
fn go_before_others() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads one sched_param, which outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) } < 0 {
        log::warn!("SCHED_FIFO: {}; figures may be some ms too high", std::io::Error::last_os_error());
    }
}

fn await_change(memory: &GuestMemory, at: u64, before: u64) -> Result<Instant, BenchError> {
    let limit = Instant::now() + LIMIT;
    while memory.word(at)? == before {
        if Instant::now() >= limit {
            return Err(unmeasured(format!("the guest did nothing for {} s", LIMIT.as_secs())));
        }
        // Not to be in the way of what it waits for, which needs two CPUs itself.
        thread::sleep(GLANCE);
    }
    Ok(Instant::now())
}

/// Finds the page that the guest writes to all the time; it has to boot first.
fn find_page(memory: &GuestMemory, mib: u64) -> Result<u64, BenchError> {
    let limit = Instant::now() + LIMIT;
    while Instant::now() < limit {
        if let Some(page) = look_for_page(memory, mib)? {
            return Ok(page);
        }
    }
    Err(unmeasured(format!("for {} s there was no page that the guest wrote to all the time", LIMIT.as_secs())))
}

fn look_for_page(memory: &GuestMemory, mib: u64) -> Result<Option<u64>, BenchError> {
    const BLOCK: usize = 1 << 20;
    let (mut before, mut after) = (vec![0; BLOCK], vec![0; BLOCK]);
    for start in (0..mib).map(|block| block * BLOCK as u64) {
        memory.read(start, &mut before)?;
        thread::sleep(LOOK);
        memory.read(start, &mut after)?;
        let pages = before.chunks(PAGE_SIZE).zip(after.chunks(PAGE_SIZE)).enumerate();
        for (page, _) in pages.filter(|(_, (before, after))| before[..8] != after[..8]) {
            let at = start + (page * PAGE_SIZE) as u64;
            if keeps_changing(memory, at)? {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

fn keeps_changing(memory: &GuestMemory, at: u64) -> Result<bool, BenchError> {
    for _ in 0..LOOKS {
        let before = memory.word(at)?;
        thread::sleep(LOOK);
        if memory.word(at)? == before {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unmeasured(why: String) -> BenchError {
    BenchError::Unmeasured { what: "a promotion", why }
}
