//! Two hosts, their networks, the disk they share, and a cluster on them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kemari_control::{Role, Status};
use kemari_site::{BRIDGE_ADDRESS, DiskImage, GUEST_ADDRESS, Network, NodeName};
use tempfile::TempDir;

use crate::command::{ip, run};
use crate::error::{ClusterError, io};
use crate::fence::Fence;
use crate::machine::{Machine, Wire};

const BOOT: &str = include_str!("boot.sh");
const CLUSTER_START: &str = include_str!("cluster_start.sh");
const SETTLE: &str = include_str!("settle.sh");
/// Milliseconds after which corosync takes a silent node for dead; the loss is then agreed upon for 1.2 times as long.
const TOKEN_MS: u32 = 1000;
const TICK: Duration = Duration::from_millis(20);
pub(crate) const NODES: [NodeName; 2] = [NodeName::Alpha, NodeName::Beta];

/// The CIB that a cluster begins with.
const FIRST_CIB: &str = r#"<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0">
<configuration><crm_config><cluster_property_set id="cib-bootstrap-options">
<nvpair id="cib-bootstrap-options-dc-deadtime" name="dc-deadtime" value="2s"/>
</cluster_property_set></crm_config><nodes/><resources/><constraints/></configuration><status/></cib>
"#;

/// The programs to be installed on the hosts.
#[derive(Clone)]
pub(crate) struct Programs {
    pub(crate) replicator: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) monitor: PathBuf,
    /// The directory with the OCF entry points.
    pub(crate) ocf: PathBuf,
    /// The directory with the cases for ocft.
    pub(crate) ocft: PathBuf,
    /// The directory with the examples.
    pub(crate) examples: PathBuf,
    /// The bug that is planted in the agent, if it is built for that.
    pub(crate) sabotage: Option<&'static str>,
}

/// The cluster. All of it is gone when the value is dropped, and when this process dies.
pub(crate) struct Cluster {
    machines: Vec<(NodeName, Arc<Mutex<Machine>>)>,
    pub(crate) fence: Fence,
    directory: TempDir,
    _network: Network,
}

impl Cluster {
    /// Brings it up. The calling thread is in the network namespace of the clients from then on.
    pub(crate) fn up(programs: &Programs) -> Result<Cluster, ClusterError> {
        let network = Network::enter()?;
        for wire in [Wire::Ring, Wire::Replication] {
            ip(&format!("link add {} type bridge", wire.bridge()))?;
            ip(&format!("link set {} up", wire.bridge()))?;
        }
        // The guest does not announce itself as Linux does (VIRTIO_NET_F_GUEST_ANNOUNCE), so that after a long outage the clients
        // ask for its address anew; once a second by default, which would be measured, too.
        fs::write("/proc/sys/net/ipv4/neigh/kemari/retrans_time_ms", "50").map_err(io("set retrans_time_ms"))?;
        let directory = tempfile::Builder::new().prefix("kemari-cluster-").tempdir_in("/var/tmp");
        let directory = directory.map_err(io("make a directory in /var/tmp"))?;
        let root = directory.path();
        // The hosts' daemons run as users of their own.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(io("open the directory"))?;
        fs::create_dir(root.join("fence")).map_err(io("make a directory"))?;
        prepare_guest(root, programs)?;
        let mut machines = Vec::new();
        for name in NODES {
            let home = root.join(name.as_str());
            install(root, &home, name, programs)?;
            machines.push((name, Arc::new(Mutex::new(Machine::new(name, &home, programs.sabotage)))));
        }
        let fence = Fence::start(&root.join("fence"), machines.clone());
        let cluster = Cluster { machines, fence, directory, _network: network };
        for name in NODES {
            cluster.node(name).start()?;
        }
        cluster.wait("for both nodes to be online", Duration::from_secs(60), |cluster| {
            Ok(cluster.node(NodeName::Alpha).sh("crm_mon -1").is_ok_and(|text| text.contains("Online: [ alpha beta ]")))
        })?;
        cluster.node(NodeName::Alpha).sh("pcs property set stonith-enabled=false cluster-recheck-interval=30s")?;
        Ok(cluster)
    }

