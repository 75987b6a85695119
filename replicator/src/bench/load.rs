//! What a client of the guest gets of it: unprotected, protected, and protected the way of 2010; and what a guest that does
//! nothing costs.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Checkpoints, Figure, Request};
use kemari_site::{Load, LoadOptions, Node, NodeName, Probe, Protected, ReplicationMode, Site, SiteOptions, Witness};

use super::process::Process;
use super::table::{Row, Target, Unit};
use super::{Bench, BenchError};

const MEMORY_MIB: u64 = 256;
/// Requests that the client keeps outstanding; three of four append to the ledger, with a flush of the disk.
const WINDOW: usize = 16;
/// How long the guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a load is on, or off, before anything is counted.
const SETTLE: Duration = Duration::from_millis(700);
/// Of one CPU, for each replicator of an idle guest.
const IDLE_TARGET_PERCENT: f64 = 1.0;

/// What a guest did for its clients.
struct Service {
    /// Answers a second.
    ledger: f64,
    counter: f64,
    /// As they were under the ledger's load.
    checkpoints: Option<Checkpoints>,
}

/// Measures all of it.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let unprotected = {
        let site = Site::build(bench.site(MEMORY_MIB))?;
        site.create_guest(NodeName::Alpha)?;
        let primary = site.start(NodeName::Alpha)?;
        primary.request("boot the guest", &Request::Promote { cold_boot: false })?;
        serve(bench, &primary)?
    };
    let (event, idle) = {
        let site = Site::build(bench.site(MEMORY_MIB))?;
        let pair = Protected::boot(&site, |_| ())?;
        (serve(bench, &pair.primary)?, idle(bench, &pair)?)
    };
    let sync = {
        let site = Site::build(SiteOptions { mode: ReplicationMode::Sync, ..bench.site(MEMORY_MIB) })?;
        let pair = Protected::boot(&site, |_| ())?;
        serve(bench, &pair.primary)?
    };
    let mut answers = Vec::new();
    for (mode, service) in [("unprotected", &unprotected), ("mode event", &event), ("mode sync", &sync)] {
        let row =
            |what: &str, rate, best| Row::new(format!("{what}, {mode}"), Unit::PerSecond, rate).beside(Some(best));
        answers.push(row("ledger, 16 outstanding", service.ledger, unprotected.ledger));
        answers.push(row("counter by UDP, one by one", service.counter, unprotected.counter));
    }
    bench.add("requests answered, beside the unprotected guest's", answers)?;
    for (mode, service) in [("event", &event), ("sync", &sync)] {
        if let Some(checkpoints) = &service.checkpoints {
            let rows = under_load(bench, checkpoints);
            bench.add(&format!("checkpoints under the ledger's load, mode {mode}"), rows)?;
        }
    }
    bench.add("two replicators whose guest is idle and protected", idle)
}

/// Has the guest of `primary` serve one client after the other.
fn serve(bench: &Bench, primary: &Node) -> Result<Service, BenchError> {
    let time = bench.effort(Duration::from_secs(4), Duration::from_millis(1500));
    let witness = Arc::new(Witness::default());
    let options = LoadOptions { client: 1, window: WINDOW, pause: Duration::ZERO, patience: PATIENCE };
    let load = Load::start(options, Arc::clone(&witness))?;
    let ledger = rate(bench, time, || load.progress().answers())?;
    let checkpoints = primary.status()?.checkpoints;
    load.finish();
    let probe = Probe::start(Duration::ZERO, Arc::clone(&witness));
    let counter = rate(bench, time, || probe.answers())?;
    probe.finish();
    match witness.take_violations().into_iter().next() {
        Some(violation) => Err(violation.into()),
        None => Ok(Service { ledger, counter, checkpoints }),
    }
}

/// How fast `count` grows, in units a second.
fn rate(bench: &Bench, time: Duration, count: impl Fn() -> u64) -> Result<f64, BenchError> {
    thread::sleep(SETTLE);
    bench.go_on()?;
    let (begun, before) = (Instant::now(), count());
    thread::sleep(time);
    bench.go_on()?;
    Ok((count() - before) as f64 / begun.elapsed().as_secs_f64())
}

fn under_load(bench: &Bench, checkpoints: &Checkpoints) -> Vec<Row> {
    let row = |what: &str, unit, figure: Figure| Row {
        p99: Some(figure.p99 as f64),
        ..Row::new(what, unit, figure.p50 as f64)
    };
    vec![
        Row::new("checkpoints", Unit::PerSecond, checkpoints.per_second),
        row("pages in one", Unit::Pages, checkpoints.dirty_pages),
        row("pause", Unit::Us, checkpoints.pause_us).beside(bench.floors.pause_us(MEMORY_MIB, 16)),
        row("from the guest's going on to the commit", Unit::Us, checkpoints.commit_us)
            .beside(bench.floors.round_trip_us(16)),
        row("output held", Unit::Us, checkpoints.hold_us),
    ]
}

/// The CPU time of both replicators while nobody wants anything of the guest, and what they say to each other.
fn idle(bench: &Bench, pair: &Protected) -> Result<Vec<Row>, BenchError> {
    thread::sleep(SETTLE);
    let (primary, standby) = (Process(pair.primary.status()?.pid), Process(pair.standby.status()?.pid));
    let before = [primary.cpu_time()?, standby.cpu_time()?];
    // Nothing else speaks TCP in the site's namespace, where both are.
    let segments_before = primary.tcp_segments()?;
    let begun = Instant::now();
    thread::sleep(bench.effort(Duration::from_secs(5), Duration::from_secs(2)));
    bench.go_on()?;
    let after = [primary.cpu_time()?, standby.cpu_time()?];
    let segments = primary.tcp_segments()? - segments_before;
    let elapsed = begun.elapsed().as_secs_f64();
    let rows = ["primary", "standby"].into_iter().zip(before.iter().zip(after)).map(|(role, (before, after))| {
        let percent = after.saturating_sub(*before).as_secs_f64() / elapsed * 100.0;
        Row::new(format!("CPU of the {role}"), Unit::Percent, percent).aiming(Target::AtMost(IDLE_TARGET_PERCENT))
    });
    let link =
        Row::new("TCP segments on their link, acknowledgements included", Unit::PerSecond, segments as f64 / elapsed);
    Ok(rows.chain([link]).collect())
}
