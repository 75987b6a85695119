//! Two that want the record at the same time: only one of the swaps is won, however late the other one comes.

use std::time::Duration;

use kemari_control::Role;
use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::ledger::Ledger;
use crate::machine::Wire;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(60);
/// The primary's helper, which asks for consent. In brackets, so that it does not match the command that looks for it.
const HELPER: &str = "'kemari-agent authorit[y] .* alone '";
/// How long a primary that was refused is watched: it asks again after a second.
const WATCH: Duration = Duration::from_millis(1500);

/// Consent races a promotion. The primary's helper has looked at the record and is stopped just before its swap; the standby is
/// promoted by a swap of its own; then the helper goes on. Its replicator lives all the time, and must not speak.
///
/// With `unprotected=always`, since any other consent needs the standby's word or end first, and then that is not promoted. By an
/// operator's hand, since Pacemaker would end the old primary before it promotes another.
pub(super) fn late_helper(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    cluster.sh("pcs resource update web unprotected=always && settle")?;
    cluster.sh("pcs property set maintenance-mode=true")?;
    let ledger = Ledger::open(13)?;
    ledger.wait_for_answers(LIMIT)?;
    let (old, before) = (setup::primary(cluster)?, setup::record(cluster)?);
    let new = old.peer();
    cluster.node(old).put_swap_door()?;
    cluster.node(old).sh("touch /run/kemari-swap.hold")?;
    cluster.node(old).cut(Wire::Replication)?;
    cluster.wait("for the helper to be about to swap the record", LIMIT, |cluster| {
        Ok(cluster.node(old).sh("test -e /run/kemari-swap.held").is_ok())
    })?;
    cluster.node(old).sh(&format!("pkill --signal STOP --full {HELPER}"))?;
    cluster.node(new).sh("kemari-replicator promote --config /etc/kemari/web.toml")?;
    let granted = setup::record(cluster)?;
    if granted == before || setup::names(&granted) != 1 {
        return Err(ClusterError::Wrong(format!("{new} was promoted, and the record is {before} -> {granted}")));
    }
    cluster.node(old).sh(&format!("rm /run/kemari-swap.hold && pkill --signal CONT --full {HELPER}"))?;
    is_refused(cluster, old)?;
    stays_silent(cluster, old, &granted)?;
    ledger.wait_for_answers(LIMIT)?;
    cluster.node(old).remove_swap_door()?;
    cluster.node(old).heal(Wire::Replication)?;
    setup::protected(cluster, LIMIT)?;
    // Pacemaker looks anew where the guest runs.
    cluster.sh("crm_resource --refresh -r web >/dev/null 2>&1 && settle")?;
    cluster.sh("pcs property set maintenance-mode=false && pcs resource update web unprotected=")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    if setup::primary(cluster)? != new {
        return Err(ClusterError::Wrong(format!("the guest does not run on {new} any more")));
    }
    Ok(format!("{} entries; the late swap was refused", ledger.close(cluster)?))
}

/// The helper went on, and its answer was no.
fn is_refused(cluster: &Cluster, old: NodeName) -> Result<()> {
    let mut why = String::new();
    let refused = cluster.wait("for the late swap to be refused", Duration::from_secs(10), |cluster| {
        why = setup::status(cluster, old)?.authority.unwrap_or_default();
        Ok(why.contains("changed meanwhile") || why.contains("another history"))
    });
    refused.map(drop).map_err(|error| ClusterError::Wrong(format!("{error}; {old} says {why:?}")))
}

/// The old primary lives, believes that it is primary, and holds its output; the record is as the new one left it.
fn stays_silent(cluster: &Cluster, old: NodeName, granted: &str) -> Result<()> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < WATCH {
        let status = setup::status(cluster, old)?;
        let speaks = status.gate.as_ref().is_some_and(|gate| gate.open.is_some());
        if speaks || status.role != Role::Primary {
            return Err(ClusterError::Wrong(format!(
                "the old primary was to be one that is silent: {:?}, {:?}",
                status.role, status.gate
            )));
        }
        let record = setup::record(cluster)?;
        if record != granted {
            return Err(ClusterError::Wrong(format!(
                "a late helper has changed the record from {granted} to {record}"
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
