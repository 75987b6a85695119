//! Both nodes are lost at once. No memory is left, and who boots the guest from its disk is said by the record.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;
use crate::floor::{disable_fencing, enable_fencing};
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(90);
/// How long a node that must not boot is watched.
const WATCH: Duration = Duration::from_secs(5);
const CONFIG: &str = "--config /etc/kemari/web.toml";

pub(super) fn both_lost(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let plays = [
        ("the record names one", names_one as fn(&Cluster) -> Result<()>),
        ("the record names two", names_two),
        ("the operator's command", by_command),
        ("the first is fenced", first_fenced),
    ];
    let mut entries = 0;
    for (client, (what, play)) in (50..).zip(plays) {
        let wrong = |error| ClusterError::Wrong(format!("{what}: {error}"));
        let ledger = Ledger::open(client)?;
        ledger.wait_for_answers(LIMIT)?;
        play(cluster).map_err(wrong)?;
        entries += ledger.abandon(cluster).map_err(wrong)?;
        setup::protected(cluster, LIMIT).map_err(wrong)?;
        setup::agrees(cluster).map_err(wrong)?;
    }
    let ledger = Ledger::open(60)?;
    ledger.wait_for_answers(LIMIT)?;
    ledger.close(cluster)?;
    Ok(format!("{} ways, {entries} entries were on the disk", plays.len()))
}

/// The guest ran unprotected: only the node that ran it may boot it.
fn names_one(cluster: &Cluster) -> Result<()> {
    let primary = setup::primary(cluster)?;
    cluster.sh(&format!("pcs node standby {}", primary.peer()))?;
    cluster.wait("for the guest to run alone", LIMIT, |cluster| Ok(setup::names(&setup::record(cluster)?) == 1))?;
    cluster.sh(&format!("pcs node unstandby {}", primary.peer()))?;
    // Before the standby is in sync again, or not: the record that counts is the one that is found.
    let named = kill_both_naming_one(cluster, primary)?;
    cluster.node(named.peer()).start()?;
    waits(cluster, named.peer())?;
    cluster.node(named).start()?;
    boots_on(cluster, named)
}

/// Kills both while the record names the primary alone: the replication link is cut, and the standby marked outdated.
fn kill_both_naming_one(cluster: &Cluster, primary: NodeName) -> Result<NodeName> {
    cluster.node(primary).cut(crate::machine::Wire::Replication)?;
    cluster.wait("for the guest to run alone", LIMIT, |cluster| {
        let alone = setup::names(&setup::record(cluster)?) == 1;
        Ok(alone && setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
    })?;
    kill_both(cluster)?;
    Ok(primary)
}

/// The first one named boots it, and the second one waits for it.
fn names_two(cluster: &Cluster) -> Result<()> {
    let primary = setup::primary(cluster)?;
    kill_both(cluster)?;
    cluster.node(primary.peer()).start()?;
    waits(cluster, primary.peer())?;
    says_for_whom(cluster, primary)?;
    cluster.node(primary).start()?;
    boots_on(cluster, primary)
}

/// The first one named does not come back, and an operator has the second one boot it.
fn by_command(cluster: &Cluster) -> Result<()> {
    let primary = setup::primary(cluster)?;
    let second = primary.peer();
    kill_both(cluster)?;
    cluster.node(second).start()?;
    waits(cluster, second)?;
    cluster.node(second).sh(&format!("kemari-replicator promote --cold-boot {CONFIG}"))?;
    boots_on(cluster, second)?;
    cluster.node(primary).start()?;
    Ok(())
}

/// The first one named does not come back, and is fenced: the second one boots it by itself.
fn first_fenced(cluster: &Cluster) -> Result<()> {
    let primary = setup::primary(cluster)?;
    enable_fencing(cluster)?;
    kill_both(cluster)?;
    cluster.node(primary.peer()).start()?;
    boots_on(cluster, primary.peer())?;
    cluster.node(primary).start()?;
    setup::protected(cluster, LIMIT)?;
    disable_fencing(cluster)
}

fn kill_both(cluster: &Cluster) -> Result<()> {
    NODES.into_iter().try_for_each(|name| cluster.node(name).kill())
}

/// The node is up, its replicator runs, and it does not run the guest.
fn waits(cluster: &Cluster, name: NodeName) -> Result<()> {
    cluster.wait("for the replicator to start", LIMIT, |cluster| Ok(cluster.node(name).status().is_ok()))?;
    let begun = std::time::Instant::now();
    while begun.elapsed() < WATCH {
        if cluster.primary() == Some(name) {
            return Err(ClusterError::Wrong(format!("{name} boots the guest, and it is not for it to do so")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// An operator sees which node is waited for.
fn says_for_whom(cluster: &Cluster, name: NodeName) -> Result<()> {
    let text = cluster.node(name.peer()).sh("crm_mon -1 -A")?;
    if text.contains(&format!("waiting for {name}")) {
        return Ok(());
    }
    Err(ClusterError::Wrong(format!("crm_mon does not say that {name} is waited for:\n{text}")))
}

fn boots_on(cluster: &Cluster, name: NodeName) -> Result<()> {
    cluster.wait("for the guest to boot", LIMIT, |cluster| Ok(cluster.primary().is_some()))?;
    if cluster.primary() == Some(name) {
        return Ok(());
    }
    Err(ClusterError::Wrong(format!("the guest was to boot on {name}, and runs on {:?}", cluster.primary())))
}
