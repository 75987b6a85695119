//! Two that want the record at the same time: only one of the swaps is won, however late the other one comes.

use std::time::{Duration, Instant};

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
const LOOK: Duration = Duration::from_millis(100);

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
    is_refused(cluster, old, &granted)?;
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

/// The helper goes on, and its answer is no. The old primary lives, believes that it is primary, and holds its output all the time;
/// the record stays as the new one left it.
fn is_refused(cluster: &Cluster, old: NodeName, granted: &str) -> Result<()> {
    let (begun, mut refused_at) = (Instant::now(), None);
    while refused_at.is_none_or(|at: Instant| at.elapsed() < WATCH) {
        let record = setup::record(cluster)?;
        if record != granted {
            return Err(ClusterError::Wrong(format!(
                "a late helper has changed the record from {granted} to {record}"
            )));
        }
        let status = setup::status(cluster, old)?;
        let speaks = status.gate.as_ref().is_some_and(|gate| gate.open.is_some());
        if speaks || status.role != Role::Primary {
            let (role, gate) = (status.role, status.gate);
            return Err(ClusterError::Wrong(format!("{old} was to be a primary that is silent: {role:?}, {gate:?}")));
        }
        let why = status.authority.unwrap_or_default();
        if why.contains("changed meanwhile") || why.contains("another history") {
            refused_at.get_or_insert_with(Instant::now);
        } else if begun.elapsed() > LIMIT {
            return Err(ClusterError::Wrong(format!("the late swap is not refused: {why:?}")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
