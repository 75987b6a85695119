//! A node whose memory fails: the guest leaves it before it dies.

use std::time::{Duration, Instant};

use kemari_site::NodeName;

use super::{Result, setup};
use crate::cluster::{Cluster, NODES};
use crate::error::ClusterError;
use crate::ledger::Ledger;
use crate::report::{MEMORY_FAILED, Timings};

const LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);
/// Corrected errors of one DIMM that put it in doubt (the default is 10 in 24 h).
const CORRECTED: u32 = 12;
/// A kernel's log as it was captured.
const CAPTURED: &str = include_str!("../../../fixtures/mce/edac-ie31200-epyc-rasdaemon-ok.kmsg");

/// The first that the captured kernel said of a kind of error: what follows the number and time of the record.
fn captured(kind: &str) -> Result<&'static str> {
    let said = CAPTURED.lines().filter_map(|line| line.split_once(';')).map(|(_, text)| text);
    let mut edac = said.filter(|text| text.starts_with("EDAC MC0: ") && text.contains(kind));
    edac.next().ok_or_else(|| ClusterError::Wrong(format!("the captured log has no {kind}")))
}

pub(super) fn memory_fails(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    NODES.into_iter().try_for_each(|name| configure(cluster, name))?;
    let ledger = Ledger::open(35)?;
    super::examples::example(cluster, "health-mce.sh demote")?;
    for _ in 0..repeat {
        let primary = setup::primary(cluster)?;
        (0..CORRECTED).try_for_each(|_| kernel_says(cluster, primary, captured(" CE ")?))?;
        becomes(cluster, primary, "yellow")?;
        if cluster.primary() != Some(primary) {
            return Err(ClusterError::Wrong("corrected errors have moved the guest".to_owned()));
        }
        setup::rest();
        let begun = Instant::now();
        kernel_says(cluster, primary, captured(" UE ")?)?;
        while cluster.primary() != Some(primary.peer()) {
            if begun.elapsed() > LIMIT {
                return Err(ClusterError::TooLong {
                    what: "for the guest to move".to_owned(),
                    seconds: LIMIT.as_secs(),
                });
            }
            std::thread::sleep(TICK);
        }
        ledger.wait_for_an_answer(LIMIT)?;
        timings.guest(MEMORY_FAILED, begun.elapsed());
        setup::protected(cluster, LIMIT)?;
        becomes(cluster, primary, "red")?;
        cluster.node(primary).sh("kemari-mce-monitor clear")?;
        becomes(cluster, primary, "green")?;
        setup::agrees(cluster)?;
    }
    forget(cluster)?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// The same where everything leaves the node: the guest runs unprotected until an operator says that it is well.
pub(super) fn memory_fails_migrate(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    NODES.into_iter().try_for_each(|name| configure(cluster, name))?;
    let ledger = Ledger::open(34)?;
    super::examples::example(cluster, "health-mce.sh migrate")?;
    let primary = setup::primary(cluster)?;
    becomes(cluster, primary, "green")?;
    kernel_says(cluster, primary, captured(" UE ")?)?;
    cluster.wait("for the guest to leave the node", LIMIT, |cluster| Ok(cluster.primary() == Some(primary.peer())))?;
    cluster.wait("for its standby to leave it, too", LIMIT, |cluster| Ok(cluster.statuses().len() == 1))?;
    ledger.wait_for_answers(LIMIT)?;
    becomes(cluster, primary, "red")?;
    cluster.node(primary).sh("kemari-mce-monitor clear")?;
    setup::protected(cluster, LIMIT)?;
    setup::agrees(cluster)?;
    cluster.sh("pcs resource delete --force health-mce && pcs property set node-health-strategy=none && settle")?;
    NODES.into_iter().try_for_each(|name| unconfigure(cluster, name))?;
    Ok(format!("{} entries", ledger.close(cluster)?))
}

/// A monitor whose kernel is a FIFO.
pub(super) fn configure(cluster: &Cluster, name: NodeName) -> Result<()> {
    let node = cluster.node(name);
    let place = node.directory().join("hardware");
    let place = place.display();
    node.sh(&format!(
        "mkdir -p {place} && mkfifo {place}/kmsg && cat >/etc/kemari/mce-monitor.toml <<'EOF'\n[sources]\ntracefs = \
         \"{place}/tracefs\"\nsysfs = \"{place}/sysfs\"\nkmsg = \"{place}/kmsg\"\nmcelog = \"{place}/mcelog\"\nnetlink = \
         false\n[daemon]\nstate = \"{place}/state.json\"\n[cluster]\nnode = \"{name}\"\nEOF\n"
    ))
    .map(drop)
}

/// A record of the kernel's log: priority, number, microseconds since the boot.
fn kernel_says(cluster: &Cluster, name: NodeName, what: &str) -> Result<()> {
    let node = cluster.node(name);
    let kmsg = node.directory().join("hardware/kmsg");
    let line = format!(
        "read up idle </proc/uptime; n=$(cat {0}.n 2>/dev/null || echo 1); echo $((n + 1)) >{0}.n; \
         printf '4,%d,%s0000,-;%s\\n' $n $(echo $up | tr -d .) '{what}' >{0}",
        kmsg.display()
    );
    node.sh(&line).map(drop)
}

fn becomes(cluster: &Cluster, name: NodeName, colour: &str) -> Result<()> {
    cluster.wait(&format!("for {name} to become {colour}"), LIMIT, |cluster| {
        let said = cluster.node(name).sh(&format!("attrd_updater --query --name '#health-mce' --node {name}"));
        Ok(said.is_ok_and(|said| said.contains(&format!("value=\"{colour}\""))))
    })?;
    Ok(())
}

fn forget(cluster: &Cluster) -> Result<()> {
    cluster.sh("pcs resource delete --force health-mce && settle")?;
    super::examples::forget_health_rules(cluster)?;
    NODES.into_iter().try_for_each(|name| unconfigure(cluster, name))
}

pub(super) fn unconfigure(cluster: &Cluster, name: NodeName) -> Result<()> {
    let node = cluster.node(name);
    let place = node.directory().join("hardware");
    node.sh(&format!("rm -rf {} /etc/kemari/mce-monitor.toml", place.display())).map(drop)
}
