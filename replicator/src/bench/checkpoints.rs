//! What one checkpoint costs, by the number of pages in it.
//!
//! The guest rewrites a fixed working set without rest; a checkpoint is asked for at the control socket whenever it has been
//! through it once, so that its pages are in each. The figures are the replicator's own, one checkpoint at a time.

use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Checkpoints, Request};
use kemari_site::{Node, Protected, Site, SiteOptions};

use super::table::{Row, Target, Unit};
use super::{Bench, BenchError, RESTLESS};

const MEMORY_MIB: u64 = 256;
/// The pages of each case, and how long the guest is given to write to them: each costs it a write fault of up to 40 µs.
const CASES: [(u64, Duration); 4] = [
    (0, Duration::from_millis(2)),
    (16, Duration::from_millis(2)),
    (128, Duration::from_millis(10)),
    (1024, Duration::from_millis(60)),
];
/// The first checkpoints, which still have in them what resync and rehearsal were about.
const WARM_UP: usize = 5;
/// Of the raw costs, for 16 pages.
const COMMIT_TARGET: f64 = 3.0;

/// Measures them.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    for (pages, gap) in CASES {
        let dirty_rate = if pages == 0 { 0 } else { RESTLESS };
        let options = SiteOptions { dirty_pages: pages, dirty_rate, ..bench.site(MEMORY_MIB) };
        let site = Site::build(options)?;
        let pair = Protected::boot(&site, |_| ())?;
        let samples = take(bench, &pair.primary, gap, bench.effort(300, 50))?;
        let rows = rows(bench, pages, &samples);
        bench.add(&format!("checkpoint of {pages} pages of the working set, guest of {MEMORY_MIB} MiB"), rows)?;
    }
    Ok(())
}

/// Has checkpoints committed, one each `gap`.
fn take(bench: &Bench, primary: &Node, gap: Duration, count: usize) -> Result<Vec<Checkpoints>, BenchError> {
    let mut samples = Vec::with_capacity(count);
    for number in 0..WARM_UP + count {
        bench.go_on()?;
        let asked = Instant::now();
        primary.request("commit a checkpoint", &Request::Checkpoint)?;
        let status = primary.status()?;
        if number >= WARM_UP {
            samples.extend(status.checkpoints);
        }
        thread::sleep(gap.saturating_sub(asked.elapsed()));
    }
    Ok(samples)
}

fn rows(bench: &Bench, pages: u64, samples: &[Checkpoints]) -> Vec<Row> {
    let row = |what: &str, unit, figure: &dyn Fn(&Checkpoints) -> u64| {
        Row::of_samples(what, unit, samples.iter().map(|sample| figure(sample) as f64).collect())
    };
    let floors = &bench.floors;
    let pause = floors.pause_us(MEMORY_MIB, pages);
    let commit = row("commit, from the kick", Unit::Us, &|at| at.pause_us.last + at.commit_us.last)
        .beside(pause.map(|pause| pause + floors.small_round_trip_us()));
    vec![
        row("pages in it", Unit::Pages, &|at| at.dirty_pages.last),
        row("pause", Unit::Us, &|at| at.pause_us.last).beside(pause),
        row("  of that, until stopped and state read", Unit::Us, &|at| at.stop_us.last)
            .beside(Some(floors.kick_us + floors.state_read_us)),
        row("encode and encrypt, to the socket", Unit::Us, &|at| at.encode_us.last),
        row("transfer and acknowledgement", Unit::Us, &|at| at.commit_us.last.saturating_sub(at.encode_us.last))
            .beside(floors.round_trip_us(pages)),
        if pages == 16 { commit.aiming(Target::TimesAtMost(COMMIT_TARGET)) } else { commit },
    ]
}
