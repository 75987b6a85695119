//! What is moved on purpose.

use std::time::Duration;

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::ledger::Ledger;
use crate::report::{MOVED, Timings};

const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn moved(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    let ledger = Ledger::open(20)?;
    for verb in ["--move", "--ban"].into_iter().cycle().take(repeat.max(2)) {
        let primary = setup::primary(cluster)?;
        let outage = ledger.begin_measure();
        cluster.sh(&format!("crm_resource {verb} -r web-clone --promoted"))?;
        timings.guest(MOVED, outage.end(LIMIT, || Ok(cluster.primary() == Some(primary.peer())))?);
        cluster.sh("crm_resource --clear -r web-clone")?;
        setup::protected(cluster, LIMIT)?;
        setup::agrees(cluster)?;
        if setup::primary(cluster)? == primary {
            return Err(ClusterError::Wrong("the guest went back by itself".to_owned()));
        }
    }
    Ok(format!("{} entries", ledger.close(cluster)?))
}

pub(super) fn node_standby(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(21)?;
    let primary = setup::primary(cluster)?;
    let outage = ledger.begin_measure();
    cluster.sh(&format!("pcs node standby {primary}"))?;
    let took = outage.end(LIMIT, || Ok(cluster.primary() == Some(primary.peer())))?;
    cluster.sh("settle")?;
    if cluster.statuses().len() != 1 {
        return Err(ClusterError::Wrong("a replicator runs on a node in standby".to_owned()));
    }
    ledger.wait_for_answers(LIMIT)?;
    cluster.sh(&format!("pcs node unstandby {primary}"))?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    Ok(format!("{} entries, silent for {} ms", ledger.close(cluster)?, took.as_millis()))
}

pub(super) fn disabled(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(22)?;
    ledger.wait_for_answers(LIMIT)?;
    let before = setup::record(cluster)?;
    cluster.sh("pcs resource disable web && settle")?;
    if !cluster.statuses().is_empty() {
        return Err(ClusterError::Wrong("a replicator runs though the guest is disabled".to_owned()));
    }
    let entries = ledger.abandon(cluster)?;
    cluster.sh("pcs resource enable web && settle")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    let after = setup::record(cluster)?;
    let ledger = Ledger::open(23)?;
    ledger.wait_for_answers(LIMIT)?;
    ledger.close(cluster)?;
    Ok(format!("{entries} entries; record {before} -> {after}"))
}
