//! The floor: the same events with `ocf:pacemaker:Stateful`, which does nothing but remember its role.
//!
//! A wrapper around it leaves a file when its promote action has ended, which is when its service would answer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kemari_site::NodeName;

use crate::cluster::{Cluster, NODES};
use crate::error::{ClusterError, io};
use crate::report::{KILLED, MEMORY_FAILED, MOVED, NODE_LOST, Timings};

const LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// The wrapper, with the directory for the files in place of `@DIR@`.
const WRAPPER: &str = r#"#!/bin/sh
# ocf:pacemaker:Stateful, leaving a file when it was promoted.
/usr/lib/ocf/resource.d/pacemaker/Stateful "$@"
status=$?
[ "$1" = promote ] && [ $status = 0 ] && : >"@DIR@/promoted"
exit $status
"#;

/// Takes every timing `repeat` times.
pub(crate) fn measure(cluster: &Cluster, timings: &mut Timings, repeat: usize) -> Result<String, ClusterError> {
    install(cluster)?;
    cluster.sh(
        "pcs resource create floor ocf:kemari:floor op monitor interval=10s role=Promoted monitor interval=11s \
         role=Unpromoted promotable promoted-max=1 clone-max=2 interleave=true migration-threshold=1 failure-timeout=1s priority=10",
    )?;
    settle(cluster)?;
    for _ in 0..repeat {
        let primary = promoted(cluster)?;
        let failed = format!("crm_resource --fail -r floor -N {primary}");
        timings.floor(KILLED, until_promoted(cluster, || cluster.node(primary).sh(&failed).map(drop))?);
        cluster.sh("sleep 1; crm_resource --cleanup -r floor >/dev/null 2>&1")?;
        settle(cluster)?;
        let line = "crm_resource --move -r floor-clone --promoted";
        timings.floor(MOVED, until_promoted(cluster, || cluster.sh(line).map(drop))?);
        cluster.sh("crm_resource --clear -r floor-clone")?;
        settle(cluster)?;
    }
    cluster.sh("pcs constraint location floor-clone rule role=Promoted score=-90 '#health-mce' eq red")?;
    for _ in 0..repeat {
        let primary = promoted(cluster)?;
        let colour =
            |colour: &str| format!("attrd_updater --name '#health-mce' --update {colour} --node {primary} --delay 0");
        timings.floor(MEMORY_FAILED, until_promoted(cluster, || cluster.sh(&colour("red")).map(drop))?);
        cluster.sh(&colour("green"))?;
        settle(cluster)?;
    }
    enable_fencing(cluster)?;
    for _ in 0..repeat.min(2) {
        let primary = promoted(cluster)?;
        timings.floor(NODE_LOST, until_promoted(cluster, || cluster.node(primary).kill())?);
        restart(cluster, primary)?;
        settle(cluster)?;
    }
    disable_fencing(cluster)?;
    cluster.sh("pcs resource delete --force floor")?;
    cluster.sh("settle")?;
    Ok(format!("{repeat} times"))
}

fn install(cluster: &Cluster) -> Result<(), ClusterError> {
    for name in NODES {
        let node = cluster.node(name);
        let shared = node.directory().parent().unwrap_or(node.directory()).to_owned();
        // Through the host's own eyes: a mounted overlay must not be changed from below.
        let place = format!("/proc/self/root{}/floor", shared.display());
        fs::write(shared.join("floor"), WRAPPER.replace("@DIR@", &shared.to_string_lossy()))
            .map_err(io("write the wrapper"))?;
        fs::set_permissions(shared.join("floor"), fs::Permissions::from_mode(0o755)).map_err(io("set permissions"))?;
        node.sh(&format!("cp {place} /usr/lib/ocf/resource.d/kemari/floor"))?;
    }
    Ok(())
}

fn until_promoted(
    cluster: &Cluster,
    event: impl FnOnce() -> Result<(), ClusterError>,
) -> Result<Duration, ClusterError> {
    let node = cluster.node(NodeName::Alpha);
    let mark = node.directory().with_file_name("promoted");
    drop(node);
    let _ = fs::remove_file(&mark);
    let begun = Instant::now();
    event()?;
    while !mark.exists() {
        if begun.elapsed() > LIMIT {
            return Err(ClusterError::TooLong {
                what: "for Stateful to be promoted".to_owned(),
                seconds: LIMIT.as_secs(),
            });
        }
        std::thread::sleep(TICK);
    }
    Ok(begun.elapsed())
}

fn promoted(cluster: &Cluster) -> Result<NodeName, ClusterError> {
    let text = cluster.sh("crm_resource --locate -r floor-clone 2>/dev/null")?;
    let line = text.lines().find(|line| line.contains("Promoted") || line.contains("Master"));
    let found = NODES.into_iter().find(|name| line.is_some_and(|line| line.contains(name.as_str())));
    found.ok_or_else(|| ClusterError::Wrong(format!("Stateful is promoted nowhere: {text}")))
}

fn settle(cluster: &Cluster) -> Result<(), ClusterError> {
    cluster.wait("for Stateful to run on both", LIMIT, |cluster| {
        let text = cluster.sh("settle; crm_mon -1 --include=none,resources")?;
        Ok(text.contains("Promoted: [") && text.contains("Unpromoted: ["))
    })?;
    Ok(())
}

/// Makes the test's fence device the cluster's.
pub(crate) fn enable_fencing(cluster: &Cluster) -> Result<(), ClusterError> {
    cluster.sh("pcs stonith create fence fence_kemari_test pcmk_host_list=alpha,beta pcmk_host_check=static-list \
         op monitor interval=0s && pcs property set stonith-enabled=true priority-fencing-delay=2s && settle")?;
    Ok(())
}

/// Takes it away.
pub(crate) fn disable_fencing(cluster: &Cluster) -> Result<(), ClusterError> {
    cluster.sh("pcs property set stonith-enabled=false && pcs stonith delete fence && settle")?;
    Ok(())
}

/// Switches a node on and waits until the cluster has it again.
pub(crate) fn restart(cluster: &Cluster, name: NodeName) -> Result<(), ClusterError> {
    // The fence device may be at it still.
    cluster.wait("for the fence device", LIMIT, |cluster| Ok(!cluster.node(name).is_on()))?;
    cluster.node(name).start()?;
    cluster.wait("for both nodes to be online", LIMIT, |cluster| {
        Ok(cluster.node(name.peer()).sh("crm_mon -1").is_ok_and(|text| text.contains("Online: [ alpha beta ]")))
    })?;
    Ok(())
}
