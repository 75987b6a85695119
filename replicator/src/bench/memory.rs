//! How much memory two nodes need beside the guest's own: with a guest that does next to nothing, and with one that writes to
//! its memory as fast as it can.

use std::thread;
use std::time::Duration;

use kemari_site::{Node, Protected, Site, SiteOptions};

use super::process::Process;
use super::table::{Row, Target, Unit};
use super::{Bench, BenchError, RESTLESS};

/// Memory over the guest's own: this part of that, and this in MiB.
const TARGET: (f64, f64) = (0.15, 32.0);
/// The guests, each with the quarters of its memory that it writes to.
const GUESTS: [(u64, &str, u64); 4] = [(64, "idle", 0), (1024, "idle", 0), (256, "writing", 1), (1024, "writing", 1)];
/// How long a guest is watched. It has had its longest epochs by then.
const WATCH: Duration = Duration::from_secs(5);

/// Measures it.
pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut rows = Vec::new();
    for (mib, what, quarters) in GUESTS {
        let peaks = peaks(bench, mib, quarters)?;
        let (share, fixed) = TARGET;
        for (role, peak) in ["primary", "standby"].into_iter().zip(peaks) {
            let row = Row::new(format!("{mib} MiB, {what}: {role}, at most"), Unit::Mib, peak - mib as f64);
            rows.push(row.aiming(Target::AtMost(mib as f64 * share + fixed)));
        }
    }
    bench.add("resident memory over the guest's own", rows)
}

/// The most that primary and standby ever had, the resync included.
fn peaks(bench: &Bench, mib: u64, quarters: u64) -> Result<[f64; 2], BenchError> {
    let dirty_pages = (mib << 20) / kemari_core::PAGE_SIZE as u64 * quarters / 4;
    let site = Site::build(SiteOptions { dirty_pages, dirty_rate: RESTLESS, ..bench.site(mib) })?;
    let pair = Protected::boot(&site, |_| ())?;
    bench.go_on()?;
    thread::sleep(WATCH);
    let peak = |node: &Node| Process(node.status()?.pid).peak_mib();
    Ok([peak(&pair.primary)?, peak(&pair.standby)?])
}
