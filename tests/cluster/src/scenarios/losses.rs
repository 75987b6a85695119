//! What is lost without notice.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::floor::restart;
use crate::ledger::Ledger;
use crate::machine::Wire;
use crate::report::{KILLED, NODE_LOST, PROTECTED_AGAIN, STANDBY_LOST, Timings};

const LIMIT: Duration = Duration::from_secs(60);

/// Whether the guest runs on that node.
fn runs_on(cluster: &Cluster, name: NodeName) -> impl FnMut() -> Result<bool> {
    move || Ok(cluster.primary() == Some(name))
}

/// Kills the primary replicator, and waits until the guest answers from the other node.
/// Returns how long the guest was silent, and its TCP connection.
fn kill_primary(cluster: &Cluster, ledger: &Ledger) -> Result<[Duration; 2]> {
    setup::rest();
    let primary = setup::primary(cluster)?;
    let outage = ledger.begin_measure();
    cluster.node(primary).signal_replicator("KILL")?;
    let took = outage.end(LIMIT, runs_on(cluster, primary.peer()))?;
    ledger.wait_for_answers(LIMIT)?;
    Ok([took, ledger.take_connection_gap()])
}

/// What a scenario says of its TCP connection.
fn connection(gaps: &[Duration]) -> String {
    let gaps: Vec<String> = gaps.iter().map(|gap| format!("{:.2} s", gap.as_secs_f64())).collect();
    format!("the TCP connection silent for {}", gaps.join(", "))
}

pub(super) fn primary_killed(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    let ledger = Ledger::open(1)?;
    let mut gaps = Vec::new();
    for _ in 0..repeat {
        let [took, gap] = kill_primary(cluster, &ledger)?;
        timings.guest(KILLED, took);
        gaps.push(gap);
        setup::agrees(cluster)?;
        setup::forgive(cluster)?;
    }
    Ok(format!("{} entries; {}", ledger.close(cluster)?, connection(&gaps)))
}

