//! What the cluster is put through. Each scenario begins and ends with a guest that is protected.

mod boots;
mod examples;
mod gates;
mod handovers;
mod hangs;
mod hardware;
mod losses;
mod moves;
mod partitions;
mod policies;
mod races;
mod setup;
mod stops;

use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::floor;
use crate::report::Timings;

/// One of them.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    play: Play,
}

type Result<T> = std::result::Result<T, ClusterError>;

#[derive(Clone, Copy)]
enum Play {
    /// Without guest.
    Bare(fn(&Cluster, &mut Timings, usize) -> Result<String>),
    /// With a guest that is protected, fencing off.
    Guest(fn(&Cluster, &mut Timings, usize) -> Result<String>),
    /// With fencing on.
    Fenced(fn(&Cluster, &mut Timings, usize) -> Result<String>),
}

const fn scenario(name: &'static str, about: &'static str, play: Play) -> Scenario {
    Scenario { name, about, play }
}

/// All of them, in the order in which they are played.
pub(crate) const ALL: &[Scenario] = &[
    scenario("gates", "ocf-tester, ocft, xmllint, crm_resource and pcs on the agents", Play::Bare(gates::gates)),
    scenario("floor", "the same events with ocf:pacemaker:Stateful", Play::Bare(floor::measure)),
    scenario("readme", "from two bare nodes to a protected guest and a manual failover", Play::Bare(examples::readme)),
    scenario("primary-killed", "kill -9 of the primary replicator", Play::Guest(losses::primary_killed)),
    scenario("standby-killed", "kill -9 of the standby replicator", Play::Guest(losses::standby_killed)),
    scenario("move", "crm_resource --move, --ban and --clear", Play::Guest(moves::moved)),
    scenario("three-failovers", "A to B to A to B, a kill each", Play::Guest(losses::three_failovers)),
    scenario(
        "primary-hangs",
        "SIGSTOP of the primary, which wakes after the failover",
        Play::Guest(losses::primary_hangs),
    ),
    scenario("standby-hangs", "SIGSTOP of the standby, which wakes or is ended", Play::Guest(hangs::standby_hangs)),
    scenario("handover-cut", "a planned move cut between demote and promote", Play::Guest(handovers::handover_cut)),
    scenario("cluster-stop", "pcs cluster stop on the primary's node", Play::Guest(stops::cluster_stop_one)),
    scenario("cluster-stop-all", "pcs cluster stop --all, then start", Play::Guest(stops::cluster_stop_all)),
    scenario(
        "stopped-between",
        "handed over, and disabled before the other node resumes it",
        Play::Guest(stops::stopped_between),
    ),
    scenario("banned", "no node may run the guest any more: it is shut down", Play::Guest(stops::banned_everywhere)),
    scenario("both-lost", "both nodes die; the record says who boots", Play::Guest(boots::both_lost)),
    scenario(
        "partitions",
        "every link and direction is cut, without fencing",
        Play::Guest(partitions::without_fencing),
    ),
    scenario("partitions-fenced", "the same with fencing", Play::Guest(partitions::with_fencing)),
    scenario(
        "unprotected",
        "unprotected=never, fenced and always, changed at run time",
        Play::Guest(policies::unprotected),
    ),
    scenario("node-standby", "pcs node standby and unstandby of the primary's node", Play::Guest(moves::node_standby)),
    scenario("replication-cut", "the replication link is cut and heals", Play::Guest(losses::replication_cut)),
    scenario("late-helper", "consent races a promotion, and comes late", Play::Guest(races::late_helper)),
    scenario("failed-start", "a standby that cannot start", Play::Guest(losses::failed_start)),
    scenario("disable", "pcs resource disable shuts the guest down, enable boots it", Play::Guest(moves::disabled)),
    scenario("standby-node-lost", "the standby's node dies; it is fenced", Play::Fenced(losses::standby_node_lost)),
    scenario("primary-node-lost", "the primary's node dies; it is fenced", Play::Fenced(losses::primary_node_lost)),
    scenario("ring-cut", "the cluster link is cut; fencing decides", Play::Fenced(losses::ring_cut)),
    scenario("both-cut", "both links are cut; fencing decides", Play::Fenced(losses::both_cut)),
    scenario(
        "fence-broken",
        "the primary's node dies and cannot be fenced, then can",
        Play::Fenced(losses::fence_broken),
    ),
    scenario(
        "no-fencing",
        "the primary's node dies without fencing: the guest stands still",
        Play::Guest(losses::no_fencing),
    ),
    scenario("vip", "pcs-examples: vip.sh and manual-failover.sh", Play::Guest(examples::vip)),
    scenario("node-health", "pcs-examples: node-health.sh", Play::Guest(examples::node_health)),
    scenario(
        "memory-fails",
        "pcs-examples: health-mce.sh; corrected errors, then an uncorrected one",
        Play::Guest(hardware::memory_fails),
    ),
    scenario(
        "memory-fails-migrate",
        "pcs-examples: health-mce.sh migrate; everything leaves the node",
        Play::Guest(hardware::memory_fails_migrate),
    ),
    scenario("maintenance", "pcs-examples: maintenance.sh", Play::Guest(examples::maintenance)),
    scenario("replace-node", "pcs-examples: fencing.sh and replace-node.sh", Play::Guest(examples::replace_node)),
    scenario("other-tools", "pcs-examples: two-nodes.crmsh and two-nodes.xml", Play::Guest(examples::other_tools)),
];

/// Plays one.
pub(crate) fn play(scenario: &Scenario, cluster: &mut Cluster, timings: &mut Timings, repeat: usize) -> Result<String> {
    match scenario.play {
        Play::Bare(play) => play(cluster, timings, repeat),
        Play::Guest(play) => {
            setup::ready(cluster)?;
            play(cluster, timings, repeat)
        }
        Play::Fenced(play) => {
            setup::ready(cluster)?;
            floor::enable_fencing(cluster)?;
            let said = play(cluster, timings, repeat)?;
            floor::disable_fencing(cluster)?;
            Ok(said)
        }
    }
}
