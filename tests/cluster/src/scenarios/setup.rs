//! What every scenario begins with.

use std::time::Duration;

use kemari_control::{Replication, Status};
use kemari_site::NodeName;

use super::Result;
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;

const LIMIT: Duration = Duration::from_secs(60);

/// A guest that is protected: made if there is none, waited for otherwise.
pub(super) fn ready(cluster: &Cluster) -> Result<()> {
    if !exists(cluster) {
        let examples = cluster.node(NodeName::Alpha).directory().join("examples");
        // On alpha, in any case: it is the one that is to boot the guest.
        cluster.node(NodeName::Alpha).sh(&format!("{}/two-nodes.sh", examples.display()))?;
    }
    protected(cluster, LIMIT).map(drop)
}

/// Lets the cluster come to rest before something is measured: what operators read is told 2 s after the last event. Two nodes that
/// change the CIB at the same moment make it try again after 1 s, whatever is changed; that is Pacemaker's.
pub(super) fn rest() {
    std::thread::sleep(Duration::from_secs(3));
}

/// Whether the cluster has a guest.
pub(super) fn exists(cluster: &Cluster) -> bool {
    cluster.sh("crm_resource --query-xml -r web-clone >/dev/null 2>&1 && echo there").is_ok()
}

/// Waits until the guest runs on one node, is protected by the other, and the record names both.
pub(super) fn protected(cluster: &Cluster, limit: Duration) -> Result<Duration> {
    cluster.wait("for the guest to be protected", limit, |cluster| {
        let statuses = cluster.statuses();
        let is = |wanted| statuses.iter().any(|(_, status)| status.replication == wanted);
        Ok(is(Replication::Protected)
            && is(Replication::InSync)
            && record(cluster).is_ok_and(|record| names(&record) == 2))
    })
}

/// Where the guest runs.
pub(super) fn primary(cluster: &Cluster) -> Result<NodeName> {
    cluster.primary().ok_or_else(|| ClusterError::Wrong("the guest runs nowhere".to_owned()))
}

/// One node's status.
pub(super) fn status(cluster: &Cluster, name: NodeName) -> Result<Status> {
    cluster.node(name).status()
}

/// Prints the record.
const READ_RECORD: &str =
    "cibadmin --query --xpath \"//nvpair[@name='kemari-web']\" | sed -n 's/.*value=\"\\([^\"]*\\)\".*/\\1/p'";

/// The record in the CIB.
pub(super) fn record(cluster: &Cluster) -> Result<String> {
    Ok(cluster.sh(READ_RECORD)?.trim().to_owned())
}

/// The record in the CIB of one node, which may be in the cluster alone.
pub(super) fn record_on(cluster: &Cluster, name: NodeName) -> Result<String> {
    Ok(cluster.node(name).sh(READ_RECORD)?.trim().to_owned())
}

/// How many nodes a record names.
pub(super) fn names(record: &str) -> usize {
    record.split(' ').nth(2).map_or(0, |nodes| nodes.split(',').count())
}

/// Lets the cluster forget failures, so that a node whose replicator failed may have one again.
pub(super) fn forgive(cluster: &Cluster) -> Result<()> {
    cluster.sh("crm_resource --cleanup -r web >/dev/null 2>&1")?;
    protected(cluster, LIMIT).map(drop)
}

/// Whether Pacemaker believes what is so: the guest promoted where it runs.
pub(super) fn agrees(cluster: &Cluster) -> Result<()> {
    cluster.sh("settle")?;
    let text = cluster.sh("crm_resource --locate -r web-clone 2>/dev/null")?;
    let promoted = |line: &&str| line.contains("Promoted") || line.contains("Master");
    let believed =
        NODES.into_iter().find(|name| text.lines().filter(promoted).any(|line| line.contains(name.as_str())));
    let runs = cluster.primary();
    if believed == runs && runs.is_some() {
        return Ok(());
    }
    Err(ClusterError::Wrong(format!("the guest runs on {runs:?}, and Pacemaker believes {believed:?}")))
}
