//! The parameter `unprotected`, changed while the guest runs: whether it goes on without its standby.

use std::time::Duration;

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::floor::restart;
use crate::ledger::Ledger;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(60);
/// Corosync has noticed by then, and Pacemaker has decided.
const DECIDED: Duration = Duration::from_secs(5);
/// What operators look at is told once nothing has happened for a while.
const SHOWN: Duration = Duration::from_secs(10);

pub(super) fn unprotected(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    let ledger = Ledger::open(90)?;
    let primary = setup::primary(cluster)?;
    let pid = setup::status(cluster, primary)?.pid;
    for (value, play) in [
        ("never", never as fn(&Cluster, &Ledger, NodeName) -> Result<()>),
        ("fenced", fenced),
        ("always", always),
        ("fenced", by_word),
    ] {
        let wrong = |error| ClusterError::Wrong(format!("unprotected={value}: {error}"));
        cluster.sh(&format!("pcs resource update web unprotected={value} && settle"))?;
        ledger.wait_for_answers(LIMIT).map_err(wrong)?;
        play(cluster, &ledger, primary).map_err(wrong)?;
        setup::protected(cluster, LIMIT).map_err(wrong)?;
        setup::agrees(cluster).map_err(wrong)?;
    }
    let status = setup::status(cluster, primary)?;
    if status.pid != pid {
        return Err(ClusterError::Wrong(
            "a parameter that can be changed while the guest runs has restarted it".to_owned(),
        ));
    }
    cluster.sh("pcs resource update web unprotected= && settle")?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// It waits for a standby, though the one that it had is certainly gone.
fn never(cluster: &Cluster, ledger: &Ledger, primary: NodeName) -> Result<()> {
    cluster.node(primary.peer()).signal_replicator("KILL")?;
    stands_still(cluster, ledger, primary, "unprotected=never")?;
    // The standby is started again once its failure has timed out.
    setup::protected(cluster, LIMIT)?;
    ledger.wait_for_answers(LIMIT)
}

/// It goes on as soon as the standby is known to be silent.
fn fenced(cluster: &Cluster, ledger: &Ledger, primary: NodeName) -> Result<()> {
    cluster.node(primary.peer()).signal_replicator("KILL")?;
    goes_on(cluster, ledger, primary)
}

/// It goes on though nothing is known about its standby.
fn always(cluster: &Cluster, ledger: &Ledger, primary: NodeName) -> Result<()> {
    cluster.node(primary.peer()).kill()?;
    goes_on(cluster, ledger, primary)?;
    restart(cluster, primary.peer())
}

/// A standby's node is lost, and nobody can fence it: it goes on by an operator's word.
fn by_word(cluster: &Cluster, ledger: &Ledger, primary: NodeName) -> Result<()> {
    cluster.node(primary.peer()).kill()?;
    stands_still(cluster, ledger, primary, "was not fenced")?;
    cluster.node(primary).sh("kemari-replicator run-unprotected --socket /run/kemari/web.sock")?;
    goes_on(cluster, ledger, primary)?;
    restart(cluster, primary.peer())
}

fn goes_on(cluster: &Cluster, ledger: &Ledger, primary: NodeName) -> Result<()> {
    cluster.wait("for the guest to go on alone", LIMIT, |cluster| {
        Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    let record = setup::record_on(cluster, primary)?;
    if setup::names(&record) == 1 {
        return Ok(());
    }
    Err(ClusterError::Wrong(format!("the guest runs alone, and the record names both: {record}")))
}

/// The guest is silent, and an operator sees why.
fn stands_still(cluster: &Cluster, ledger: &Ledger, primary: NodeName, why: &str) -> Result<()> {
    std::thread::sleep(DECIDED);
    if !ledger.is_silent_for(Duration::from_secs(1)) {
        return Err(ClusterError::Wrong("the guest speaks without standby".to_owned()));
    }
    let shows = |place: &str, text: &dyn Fn() -> Result<String>| {
        let what = format!("for {place} to say {why:?}");
        cluster.wait(&what, SHOWN, |_| Ok(text()?.contains(why))).map(drop)
    };
    shows("status", &|| Ok(setup::status(cluster, primary)?.authority.unwrap_or_default()))?;
    shows("the log", &|| Ok(cluster.node(primary).replicator_log()))?;
    shows("crm_mon -A", &|| cluster.node(primary).sh("crm_mon -1 -A"))
}
