//! What is in `pcs-examples`, each run as an operator would.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;
use crate::floor::{disable_fencing, restart};
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(60);
const ADDRESS: &str = "172.31.7.100";

/// Runs an example on alpha. It must end by showing the state.
pub(super) fn example(cluster: &Cluster, line: &str) -> Result<()> {
    let node = cluster.node(NodeName::Alpha);
    let said = node.sh(&format!("cd {} && ./{line}", node.directory().join("examples").display()))?;
    if said.contains("Node List") {
        return Ok(());
    }
    Err(ClusterError::Wrong(format!("{line} does not show the state of the cluster at its end")))
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(ClusterError::Wrong(what.into()))
}

/// What the README says, from two bare nodes to a protected guest and a manual failover, with Pacemaker's own defaults.
pub(super) fn readme(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    if setup::exists(cluster) {
        return wrong("there is a guest already; this is to be the first scenario of a cluster");
    }
    cluster.sh("pcs property set stonith-enabled=")?;
    for name in NODES {
        cluster.node(name).sh("kemari-replicator check /etc/kemari/web.toml")?;
    }
    example(cluster, "fencing.sh alpha 192.0.2.1 beta 192.0.2.2")?;
    example(cluster, "two-nodes.sh")?;
    setup::protected(cluster, LIMIT)?;
    if setup::primary(cluster)? != NodeName::Alpha {
        return wrong("the guest was to boot on the node where two-nodes.sh was run");
    }
    shows_both(cluster)?;
    let ledger = Ledger::open(33)?;
    ledger.wait_for_answers(LIMIT)?;
    example(cluster, "manual-failover.sh")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    if setup::primary(cluster)? != NodeName::Beta {
        return wrong("manual-failover.sh did not move the guest");
    }
    // As the README promises: the loss of a whole node.
    cluster.node(NodeName::Beta).kill()?;
    ledger.wait_for_answers(LIMIT)?;
    restart(cluster, NodeName::Beta)?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    let devices = "fence-alpha fence-beta";
    cluster
        .sh(&format!("pcs property set stonith-enabled=false && for d in {devices}; do pcs stonith delete $d; done"))?;
    cluster.sh("settle")?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// An operator sees of both nodes what they are and what they hold.
fn shows_both(cluster: &Cluster) -> Result<()> {
    let mut text = String::new();
    // It is told once nothing has happened for a while.
    let shown = cluster.wait("for crm_mon to show both nodes", Duration::from_secs(20), |cluster| {
        text = cluster.sh("crm_mon -1 -A")?;
        let values = |name: &str| {
            let name = format!("* kemari-web-{name}");
            let pairs = text.lines().filter_map(|line| line.split_once(':'));
            let of_name = pairs.filter(|(left, _)| left.trim() == name);
            of_name.map(|(_, value)| value.trim().to_owned()).collect::<Vec<_>>()
        };
        let both = |name: &str, wanted: [&str; 2]| wanted.iter().all(|value| values(name).iter().any(|is| is == value));
        let twice = |name: &str| values(name).iter().filter(|value| !value.is_empty()).count() == 2;
        Ok(both("role", ["primary", "standby"])
            && both("state", ["protected", "in-sync"])
            && ["generation", "epoch", "commit-age"].into_iter().all(twice))
    });
    shown.map(drop).map_err(|error| ClusterError::Wrong(format!("{error}: {text}")))
}

pub(super) fn vip(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    example(cluster, &format!("vip.sh {ADDRESS}"))?;
    for _ in 0..2 {
        let primary = setup::primary(cluster)?;
        if cluster.node(primary).sh(&format!("ip -brief address | grep -w {ADDRESS}")).is_err() {
            return wrong(format!("{ADDRESS} is not where the guest runs"));
        }
        example(cluster, "manual-failover.sh")?;
        setup::protected(cluster, LIMIT)?;
        if setup::primary(cluster)? == primary {
            return wrong("manual-failover.sh did not move the guest");
        }
    }
    cluster.sh("pcs resource delete --force vip && settle")?;
    setup::agrees(cluster)?;
    Ok("the address follows manual-failover.sh".to_owned())
}

pub(super) fn node_health(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(30)?;
    example(cluster, "node-health.sh")?;
    let primary = setup::primary(cluster)?;
    let colour =
        |colour: &str| format!("attrd_updater --name '#health-mce' --update {colour} --node {primary} --delay 0");
    let outage = ledger.begin_measure();
    cluster.sh(&colour("red"))?;
    let took = outage.end(LIMIT, || Ok(cluster.primary() == Some(primary.peer())))?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    cluster.sh(&colour("green"))?;
    forget_health_rules(cluster)?;
    Ok(format!("{} entries, silent for {} ms", ledger.close(cluster)?, took.as_millis()))
}

/// Takes back what the examples about health have configured.
pub(super) fn forget_health_rules(cluster: &Cluster) -> Result<()> {
    cluster.sh(
        "pcs constraint delete location-web-clone && pcs property set node-health-strategy=none node-health-red= \
         && settle",
    )?;
    Ok(())
}

pub(super) fn maintenance(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(31)?;
    let primary = setup::primary(cluster)?;
    example(cluster, &format!("maintenance.sh begin {primary}"))?;
    if cluster.primary() != Some(primary.peer()) {
        return wrong("the guest has not left the node");
    }
    example(cluster, &format!("maintenance.sh end {primary}"))?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// With fencing as the example sets it up, a node dies for good, and one that knows nothing takes its place.
pub(super) fn replace_node(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    // Examples are run on alpha, which therefore is not the one to die.
    if setup::primary(cluster)? == NodeName::Alpha {
        example(cluster, "manual-failover.sh")?;
        setup::protected(cluster, LIMIT)?;
    }
    let ledger = Ledger::open(32)?;
    example(cluster, "fencing.sh --shared fence_kemari_test pcmk_host_list=alpha,beta pcmk_host_check=static-list")?;
    let dead = NodeName::Beta;
    cluster.node(dead).kill()?;
    ledger.wait_for_answers(LIMIT)?;
    cluster.node(dead).forget_everything()?;
    example(cluster, &format!("replace-node.sh {dead}"))?;
    restart(cluster, dead)?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    disable_fencing(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// The same configuration by crmsh and as XML, in place of the one by pcs.
pub(super) fn other_tools(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let examples = cluster.node(NodeName::Alpha).directory().join("examples");
    let loads = [
        format!("crm configure load update {}/two-nodes.crmsh", examples.display()),
        format!("cibadmin -M -c -o resources -x {}/two-nodes.xml", examples.display()),
    ];
    for load in &loads {
        cluster.sh("pcs resource disable web && settle && pcs resource delete --force web-clone && settle")?;
        cluster.wait("for the replicators to end", LIMIT, |cluster| Ok(cluster.statuses().is_empty()))?;
        cluster.sh(load)?;
        setup::protected(cluster, LIMIT)?;
        setup::agrees(cluster)?;
    }
    let nodes = NODES.len();
    Ok(format!("{} ways, {nodes} nodes", loads.len()))
}