    /// A host.
    pub(crate) fn node(&self, name: NodeName) -> MutexGuard<'_, Machine> {
        let index = usize::from(name == NodeName::Beta);
        lock(&self.machines[index].1)
    }

    /// A host that is on, for commands about the cluster.
    pub(crate) fn any(&self) -> MutexGuard<'_, Machine> {
        let name = NODES.into_iter().find(|name| self.node(*name).is_on());
        self.node(name.unwrap_or(NodeName::Alpha))
    }

    /// Runs a command line about the cluster on a host that is on.
    pub(crate) fn sh(&self, line: &str) -> Result<String, ClusterError> {
        self.any().sh(line)
    }

    /// The disk that both hosts open.
    pub(crate) fn disk(&self) -> DiskImage {
        DiskImage::new(&self.directory.path().join("disk"))
    }

    /// Both replicators' statuses, of those that answer.
    pub(crate) fn statuses(&self) -> Vec<(NodeName, Status)> {
        let status = |name| self.node(name).status().ok().map(|status| (name, status));
        NODES.into_iter().filter_map(status).collect()
    }

    /// Where the guest runs.
    pub(crate) fn primary(&self) -> Option<NodeName> {
        self.statuses().into_iter().find(|(_, status)| status.role == Role::Primary).map(|(name, _)| name)
    }

    /// Waits until something is so. Returns how long that took.
    pub(crate) fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut is_so: impl FnMut(&Cluster) -> Result<bool, ClusterError>,
    ) -> Result<Duration, ClusterError> {
        let begun = Instant::now();
        while !is_so(self)? {
            if crate::interrupted() {
                return Err(ClusterError::Interrupted);
            }
            if begun.elapsed() >= limit {
                return Err(ClusterError::TooLong { what: what.to_owned(), seconds: limit.as_secs() });
            }
            std::thread::sleep(TICK);
        }
        Ok(begun.elapsed())
    }

    /// What is to be known about a failure.
    pub(crate) fn evidence(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}",
            self.sh("crm_mon -1 -A -f -r 2>&1; cibadmin --query --scope crm_config 2>&1").unwrap_or_default()
        );
        for name in NODES {
            let node = self.node(name);
            let status = node.sh("kemari-replicator status --socket /run/kemari/web.sock 2>&1").unwrap_or_default();
            let _ = writeln!(text, "--- {name}: {status}");
            let supervisor = node.sh("cat /run/resource-agents/kemari-web.log").unwrap_or_default();
            let pacemaker = fs::read_to_string(node.directory().join("pacemaker.log")).unwrap_or_default();
            for (log, lines) in [("the replicator's log", supervisor), ("pacemaker.log", pacemaker)] {
                let lines: Vec<&str> = lines.lines().filter(|line| !line.contains("pacemaker-based")).collect();
                let _ = writeln!(text, "--- {name}, {log}:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
        text
    }

    /// Leaves the files where they are. Returns where.
    pub(crate) fn keep_files(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }
}

pub(crate) fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    // Whatever panicked, a machine is on or off.
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guest's kernel, disk and key.
fn prepare_guest(root: &Path, programs: &Programs) -> Result<(), ClusterError> {
    fs::write(root.join("guest.elf"), kemari_guest_image::ELF).map_err(io("write the guest's kernel"))?;
    empty_disk(root)?;
    run("the host", Command::new(&programs.replicator).arg("keygen").arg(root.join("key"))).map(drop)
}

/// An empty disk, with room for half a million entries: one ledger serves all scenarios, which on a fast machine append
/// some 150,000.
fn empty_disk(root: &Path) -> Result<(), ClusterError> {
    let disk = File::create(root.join("disk")).and_then(|disk| disk.set_len(256 << 20));
    disk.map_err(io("make the disk"))
}

/// A host's files, which lie over those of this machine.
fn install(root: &Path, home: &Path, name: NodeName, programs: &Programs) -> Result<(), ClusterError> {
    let number = if name == NodeName::Alpha { 1 } else { 2 };
    let directories =
        ["upper/etc/corosync", "upper/etc/kemari", "upper/usr/sbin", "upper/usr/lib/ocf/resource.d/kemari"];
    for directory in directories.into_iter().chain(["state", "pacemaker"]) {
        fs::create_dir_all(home.join(directory)).map_err(io("make a directory"))?;
    }
    let write = |place: &str, text: &str| {
        let path = home.join(place);
        fs::write(&path, text).map_err(io(format!("write {}", path.display())))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(io("set permissions"))
    };
    write("boot", BOOT)?;
    write("cluster-start", CLUSTER_START)?;
    write("upper/usr/sbin/settle", SETTLE)?;
    write("upper/etc/corosync/corosync.conf", &corosync_conf())?;
    write("upper/etc/kemari/web.toml", &guest_config(root, name, number))?;
    // By the name that the example uses, too: these hosts' BMCs are what they are.
    for agent in ["fence_kemari_test", "fence_ipmilan"] {
        write(&format!("upper/usr/sbin/{agent}"), &Fence::agent(&root.join("fence")))?;
    }
    let copies = [
        (&programs.replicator, "upper/usr/sbin/kemari-replicator"),
        (&programs.agent, "upper/usr/sbin/kemari-agent"),
        (&programs.monitor, "upper/usr/sbin/kemari-mce-monitor"),
    ];
    for (from, to) in copies {
        fs::copy(from, home.join(to)).map_err(io(format!("copy {}", from.display())))?;
    }
    run("the host", Command::new("cp").args(["-a", "--"]).arg(&programs.ocft).arg(home.join("ocft")))?;
    let place = home.join("upper/usr/lib/ocf/resource.d/kemari");
    for agent in ["guest", "health-mce"] {
        run("the host", Command::new("cp").args(["-a", "--"]).arg(programs.ocf.join(agent)).arg(&place))?;
    }
    run("the host", Command::new("cp").args(["-a", "--"]).arg(&programs.examples).arg(home.join("examples")))?;
    run("the host", Command::new("cp").args(["-a", "/var/lib/pacemaker/."]).arg(home.join("pacemaker")))?;
    // The controllers would wait 20 s for others before they elect one of them, and so would every node that comes back.
    let cib = home.join("pacemaker/cib/cib.xml");
    fs::write(&cib, FIRST_CIB).map_err(io("write the first CIB"))?;
    run("the host", Command::new("chown").arg("hacluster:haclient").arg(&cib)).map(drop)
}

fn corosync_conf() -> String {
    let mut text = format!(
        "totem {{\n  version: 2\n  cluster_name: kemari\n  transport: knet\n  crypto_cipher: none\n  crypto_hash: none\n  \
         token: {TOKEN_MS}\n}}\nquorum {{\n  provider: corosync_votequorum\n  two_node: 1\n  wait_for_all: 0\n}}\n\
         logging {{\n  to_stderr: yes\n  to_syslog: no\n}}\nnodelist {{\n"
    );
    for (number, name) in (1..).zip(NODES) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  node {{\n    ring0_addr: 172.31.7.{number}\n    name: {name}\n    nodeid: {number}\n  }}"
        );
    }
    text + "}\n"
}

fn guest_config(root: &Path, name: NodeName, number: u8) -> String {
    let (root, other) = (root.display(), 3 - number);
    format!(
        r#"[guest]
name = "web"
memory_mib = 64
kernel = "{root}/guest.elf"
cmdline = "ip={GUEST_ADDRESS}/24 gw={BRIDGE_ADDRESS} flush=1"

[[nic]]
tap = "tap-web"
mac = "52:54:00:4b:00:02"

[[disk]]
path = "{root}/disk"
serial = "ledger"

[node]
name = "{name}"
state_dir = "{root}/{name}/state"
control = "/run/kemari/web.sock"

[link]
listen = "172.31.8.{number}:7041"
peer = "172.31.8.{other}:7041"
key_file = "{root}/key"
"#
    )
}