pub(super) fn three_failovers(cluster: &Cluster, timings: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(2)?;
    for _ in 0..3 {
        let [took, _] = kill_primary(cluster, &ledger)?;
        timings.guest(KILLED, took);
        // Nobody forgives here: the node comes back when the failure has timed out.
        setup::protected(cluster, LIMIT)?;
    }
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn standby_killed(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    let ledger = Ledger::open(3)?;
    let primary = setup::primary(cluster)?;
    for _ in 0..repeat {
        setup::rest();
        let outage = ledger.begin_measure();
        cluster.node(primary.peer()).signal_replicator("KILL")?;
        let alone = || Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()));
        timings.guest(STANDBY_LOST, outage.end(LIMIT, alone)?);
        ledger.wait_for_answers(LIMIT)?;
        cluster.sh("crm_resource --cleanup -r web >/dev/null 2>&1")?;
        cluster.wait("for the standby to return", LIMIT, |cluster| Ok(cluster.statuses().len() == 2))?;
        timings.guest(PROTECTED_AGAIN, setup::protected(cluster, LIMIT)?);
    }
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn primary_hangs(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(4)?;
    let primary = setup::primary(cluster)?;
    cluster.node(primary).signal_replicator("STOP")?;
    // The standby hears nothing, but that is for the cluster to judge: its monitor action does not come back.
    cluster.wait("for the other node to take over", Duration::from_secs(90), |cluster| {
        Ok(cluster.node(primary.peer()).status().is_ok_and(|status| status.role == kemari_control::Role::Primary))
    })?;
    // If it was not ended meanwhile, it wakes to find that it is not primary any more.
    let _ = cluster.node(primary).signal_replicator("CONT");
    ledger.wait_for_answers(LIMIT)?;
    setup::forgive(cluster)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn replication_cut(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let primary = setup::primary(cluster)?;
    let both_ways = cut_replication(
        cluster,
        5,
        || cluster.node(primary).cut(Wire::Replication),
        || cluster.node(primary).heal(Wire::Replication),
    )?;
    // Only what the primary sends is lost.
    let route = |what: &str| {
        cluster.node(primary).sh(&format!("ip route {what} blackhole {}", address(primary.peer()))).map(drop)
    };
    let one_way = cut_replication(cluster, 12, || route("add"), || route("del"))?;
    Ok(format!("protected again {both_ways:.1} s after healing, {one_way:.1} s if only one way was cut"))
}

/// A node's address in the replication network.
fn address(name: NodeName) -> String {
    format!("172.31.8.{}", if name == NodeName::Alpha { 1 } else { 2 })
}

/// The primary gets consent over the cluster's link, and is protected again after healing: how many seconds later.
fn cut_replication(
    cluster: &Cluster,
    client: u32,
    cut: impl Fn() -> Result<()>,
    heal: impl Fn() -> Result<()>,
) -> Result<f64> {
    let ledger = Ledger::open(client)?;
    let primary = setup::primary(cluster)?;
    cut()?;
    cluster.wait("for consent", LIMIT, |cluster| {
        Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    let record = setup::record(cluster)?;
    if setup::names(&record) != 1 {
        return Err(ClusterError::Wrong(format!("the guest runs alone, and the record names both: {record}")));
    }
    heal()?;
    let again = setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    ledger.close(cluster)?;
    Ok(again.as_secs_f64())
}

/// A standby that cannot start: the guest runs on, and an operator sees why.
pub(super) fn failed_start(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(14)?;
    let primary = setup::primary(cluster)?;
    let standby = primary.peer();
    cluster.node(standby).sh("ip link del tap-web")?;
    cluster.node(standby).signal_replicator("KILL")?;
    cluster.wait("for the failure to be shown", LIMIT, |cluster| {
        Ok(cluster.sh("crm_mon -1 -f 2>&1")?.contains("tap-web"))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    cluster.node(standby).sh("ip tuntap add tap-web mode tap vnet_hdr && ip link set tap-web master br-web up")?;
    setup::forgive(cluster)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn standby_node_lost(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(6)?;
    let primary = setup::primary(cluster)?;
    cluster.node(primary.peer()).kill()?;
    let took = cluster.wait("for consent", LIMIT, |cluster| {
        Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    restart(cluster, primary.peer())?;
    setup::protected(cluster, LIMIT)?;
    Ok(format!("{} entries, consent after {:.1} s", ledger.close(cluster)?, took.as_secs_f64()))
}

pub(super) fn primary_node_lost(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    let ledger = Ledger::open(7)?;
    let mut gaps = Vec::new();
    for _ in 0..repeat.min(2) {
        setup::rest();
        let primary = setup::primary(cluster)?;
        let outage = ledger.begin_measure();
        cluster.node(primary).kill()?;
        timings.guest(NODE_LOST, outage.end(LIMIT, runs_on(cluster, primary.peer()))?);
        ledger.wait_for_answers(LIMIT)?;
        gaps.push(ledger.take_connection_gap());
        restart(cluster, primary)?;
        setup::protected(cluster, LIMIT)?;
    }
    setup::agrees(cluster)?;
    Ok(format!("{} entries; {}", ledger.close(cluster)?, connection(&gaps)))
}

pub(super) fn ring_cut(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    cut_and_fence(cluster, &[Wire::Ring], 8)
}

pub(super) fn both_cut(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    cut_and_fence(cluster, &[Wire::Ring, Wire::Replication], 9)
}

/// Both nodes live and cannot see each other: one is fenced, and the guest goes on on the other.
fn cut_and_fence(cluster: &Cluster, wires: &[Wire], client: u32) -> Result<String> {
    let ledger = Ledger::open(client)?;
    let primary = setup::primary(cluster)?;
    for wire in wires {
        cluster.node(primary.peer()).cut(*wire)?;
    }
    let fenced = |cluster: &Cluster| [primary, primary.peer()].into_iter().find(|name| !cluster.node(*name).is_on());
    cluster.wait("for a node to be fenced", LIMIT, |cluster| Ok(fenced(cluster).is_some()))?;
    let Some(loser) = fenced(cluster) else { return Err(ClusterError::Wrong("nobody is fenced".to_owned())) };
    ledger.wait_for_answers(LIMIT)?;
    if cluster.primary() != Some(loser.peer()) {
        return Err(ClusterError::Wrong(format!("{loser} was fenced, and the guest does not run on the other node")));
    }
    restart(cluster, loser)?;
    setup::protected(cluster, LIMIT)?;
    Ok(format!("{} entries; {loser} was fenced", ledger.close(cluster)?))
}

pub(super) fn no_fencing(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(10)?;
    let primary = setup::primary(cluster)?;
    cluster.node(primary).kill()?;
    std::thread::sleep(Duration::from_secs(6));
    if !ledger.is_silent_for(Duration::from_secs(2)) {
        return Err(ClusterError::Wrong("the guest speaks, and nobody knows that the lost node is silent".to_owned()));
    }
    let text = cluster.node(primary.peer()).sh("crm_mon -1 -A -f 2>&1")?;
    if !text.contains("fenc") {
        return Err(ClusterError::Wrong(format!("crm_mon does not say what is missing:\n{text}")));
    }
    // The lost node returns. Neither has a running guest; the standby's image is the newest there is.
    restart(cluster, primary)?;
    cluster.sh("crm_resource --cleanup -r web >/dev/null 2>&1")?;
    setup::protected(cluster, LIMIT)?;
    ledger.wait_for_answers(LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn fence_broken(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(11)?;
    let primary = setup::primary(cluster)?;
    cluster.fence.set_working(false)?;
    cluster.node(primary).kill()?;
    std::thread::sleep(Duration::from_secs(5));
    if !ledger.is_silent_for(Duration::from_secs(2)) {
        return Err(ClusterError::Wrong("the guest speaks, and the lost node was not fenced".to_owned()));
    }
    cluster.fence.set_working(true)?;
    // As an operator would who has repaired it, or has pulled the plug.
    cluster.sh(&format!("stonith_admin --fence {primary} --timeout 20"))?;
    ledger.wait_for_answers(LIMIT)?;
    restart(cluster, primary)?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}
