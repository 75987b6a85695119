//! A planned move that is cut in the middle: the old primary has handed over, the new one has not yet been granted the guest.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::floor::{disable_fencing, enable_fencing, restart};
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(90);

/// What happens to the node that was to take over.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// kill -9 of its replicator.
    ReplicatorKilled,
    /// Its promote action fails.
    PromoteFails,
    /// Its power is cut; the other node fences it.
    NodeKilled,
}

pub(super) fn handover_cut(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    // One client all the time: its connection is to survive all three.
    let ledger = Ledger::open(40)?;
    // A promotion that is refused is tried again for as long as it may take.
    cluster.sh("pcs resource update web op promote interval=0s timeout=15s && settle")?;
    let mut said = Vec::new();
    for cut in [Cut::ReplicatorKilled, Cut::PromoteFails, Cut::NodeKilled] {
        let silent = play(cluster, &ledger, cut)
            .map_err(|error| ClusterError::Wrong(format!("{cut:?} in the middle of a handover: {error}")))?;
        said.push(format!("{cut:?}: back after {:.1} s", silent.as_secs_f64()));
    }
    cluster.sh("pcs resource update web op promote interval=0s timeout=60s && settle")?;
    Ok(format!("{} entries; {}", ledger.close(cluster)?, said.join(", ")))
}

/// Returns how long the guest was silent.
fn play(cluster: &Cluster, ledger: &Ledger, cut: Cut) -> Result<Duration> {
    let old = setup::primary(cluster)?;
    let new = old.peer();
    let before = setup::record(cluster)?;
    cluster.node(new).put_swap_door()?;
    cluster.node(new).sh("touch /run/kemari-swap.hold")?;
    if matches!(cut, Cut::NodeKilled) {
        enable_fencing(cluster)?;
    }
    ledger.wait_for_answers(LIMIT)?;
    let outage = ledger.begin_measure();
    // A preference, and no ban: the old primary may have the guest again.
    cluster.sh(&format!("pcs constraint location web-clone rule role=Promoted score=60 '#uname' eq {new}"))?;
    cluster.wait("for the new primary to be about to swap the record", LIMIT, |cluster| {
        Ok(cluster.node(new).sh("test -e /run/kemari-swap.held").is_ok())
    })?;
    if cluster.primary().is_some() || !ledger.is_silent_for(Duration::from_millis(300)) {
        return Err(ClusterError::Wrong("the guest runs while it is handed over".to_owned()));
    }
    match cut {
        Cut::ReplicatorKilled => {
            cluster.node(new).signal_replicator("KILL")?;
            cluster.node(new).sh("rm /run/kemari-swap.hold")?;
        }
        Cut::PromoteFails => {
            cluster.node(new).sh("touch /run/kemari-swap.refuse && rm /run/kemari-swap.hold")?;
        }
        Cut::NodeKilled => cluster.node(new).kill()?,
    }
    // As soon as the old primary has it again, so that the preference does not move it when the new one is back.
    cluster.wait("for the guest to go on where it was", LIMIT, |cluster| Ok(cluster.primary() == Some(old)))?;
    let silent = outage.end(LIMIT, || Ok(true))?;
    cluster.sh("pcs constraint delete location-web-clone")?;
    ledger.wait_for_answers(LIMIT)?;
    recover(cluster, new, cut)?;
    let after = setup::record(cluster)?;
    if number(&after) != number(&before) + 1 {
        return Err(ClusterError::Wrong(format!("the guest went on by other than one swap: {before} -> {after}")));
    }
    Ok(silent)
}

/// The node that was to take over is standby again.
fn recover(cluster: &Cluster, new: NodeName, cut: Cut) -> Result<()> {
    if matches!(cut, Cut::NodeKilled) {
        restart(cluster, new)?;
    }
    cluster.node(new).remove_swap_door()?;
    if matches!(cut, Cut::NodeKilled) {
        setup::protected(cluster, LIMIT)?;
        disable_fencing(cluster)?;
    }
    setup::forgive(cluster)?;
    setup::agrees(cluster)
}

fn number(record: &str) -> u64 {
    record.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
