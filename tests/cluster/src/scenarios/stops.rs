//! The cluster itself is stopped: on one node, and everywhere.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(90);
/// What the guest's replicator says when it presses the power button.
const SHUT_DOWN: &str = "the guest is asked to shut down";

/// `pcs cluster stop` on the primary's node: the guest goes on on the other one, with its connections.
pub(super) fn cluster_stop_one(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(41)?;
    let primary = setup::primary(cluster)?;
    let outage = ledger.begin_measure();
    stop(cluster, &[primary], Duration::ZERO)?;
    let took = outage.end(LIMIT, || Ok(cluster.primary() == Some(primary.peer())))?;
    ledger.wait_for_answers(LIMIT)?;
    // The node has left in order, so the guest may go on without it.
    let record = setup::record_on(cluster, primary.peer())?;
    if setup::names(&record) != 1 {
        return Err(ClusterError::Wrong(format!("the node has left, and the record names it still: {record}")));
    }
    cluster.node(primary).start_cluster()?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries, silent for {} ms", ledger.close(cluster)?, took.as_millis()))
}

/// `pcs cluster stop --all`: the guest is shut down, not thrown away with what it has in memory. The two nodes hear of it at
/// about the same time, in either order.
pub(super) fn cluster_stop_all(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let mut entries = 0;
    let mut client = 42;
    for (primary_first, apart_ms) in [(true, 0), (true, 50), (true, 200), (false, 50), (false, 200)] {
        let ledger = Ledger::open(client)?;
        client += 1;
        ledger.wait_for_answers(LIMIT)?;
        let primary = setup::primary(cluster)?;
        let before = (setup::record(cluster)?, shutdowns(cluster));
        let order = if primary_first { [primary, primary.peer()] } else { [primary.peer(), primary] };
        stop(cluster, &order, Duration::from_millis(apart_ms))?;
        if shutdowns(cluster) != before.1 + 1 {
            let order = order.map(|name| name.to_string()).join(", then ");
            return Err(ClusterError::Wrong(format!(
                "{order}, {apart_ms} ms apart: the guest on {primary} was not shut down"
            )));
        }
        entries += ledger.abandon(cluster)?;
        for name in NODES {
            cluster.node(name).start_cluster()?;
        }
        setup::protected(cluster, LIMIT)?;
        setup::agrees(cluster)?;
        let after = setup::record(cluster)?;
        if after == before.0 {
            return Err(ClusterError::Wrong(format!("the guest booted again, and the record is still {after}")));
        }
    }
    let ledger = Ledger::open(client)?;
    ledger.wait_for_answers(LIMIT)?;
    ledger.close(cluster)?;
    Ok(format!("5 times, {entries} entries"))
}

/// The guest was handed over, and before the other node is told to resume it both are to stop: one of them resumes it, to shut it
/// down.
pub(super) fn stopped_between(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(57)?;
    ledger.wait_for_answers(LIMIT)?;
    let before = (setup::record(cluster)?, shutdowns(cluster));
    let primary = setup::primary(cluster)?;
    cluster.sh("pcs property set maintenance-mode=true && settle")?;
    cluster.node(primary).sh("kemari-replicator demote --config /etc/kemari/web.toml")?;
    cluster.sh("pcs resource disable web && pcs property set maintenance-mode=false && settle")?;
    cluster.wait("for both replicators to end", LIMIT, |cluster| Ok(cluster.statuses().is_empty()))?;
    let (record, shutdowns) = (setup::record(cluster)?, shutdowns(cluster));
    if shutdowns != before.1 + 1 {
        return Err(ClusterError::Wrong(format!("the guest was thrown away; the record is {record}")));
    }
    let entries = ledger.abandon(cluster)?;
    cluster.sh("pcs resource enable web && settle")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{entries} entries; record {} -> {record}", before.0))
}

/// Every node is forbidden to run it: the guest is shut down, and not handed over to a node that is not to have it either.
pub(super) fn banned_everywhere(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(58)?;
    ledger.wait_for_answers(LIMIT)?;
    let before = shutdowns(cluster);
    let ban = |node| format!("<rsc_location id=\"no-{node}\" rsc=\"web-clone\" node=\"{node}\" score=\"-INFINITY\"/>");
    let bans: String = NODES.map(ban).concat();
    cluster.sh(&format!(
        "cibadmin --modify --allow-create --scope constraints --xml-text '<constraints>{bans}</constraints>'"
    ))?;
    cluster.wait("for both replicators to end", LIMIT, |cluster| Ok(cluster.statuses().is_empty()))?;
    let shut_down = shutdowns(cluster) - before;
    if shut_down != 1 {
        return Err(ClusterError::Wrong(format!("the guest was asked to shut down {shut_down} times, not once")));
    }
    let entries = ledger.abandon(cluster)?;
    cluster.sh("for node in alpha beta; do pcs constraint delete no-$node || exit 1; done; settle")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{entries} entries"))
}

/// Does what `pcs cluster stop` does: Pacemaker ends on all of them, then Corosync does.
fn stop(cluster: &Cluster, nodes: &[NodeName], apart: Duration) -> Result<()> {
    for (index, name) in nodes.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(apart);
        }
        cluster.node(*name).stop_pacemaker()?;
    }
    cluster.wait("for Pacemaker to end", LIMIT, |cluster| {
        Ok(nodes.iter().all(|name| !cluster.node(*name).has_pacemaker()))
    })?;
    for name in nodes {
        let node = cluster.node(*name);
        node.stop_corosync()?;
        if node.status().is_ok() {
            return Err(ClusterError::Wrong(format!("{name} has left the cluster, and its replicator runs")));
        }
    }
    Ok(())
}

/// How often a guest was asked to shut down so far.
fn shutdowns(cluster: &Cluster) -> usize {
    let count = |name| cluster.node(name).replicator_log().matches(SHUT_DOWN).count();
    NODES.into_iter().map(count).sum()
}
