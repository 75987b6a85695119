//! How fast a new standby is brought in sync while the guest runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kemari_site::{Protected, Site};

use super::process;
use super::table::{Row, Target, Unit};
use super::{Bench, BenchError};

const MEMORY_MIB: u64 = 1024;
/// Of one raw TCP stream, unencrypted.
const SPEED_TARGET: f64 = 0.4;
/// How often the traffic is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes that had crossed the link at some time.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    bytes: u64,
}

/// Measures it, by what goes over the site's loopback device.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut best = 0.0f64;
    for _ in 0..bench.effort(3, 1) {
        bench.go_on()?;
        let site = Site::build(bench.site(MEMORY_MIB))?;
        let readings = watched(|| Ok(Protected::boot(&site, |_| ()).map(drop)?))?;
        best = best.max(speed_gb_s(&readings, MEMORY_MIB << 20).ok_or_else(|| BenchError::Unmeasured {
            what: "the speed of a resync",
            why: "the link did not carry as much as the guest has memory".to_owned(),
        })?);
    }
    let row = Row::new("full synchronisation, encrypted", Unit::GbPerSecond, best)
        .beside(Some(bench.floors.stream_gb_s))
        .aiming(Target::TimesAtLeast(SPEED_TARGET));
    bench.add(&format!("resync of a guest of {MEMORY_MIB} MiB, against one raw TCP stream"), vec![row])
}

/// Reads the traffic again and again while `work` is done, from a thread that is in the site's network, too.
fn watched(work: impl FnOnce() -> Result<(), BenchError>) -> Result<Vec<Reading>, BenchError> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut readings = Vec::new();
            while !done.load(Ordering::Relaxed) {
                readings.push(Reading { at: Instant::now(), bytes: loopback_bytes()? });
                thread::sleep(LOOK);
            }
            Ok(readings)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let readings = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(readings)
    })
}

/// The speed between the first and the last twentieth of `total` bytes.
fn speed_gb_s(readings: &[Reading], total: u64) -> Option<f64> {
    let start = readings.first()?.bytes;
    let reached = |bytes: u64| readings.iter().find(|reading| reading.bytes - start >= bytes);
    let (begun, ended) = (reached(total / 20)?, reached(total / 20 * 19)?);
    let seconds = ended.at.duration_since(begun.at).as_secs_f64();
    (seconds > 0.0).then(|| (ended.bytes - begun.bytes) as f64 / seconds / 1e9)
}

/// Bytes sent by the loopback device of this thread's network (proc_pid_net(5)).
fn loopback_bytes() -> Result<u64, BenchError> {
    let path = Path::new("/proc/thread-self/net/dev");
    let text = process::read(path)?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    // Eight columns of what was received come first.
    let sent = line.and_then(|line| line.split_ascii_whitespace().nth(8)).and_then(|bytes| bytes.parse().ok());
    sent.ok_or_else(|| process::unexpected(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_middle() {
        let begun = Instant::now();
        // A second of waiting, then 100 MB at 1 GB/s, then silence.
        let bytes_at = |ms: u64| 7 + ms.saturating_sub(1000).min(100) * 1_000_000;
        let reading = |ms| Reading { at: begun + Duration::from_millis(ms), bytes: bytes_at(ms) };
        let readings: Vec<Reading> = (0..2000).map(reading).collect();
        let speed = speed_gb_s(&readings, 100_000_000).expect("all of it was sent");
        assert!((speed - 1.0).abs() < 1e-6, "{speed}");
        assert!(speed_gb_s(&readings, 200_000_000).is_none());
    }

    #[test]
    fn there_is_a_loopback_device() {
        loopback_bytes().expect("a number");
    }
}
