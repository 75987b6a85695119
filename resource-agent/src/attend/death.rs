//! What the cluster is told when the replicator has ended.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Role, Standing, Status};
use kemari_core::Generation;

use crate::attributes::{self, Wish};
use crate::authority::parse_generation;
use crate::cluster::{Attributes, ClusterError, report_failure, run};

/// How long an outdating may take: one write to the disk.
const OUTDATE_LIMIT: Duration = Duration::from_secs(5);
/// How long the cluster is told again and again.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// Has the node mark itself outdated as its primary wishes, and publishes its word that it has. Returns whether it has.
pub(super) fn fulfil(binary: &Path, config: &Path, status: &Status, wish: Wish) -> Result<bool, ClusterError> {
    // The replicator looks at the epoch, too: it may have come in sync since its status was asked for.
    let before = ["--before-epoch", &wish.epoch.to_string()];
    outdate(binary, config, status, wish.generation, &before, &wish.to_string())
}

/// What is published is on the node's disk before.
fn outdate(
    binary: &Path,
    config: &Path,
    status: &Status,
    generation: Generation,
    limits: &[&str],
    word: &str,
) -> Result<bool, ClusterError> {
    let (binary, config, generation) = (binary.to_string_lossy(), config.to_string_lossy(), generation.to_string());
    let arguments = [&["outdate", "--config", &config, "--generation", &generation], limits].concat();
    let outcome = run(&binary, &arguments, OUTDATE_LIMIT)?;
    if !outcome.succeeded() {
        eprintln!("kemari-agent: not outdated: {outcome}");
        return Ok(false);
    }
    Attributes::of(&status.node).set(&attributes::outdated(&status.guest), word)?;
    Ok(true)
}

/// Reports a replicator that ended without having been asked to.
pub(super) fn report(resource: &str, last: &Status) {
    insist("report that the replicator has ended", || report_failure(resource, &last.node).map(|()| true));
}

/// A standby has ended: what it held is gone, and its primary may be waiting for its word. Whether a goodbye has arrived, who said
/// it does not know.
pub(super) fn silence(binary: &Path, config: &Path, last: &Status) {
    let Some(generation) = owes_word(last) else { return };
    insist("say that this node is outdated", || {
        outdate(binary, config, last, generation, &[], &attributes::gone(generation))
    });
}

/// The generation in which somebody may wait for this node's word.
///
/// A primary's record names it, so nobody waits for its word. One that never followed a primary has nothing to promise, and that
/// which is to boot the guest for the first time must not forget it.
pub(super) fn owes_word(last: &Status) -> Option<Generation> {
    match (last.role, last.standing, &last.generation) {
        (Role::Standby, Some(Standing::Standby), Some(generation)) => parse_generation(generation).ok(),
        _ => None,
    }
}

/// Tries until it is done, or certain not to be, or the cluster has been out of reach for too long.
fn insist(what: &str, attempt: impl Fn() -> Result<bool, ClusterError>) {
    let begun = Instant::now();
    while let Err(error) = attempt() {
        if begun.elapsed() > REPORT_LIMIT {
            eprintln!("kemari-agent: cannot {what}: {error}");
            return;
        }
        thread::sleep(RETRY);
    }
}
