//! A replicator that hangs, and wakes.

use std::time::Duration;

use kemari_control::{Replication, Role};

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(90);

/// The standby hangs. What it holds is the newest image until the primary goes on without it, and never afterwards.
pub(super) fn standby_hangs(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(16)?;
    wakes_in_time(cluster, &ledger)?;
    let consent = is_ended(cluster, &ledger)?;
    Ok(format!("{} entries, consent after {:.1} s", ledger.close(cluster)?, consent.as_secs_f64()))
}

/// It wakes before anybody gave it up; the guest stood still. That it was asked to mark itself outdated meanwhile is forgotten as
/// soon as it is in sync again: when the primary is killed it resumes the guest.
fn wakes_in_time(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let primary = setup::primary(cluster)?;
    cluster.node(primary.peer()).signal_replicator("STOP")?;
    std::thread::sleep(Duration::from_secs(3));
    if !ledger.is_silent_for(Duration::from_secs(1)) {
        return Err(ClusterError::Wrong("the guest speaks, and its standby may be promoted any time".to_owned()));
    }
    cluster.node(primary.peer()).signal_replicator("CONT")?;
    cluster.wait("for the standby to be in sync again", LIMIT, |cluster| {
        // By the primary's word: the standby wakes as it was when it fell asleep.
        Ok(setup::status(cluster, primary)?.replication == Replication::Protected)
    })?;
    // Consent may have been won just as it woke. Until the record names it anew, the guest hangs on one node.
    setup::protected(cluster, LIMIT)?;
    cluster.node(primary).signal_replicator("KILL")?;
    ledger.wait_for_answers(LIMIT)?;
    if cluster.primary() != Some(primary.peer()) {
        return Err(ClusterError::Wrong("the standby that woke was not promoted".to_owned()));
    }
    setup::forgive(cluster)?;
    setup::agrees(cluster)
}

/// It does not wake until its monitor action fails and it is ended; the primary then goes on. The time until it does.
fn is_ended(cluster: &Cluster, ledger: &Ledger) -> Result<Duration> {
    let primary = setup::primary(cluster)?;
    let standby = primary.peer();
    cluster.node(standby).signal_replicator("STOP")?;
    let took = cluster.wait("for consent", LIMIT, |cluster| {
        Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    // From here on what the standby held is stale. If its process was not ended it wakes now.
    let _ = cluster.node(standby).signal_replicator("CONT");
    let status = cluster.node(standby).status().ok();
    if let Some(status) = status.filter(|status| status.role == Role::Primary || status.not_promotable.is_none()) {
        return Err(ClusterError::Wrong(format!("{standby} could resume what is stale: {:?}", status.image)));
    }
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(took)
}
