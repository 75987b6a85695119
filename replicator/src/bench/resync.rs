//! How fast a new standby is brought in sync while the guest runs.

use std::time::Instant;

use kemari_core::PAGE_SIZE;
use kemari_site::{Protected, Site};

use super::table::{Row, Target, Unit};
use super::{Bench, BenchError};

/// Of one raw TCP stream, unencrypted.
const SPEED_TARGET: f64 = 0.4;

/// Measures it, by the progress that the primary shows.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mib = bench.effort(1024, 256);
    let mut best = 0.0f64;
    for _ in 0..bench.effort(3, 1) {
        bench.go_on()?;
        best = best.max(speed_gb_s(bench, mib)?);
    }
    let row = Row::new("full synchronisation, encrypted", Unit::GbPerSecond, best)
        .beside(Some(bench.floors.stream_gb_s))
        .aiming(Target::TimesAtLeast(SPEED_TARGET));
    bench.add(&format!("resync of a guest of {mib} MiB, against one raw TCP stream"), vec![row])
}

fn speed_gb_s(bench: &Bench, mib: u64) -> Result<f64, BenchError> {
    let site = Site::build(bench.site(mib))?;
    let (mut first, mut last) = (None, None);
    Protected::boot(&site, |status| {
        if let Some(sync) = status.sync {
            let seen = (Instant::now(), sync.done_pages);
            first.get_or_insert(seen);
            last = Some(seen);
        }
    })?;
    let speed = first.zip(last).and_then(|((begun, from), (ended, to))| {
        let seconds = ended.duration_since(begun).as_secs_f64();
        (to > from).then(|| (to - from) as f64 * PAGE_SIZE as f64 / seconds / 1e9)
    });
    speed.ok_or_else(|| BenchError::Unmeasured {
        what: "the speed of a resync",
        why: "it was over before it was seen twice".to_owned(),
    })
}
