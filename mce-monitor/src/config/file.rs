//! The file as it is written, and the check of every value.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{ClusterConfig, Config, DaemonConfig, GuestsConfig, Problem, SourcesConfig};
use crate::fault::Component;
use crate::health::{Limit, Limits, Quiet, Thresholds};

/// Longest path of a unix socket (sun_path in unix(7), less the terminating zero).
const SOCKET_PATH_BYTES: usize = 107;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    sources: Sources,
    daemon: Daemon,
    cluster: Cluster,
    guests: Guests,
    memory: Memory,
    processor: Processor,
    pci: Pci,
    block: Block,
    thermal: Thermal,
    network: Network,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sources {
    tracefs: PathBuf,
    instance: String,
    sysfs: PathBuf,
    kmsg: PathBuf,
    mcelog: PathBuf,
    netlink: bool,
    links: Option<PathBuf>,
    uevents: Option<PathBuf>,
    reconcile: Quiet,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources {
            tracefs: "/sys/kernel/tracing".into(),
            instance: "kemari-mce".to_owned(),
            sysfs: "/sys".into(),
            kmsg: "/dev/kmsg".into(),
            mcelog: "/dev/mcelog".into(),
            netlink: true,
            links: None,
            uevents: None,
            reconcile: Quiet(Duration::from_secs(60)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Daemon {
    control: PathBuf,
    state: PathBuf,
    parts_max: usize,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            control: "/run/kemari/mce-monitor.sock".into(),
            state: "/var/lib/kemari/mce-monitor.json".into(),
            parts_max: 1024,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cluster {
    enabled: bool,
    node: Option<String>,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { enabled: true, node: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Guests {
    configs: PathBuf,
    sockets: Vec<PathBuf>,
    run: PathBuf,
    pace_ms: u64,
}

impl Default for Guests {
    fn default() -> Guests {
        Guests { configs: "/etc/kemari".into(), sockets: Vec::new(), run: "/run/kemari".into(), pace_ms: 100 }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Memory {
    corrected_yellow: Option<Limit>,
    corrected_red: Option<Limit>,
    storm_red: Option<Limit>,
    pages_yellow: Option<Limit>,
    pages_red: Option<Limit>,
    quiet: Option<Quiet>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Processor {
    corrected_yellow: Option<Limit>,
    corrected_red: Option<Limit>,
    quiet: Option<Quiet>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pci {
    corrected_yellow: Option<Limit>,
    uncorrected_yellow: Option<Limit>,
    uncorrected_red: Option<Limit>,
    used_by_guests: Vec<String>,
    quiet: Option<Quiet>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Block {
    errors_yellow: Option<Limit>,
    errors_red: Option<Limit>,
    devices: Option<BTreeSet<String>>,
    quiet: Option<Quiet>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Thermal {
    throttled_yellow: Option<Limit>,
    throttled_red: Option<Limit>,
    quiet: Option<Quiet>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Network {
    timeouts_yellow: Option<Limit>,
    interfaces: Vec<String>,
    quiet: Option<Quiet>,
}

/// The control socket that `text` names, whatever else it has.
pub(super) fn control_socket(text: &str) -> Result<PathBuf, toml::de::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Only {
        daemon: OnlyControl,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct OnlyControl {
        control: Option<PathBuf>,
    }
    let only: Only = toml::from_str(text)?;
    Ok(only.daemon.control.unwrap_or_else(|| Daemon::default().control))
}

/// Collects what is wrong, so that all of it is said at once.
#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn require(&mut self, good: bool, key: &'static str, value: impl std::fmt::Debug, remedy: &'static str) {
        if !good {
            self.problems.push(Problem { key, value: format!("{value:?}"), remedy });
        }
    }

    fn absolute(&mut self, key: &'static str, path: &Path) {
        self.require(path.is_absolute(), key, path, "not an absolute path; begin it with /");
    }
}

impl File {
    pub(super) fn checked(self) -> Result<Config, Vec<Problem>> {
        let mut checker = Checker::default();
        let thresholds = self.thresholds();
        let daemon = daemon(&mut checker, self.daemon);
        let config = Config {
            sources: sources(&mut checker, self.sources),
            cluster: cluster(&mut checker, self.cluster),
            guests: guests(&mut checker, self.guests, &daemon),
            daemon,
            thresholds,
        };
        if checker.problems.is_empty() { Ok(config) } else { Err(checker.problems) }
    }

    fn thresholds(&self) -> Thresholds {
        let default = Limits::of;
        let File { memory, processor, pci, block, thermal, network, .. } = self;
        let mut thresholds = Thresholds {
            pci_of_guests: pci.used_by_guests.clone(),
            interfaces: network.interfaces.clone(),
            disks: block.devices.clone(),
            memory: Limits {
                quiet: memory.quiet.unwrap_or(default(Component::Memory).quiet),
                ..default(Component::Memory)
            },
            ..Thresholds::default()
        };
        let set = |limit: &mut Limit, value: Option<Limit>| *limit = value.unwrap_or(*limit);
        let quiet = |limits: &mut Limits, value: Option<Quiet>| limits.quiet = value.unwrap_or(limits.quiet);
        set(&mut thresholds.memory.corrected_yellow, memory.corrected_yellow);
        set(&mut thresholds.memory.corrected_red, memory.corrected_red);
        set(&mut thresholds.memory.storm_red, memory.storm_red);
        set(&mut thresholds.memory.pages_yellow, memory.pages_yellow);
        set(&mut thresholds.memory.pages_red, memory.pages_red);
        set(&mut thresholds.processor.corrected_yellow, processor.corrected_yellow);
        set(&mut thresholds.processor.corrected_red, processor.corrected_red);
        set(&mut thresholds.pci.corrected_yellow, pci.corrected_yellow);
        set(&mut thresholds.pci.uncorrected_yellow, pci.uncorrected_yellow);
        set(&mut thresholds.pci.uncorrected_red, pci.uncorrected_red);
        set(&mut thresholds.block.uncorrected_yellow, block.errors_yellow);
        set(&mut thresholds.block.uncorrected_red, block.errors_red);
        set(&mut thresholds.thermal.corrected_yellow, thermal.throttled_yellow);
        set(&mut thresholds.thermal.corrected_red, thermal.throttled_red);
        set(&mut thresholds.network.uncorrected_yellow, network.timeouts_yellow);
        quiet(&mut thresholds.processor, processor.quiet);
        quiet(&mut thresholds.pci, pci.quiet);
        quiet(&mut thresholds.block, block.quiet);
        quiet(&mut thresholds.thermal, thermal.quiet);
        quiet(&mut thresholds.network, network.quiet);
        thresholds
    }
}

fn sources(checker: &mut Checker, sources: Sources) -> SourcesConfig {
    let Sources { tracefs, instance, sysfs, kmsg, mcelog, netlink, links, uevents, reconcile } = sources;
    for (key, path) in
        [("sources.tracefs", &tracefs), ("sources.sysfs", &sysfs), ("sources.kmsg", &kmsg), ("sources.mcelog", &mcelog)]
    {
        checker.absolute(key, path);
    }
    for (key, path) in [("sources.links", &links), ("sources.uevents", &uevents)] {
        path.iter().for_each(|path| checker.absolute(key, path));
    }
    let good =
        !instance.is_empty() && instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    checker.require(good, "sources.instance", &instance, "not a name; letters, digits, '-' and '_'");
    SourcesConfig { tracefs, instance, sysfs, kmsg, mcelog, netlink, links, uevents, reconcile: reconcile.0 }
}

fn daemon(checker: &mut Checker, daemon: Daemon) -> DaemonConfig {
    let Daemon { control, state, parts_max } = daemon;
    checker.absolute("daemon.control", &control);
    checker.require(
        control.as_os_str().len() <= SOCKET_PATH_BYTES,
        "daemon.control",
        &control,
        "too long for a unix socket; 107 bytes at most",
    );
    checker.absolute("daemon.state", &state);
    checker.require(
        (16..=65_536).contains(&parts_max),
        "daemon.parts_max",
        parts_max,
        "out of range; 16 to 65536 parts",
    );
    DaemonConfig { control, state, parts_max }
}

fn cluster(checker: &mut Checker, cluster: Cluster) -> ClusterConfig {
    let node = cluster.node.unwrap_or_else(hostname);
    let good = !node.is_empty() && !node.starts_with('-') && node.bytes().all(|byte| byte.is_ascii_graphic());
    checker.require(good, "cluster.node", &node, "not the name of a node; `crm_node --name` says it");
    ClusterConfig { enabled: cluster.enabled, node }
}

fn guests(checker: &mut Checker, guests: Guests, daemon: &DaemonConfig) -> GuestsConfig {
    let Guests { configs, sockets, run, pace_ms } = guests;
    checker.absolute("guests.configs", &configs);
    checker.absolute("guests.run", &run);
    for socket in &sockets {
        checker.absolute("guests.sockets", socket);
    }
    checker.require((1..=60_000).contains(&pace_ms), "guests.pace_ms", pace_ms, "out of range; 1 to 60000 ms");
    GuestsConfig { configs, sockets, run, own: daemon.control.clone(), pace: Duration::from_millis(pace_ms) }
}

/// This host's name, up to the first dot, as Pacemaker names its nodes by default.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}
