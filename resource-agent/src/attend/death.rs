//! What the cluster is told when the replicator has ended.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Role, Status};
use kemari_core::Generation;

use crate::attributes;
use crate::authority::parse_generation;
use crate::cluster::{Attributes, ClusterError, report_failure, run};

/// How long an outdating may take: one write to the disk.
const OUTDATE_LIMIT: Duration = Duration::from_secs(5);
/// How long the cluster is told again and again.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// Has the node mark itself outdated in `generation`, and publishes its word that it has. Returns whether it has.
///
/// What is published is on the node's disk before.
pub(super) fn outdate(
    binary: &Path,
    config: &Path,
    status: &Status,
    generation: Generation,
    word: &str,
) -> Result<bool, ClusterError> {
    let (binary, config) = (binary.to_string_lossy(), config.to_string_lossy());
    let outcome =
        run(&binary, &["outdate", "--config", &config, "--generation", &generation.to_string()], OUTDATE_LIMIT)?;
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

/// A standby has ended without goodbye: what it held is gone, and its primary may be waiting for its word.
pub(super) fn silence(binary: &Path, config: &Path, last: &Status) {
    // A primary's record names it, so nobody waits for its word.
    let (Role::Standby, Some(generation)) = (last.role, &last.generation) else { return };
    let Ok(generation) = parse_generation(generation) else { return };
    insist("say that this node is outdated", || {
        outdate(binary, config, last, generation, &attributes::gone(generation))
    });
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
