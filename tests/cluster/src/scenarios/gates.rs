//! What others have to say about the agent: the tools by which resource agents are judged, and Pacemaker's own checks.

use kemari_site::NodeName;

use super::Result;
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::report::Timings;

const AGENT: &str = "/usr/lib/ocf/resource.d/kemari/guest";
const WATCHER: &str = "/usr/lib/ocf/resource.d/kemari/health-mce";
const CONFIG: &str = "config=/etc/kemari/web.toml";

/// Commands that must succeed, with what they are about.
const MUST: [(&str, &str); 7] = [
    (
        "the metadata is valid",
        "cd /usr/share/resource-agents && sh -c \"$AGENT meta-data\" | xmllint --noout --valid -",
    ),
    (
        "the metadata can be had by anybody",
        "env -i PATH=/usr/bin:/bin setpriv --reuid 65534 --clear-groups $AGENT meta-data | grep -q '</resource-agent>'",
    ),
    ("crm_resource validates", "crm_resource --validate --class ocf --provider kemari --agent guest --option $CONFIG"),
    ("pcs describes it", "pcs resource describe ocf:kemari:guest | grep -q unprotected"),
    (
        "a parameter that is wrong keeps nobody from stopping",
        "env OCF_RESKEY_$CONFIG OCF_RESKEY_unprotected=maybe $AGENT stop",
    ),
    ("ocf-tester", "ocf-tester -n web -o $CONFIG $AGENT"),
    (
        "ocft",
        "ocft make -d $HOME_DIR/ocft kemari-guest >/dev/null && ocft test -v kemari-guest >/tmp/ocft.out 2>&1; \
         cat /tmp/ocft.out; ! grep -q -i 'failed' /tmp/ocft.out && grep -q -i 'succe' /tmp/ocft.out",
    ),
];

/// The same for the agent that runs the watcher of hardware errors.
const WATCHER_MUST: [(&str, &str); 5] = [
    (
        "the watcher's metadata is valid",
        "cd /usr/share/resource-agents && sh -c \"$WATCHER meta-data\" | xmllint --noout --valid -",
    ),
    (
        "the watcher's metadata can be had by anybody",
        "env -i PATH=/usr/bin:/bin setpriv --reuid 65534 --clear-groups $WATCHER meta-data | grep -q '</resource-agent>'",
    ),
    ("crm_resource validates the watcher", "crm_resource --validate --class ocf --provider kemari --agent health-mce"),
    ("pcs describes the watcher", "pcs resource describe ocf:kemari:health-mce | grep -q config"),
    ("ocf-tester of the watcher", "ocf-tester -n watcher $WATCHER"),
];

/// Commands that must be refused, with what they must say.
const MUST_NOT: [(&str, &str); 8] = [
    ("env OCF_RESKEY_$CONFIG OCF_RESKEY_CRM_meta_on_node=gamma $AGENT validate-all", "gamma"),
    ("env OCF_RESKEY_$CONFIG OCF_RESKEY_unprotected=maybe $AGENT start", "maybe"),
    ("pcs resource create bad ocf:kemari:guest", "config"),
    ("pcs resource create bad ocf:kemari:guest $CONFIG nonsense=1", "nonsense"),
    ("crm_resource --validate --class ocf --provider kemari --agent guest --option config=/none", "none"),
    ("crm_resource --validate --class ocf --provider kemari --agent guest --option $CONFIG unprotected=maybe", "maybe"),
    ("crm_resource --validate --class ocf --provider kemari --agent health-mce --option config=/none", "none"),
    ("pcs resource create bad ocf:kemari:health-mce nonsense=1", "nonsense"),
];

pub(super) fn gates(cluster: &Cluster, _: &mut Timings, _: usize) -> Result<String> {
    super::hardware::configure(cluster, NodeName::Alpha)?;
    let node = cluster.node(NodeName::Alpha);
    let home = node.directory().display().to_string();
    node.sh("kemari-replicator create /etc/kemari/web.toml")?;
    let prelude =
        format!("AGENT={AGENT}; WATCHER={WATCHER}; CONFIG={CONFIG}; HOME_DIR={home}; export AGENT WATCHER CONFIG;");
    for (what, line) in MUST.into_iter().chain(WATCHER_MUST) {
        node.sh(&format!("{prelude} {line}")).map_err(|error| ClusterError::Wrong(format!("{what}: {error}")))?;
    }
    for (line, word) in MUST_NOT {
        match node.sh(&format!("{prelude} {line}")) {
            Err(ClusterError::Command { output, .. }) if output.contains(word) => {}
            Err(error) => return Err(ClusterError::Wrong(format!("{line} does not name what is wrong: {error}"))),
            Ok(_) => return Err(ClusterError::Wrong(format!("{line} was accepted"))),
        }
    }
    // As if it had never been.
    node.sh("cibadmin --delete --xpath \"//cluster_property_set[@id='kemari']\"")?;
    node.sh(&format!("{AGENT} stop; rm -rf {home}/state/*",).replace(AGENT, &format!("OCF_RESKEY_{CONFIG} {AGENT}")))?;
    drop(node);
    super::hardware::unconfigure(cluster, NodeName::Alpha)?;
    Ok(format!("{} checks", MUST.len() + WATCHER_MUST.len() + MUST_NOT.len()))
}
