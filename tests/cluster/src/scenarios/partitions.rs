//! Links that are cut while both nodes live: every combination of link, direction and fencing, and what follows when it heals.

use std::fmt;
use std::time::Duration;

use kemari_control::Role;
use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;
use crate::floor::{disable_fencing, enable_fencing, restart};
use crate::ledger::Ledger;
use crate::machine::Wire;
use crate::report::Timings;

const LIMIT: Duration = Duration::from_secs(120);
/// Corosync has noticed by then, and Pacemaker has decided.
const DECIDED: Duration = Duration::from_secs(6);

/// What the primary and the standby do not hear of each other any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaf {
    Both,
    Primary,
    Standby,
}

/// What is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The standby is outdated through the cluster, and the guest goes on where it runs.
    GoesOn,
    /// One node is fenced, and the guest goes on on the other.
    Fenced,
    /// The guest is protected all the time, or goes on alone because its standby has left; nobody is fenced.
    Unmoved,
    /// It stands still until the link heals.
    StandsStill,
}

struct Cut {
    wires: &'static [Wire],
    deaf: Deaf,
    fencing: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fencing = if self.fencing { "with fencing" } else { "without fencing" };
        write!(f, "{:?} cut, deaf: {:?}, {fencing}", self.wires, self.deaf)
    }
}

impl Cut {
    fn then(&self) -> Then {
        match (self.wires, self.fencing) {
            ([Wire::Replication], _) => Then::GoesOn,
            (_, true) => Then::Fenced,
            ([Wire::Ring], false) => Then::Unmoved,
            (_, false) => Then::StandsStill,
        }
    }

    fn make(&self, cluster: &Cluster, primary: NodeName) -> Result<()> {
        for wire in self.wires {
            match self.deaf {
                Deaf::Both => cluster.node(primary.peer()).cut(*wire)?,
                Deaf::Primary => cluster.node(primary).deafen(*wire)?,
                Deaf::Standby => cluster.node(primary.peer()).deafen(*wire)?,
            }
        }
        Ok(())
    }

    fn heal(&self, cluster: &Cluster) -> Result<()> {
        for name in NODES {
            // A host that was switched off has no wires.
            let node = cluster.node(name);
            for wire in self.wires.iter().filter(|_| node.is_on()) {
                node.undeafen(*wire)?;
                node.heal(*wire)?;
            }
        }
        Ok(())
    }
}

/// Without fencing; a table for each, since fencing takes its time.
pub(super) fn without_fencing(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    // A promotion that is refused is tried again for as long as it may take.
    cluster.sh("pcs resource update web op promote interval=0s timeout=15s && settle")?;
    let said = table(cluster, false, 70)?;
    cluster.sh("pcs resource update web op promote interval=0s timeout=60s && settle")?;
    Ok(said)
}

pub(super) fn with_fencing(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    enable_fencing(cluster)?;
    let said = table(cluster, true, 80)?;
    disable_fencing(cluster)?;
    Ok(said)
}

fn table(cluster: &Cluster, fencing: bool, first_client: u32) -> Result<String> {
    let wires: [&[Wire]; 3] = [&[Wire::Replication], &[Wire::Ring], &[Wire::Ring, Wire::Replication]];
    let cuts = wires
        .into_iter()
        .flat_map(|wires| [Deaf::Both, Deaf::Primary, Deaf::Standby].map(|deaf| Cut { wires, deaf, fencing }));
    let mut entries = 0;
    let mut count = 0;
    for (client, cut) in (first_client..).zip(cuts) {
        let ledger = Ledger::open(client)?;
        let wrong = |error| ClusterError::Wrong(format!("{cut}: {error}"));
        play(cluster, &ledger, &cut).map_err(wrong)?;
        entries += ledger.close(cluster).map_err(wrong)?;
        count += 1;
    }
    Ok(format!("{count} cuts, {entries} entries"))
}

fn play(cluster: &Cluster, ledger: &Ledger, cut: &Cut) -> Result<()> {
    let primary = setup::primary(cluster)?;
    ledger.wait_for_answers(LIMIT)?;
    cut.make(cluster, primary)?;
    match cut.then() {
        Then::GoesOn => {
            cluster.wait("for consent", LIMIT, |cluster| {
                Ok(setup::status(cluster, primary)?.gate.is_some_and(|gate| gate.open.is_some()))
            })?;
            ledger.wait_for_answers(LIMIT)?;
            let record = setup::record(cluster)?;
            if setup::names(&record) != 1 {
                return wrong(format!("the guest runs alone, and the record names both: {record}"));
            }
        }
        Then::Fenced => {
            let fenced = |cluster: &Cluster| NODES.into_iter().find(|name| !cluster.node(*name).is_on());
            cluster.wait("for a node to be fenced", LIMIT, |cluster| Ok(fenced(cluster).is_some()))?;
            let Some(loser) = fenced(cluster) else { return wrong("nobody is fenced") };
            ledger.wait_for_answers(LIMIT)?;
            if cluster.primary() != Some(loser.peer()) {
                return wrong(format!("{loser} was fenced, and the guest does not run on the other node"));
            }
            cut.heal(cluster)?;
            restart(cluster, loser)?;
        }
        Then::Unmoved => {
            std::thread::sleep(DECIDED);
            one_speaks(cluster, primary)?;
            ledger.wait_for_answers(LIMIT)?;
        }
        Then::StandsStill => {
            std::thread::sleep(DECIDED);
            one_speaks(cluster, primary)?;
            if !ledger.is_silent_for(Duration::from_secs(2)) {
                return wrong("the guest speaks, and nobody knows that the other node is silent");
            }
            says_why(cluster, primary)?;
        }
    }
    cut.heal(cluster)?;
    cluster.wait("for the cluster to be one again", LIMIT, |cluster| {
        Ok(cluster.sh("crm_mon -1").is_ok_and(|text| text.contains("Online: [ alpha beta ]")))
    })?;
    ledger.wait_for_answers(LIMIT)?;
    // A promotion that was begun in a part of the cluster goes on after that, and ends with a stop: that is not to meet the next cut.
    cluster.wait("for a vain promotion to end", LIMIT, |cluster| {
        Ok(NODES.into_iter().all(|name| cluster.node(name).sh("pgrep --full 'kemari-agent ocf promot[e]'").is_err()))
    })?;
    cluster.sh("settle")?;
    // What has failed meanwhile times out by itself.
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)
}

/// Nobody else was promoted.
fn one_speaks(cluster: &Cluster, primary: NodeName) -> Result<()> {
    let primaries: Vec<NodeName> = cluster
        .statuses()
        .into_iter()
        .filter(|(_, status)| status.role == Role::Primary)
        .map(|(name, _)| name)
        .collect();
    if primaries == [primary] { Ok(()) } else { wrong(format!("the guest runs on {primaries:?}, not on {primary}")) }
}

/// The primary's operator is told what it waits for.
fn says_why(cluster: &Cluster, primary: NodeName) -> Result<()> {
    let said = setup::status(cluster, primary)?.authority.unwrap_or_default();
    let shown = cluster.node(primary).sh("crm_mon -1 -A")?;
    if !said.contains("was not fenced") {
        return wrong(format!("status does not say what is missing: {said:?}"));
    }
    if !shown.contains("was not fenced") {
        return wrong(format!("crm_mon does not say what is missing:\n{shown}"));
    }
    Ok(())
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(ClusterError::Wrong(what.into()))
}
