//! The file as it is written, and the check of every value.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kemari_vmm::{
    ConsoleConfig, DiskConfig, MEMORY_MIB_MAX, MEMORY_MIB_MIN, NicConfig, OnDiskError, Sink, VCPUS_MAX,
    is_serial_number, is_tap_name,
};
use serde::Deserialize;

use super::{Config, GuestConfig, LinkConfig, Mode, NodeConfig, OnGuestPanic, Problem, ReplicationConfig};

/// Longest path of a unix socket (sun_path in unix(7), less the terminating zero).
const SOCKET_PATH_BYTES: usize = 107;
const NAME_BYTES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    guest: Guest,
    #[serde(default, rename = "nic")]
    nics: Vec<Nic>,
    #[serde(default, rename = "disk")]
    disks: Vec<Disk>,
    #[serde(default)]
    console: Console,
    #[serde(default)]
    node: Node,
    link: Link,
    #[serde(default)]
    replication: Replication,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    name: String,
    #[serde(default = "one")]
    vcpus: u8,
    memory_mib: u64,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    #[serde(default)]
    cmdline: String,
    #[serde(default = "default_on_guest_panic")]
    on_guest_panic: OnGuestPanic,
    #[serde(default)]
    watchdog: bool,
    #[serde(default = "default_shutdown_timeout_s")]
    shutdown_timeout_s: u64,
}

/// As a real machine does.
fn default_on_guest_panic() -> OnGuestPanic {
    OnGuestPanic::Restart
}

/// Less than a cluster gives a demotion by default, which includes it.
fn default_shutdown_timeout_s() -> u64 {
    45
}

fn one() -> u8 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nic {
    tap: String,
    mac: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    path: PathBuf,
    serial: String,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    on_error: OnDiskError,
    timeout_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Console {
    output: String,
    hold: bool,
}

impl Default for Console {
    fn default() -> Console {
        Console { output: "none".to_owned(), hold: true }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Node {
    name: Option<String>,
    state_dir: Option<PathBuf>,
    control: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    listen: String,
    peer: String,
    key_file: PathBuf,
    #[serde(default = "default_heartbeat_ms")]
    heartbeat_ms: u64,
    #[serde(default = "default_peer_timeout_ms")]
    peer_timeout_ms: u64,
}

fn default_heartbeat_ms() -> u64 {
    200
}

fn default_peer_timeout_ms() -> u64 {
    1000
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Replication {
    mode: Mode,
    max_epoch_ms: u64,
    held_limit_mib: u64,
    checkpoint_mib: u64,
}

impl Default for Replication {
    fn default() -> Replication {
        Replication { mode: Mode::Event, max_epoch_ms: 1000, held_limit_mib: 64, checkpoint_mib: 64 }
    }
}

/// Collects what is wrong, so that all of it is said at once.
struct Checker {
    problems: Vec<Problem>,
}

impl File {
    pub(super) fn checked(self) -> Result<Config, Vec<Problem>> {
        let mut checker = Checker { problems: Vec::new() };
        let guest = checker.guest(self.guest);
        let config = Config {
            nics: checker.nics(self.nics),
            disks: checker.disks(self.disks),
            console: checker.console(&self.console, &guest.name),
            node: checker.node(self.node, &guest.name),
            link: checker.link(self.link),
            replication: checker.replication(&self.replication),
            guest,
        };
        if checker.problems.is_empty() { Ok(config) } else { Err(checker.problems) }
    }
}

impl Checker {
    /// Notes a problem unless `good`.
    fn require(&mut self, good: bool, key: &str, value: impl std::fmt::Display, remedy: &str) {
        if !good {
            self.problems.push(Problem::new(key, value, remedy));
        }
    }

    fn range(&mut self, key: &str, value: u64, from: u64, to: u64, unit: &str) {
        let remedy = format!("out of range; {from} to {to} {unit}");
        self.require((from..=to).contains(&value), key, value, remedy.trim_end());
    }

    fn name(&mut self, key: &str, name: &str) {
        let good = !name.is_empty()
            && name.len() <= NAME_BYTES
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !name.starts_with('.');
        self.require(
            good,
            key,
            quoted(name),
            "not a name: 1 to 64 letters, digits, '-', '_' or '.', not beginning with '.'",
        );
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        self.require(path.is_absolute(), key, quoted(path.display()), "not an absolute path; begin it with /");
    }

    fn socket_path(&mut self, key: &str, path: &Path) {
        self.absolute(key, path);
        let good = path.as_os_str().len() <= SOCKET_PATH_BYTES;
        self.require(good, key, quoted(path.display()), "too long for a unix socket; 107 bytes at most");
    }

    fn guest(&mut self, guest: Guest) -> GuestConfig {
        self.name("guest.name", &guest.name);
        self.range("guest.vcpus", guest.vcpus.into(), 1, VCPUS_MAX.into(), "");
        self.range("guest.memory_mib", guest.memory_mib, MEMORY_MIB_MIN, MEMORY_MIB_MAX, "MiB");
        self.absolute("guest.kernel", &guest.kernel);
        if let Some(initrd) = &guest.initrd {
            self.absolute("guest.initrd", initrd);
        }
        self.range("guest.shutdown_timeout_s", guest.shutdown_timeout_s, 1, 3600, "s");
        let Guest { name, vcpus, memory_mib, kernel, initrd, cmdline, on_guest_panic, watchdog, shutdown_timeout_s } =
            guest;
        let shutdown_timeout = Duration::from_secs(shutdown_timeout_s);
        self.require(!cmdline.contains('\0'), "guest.cmdline", quoted(&cmdline), "has a zero byte; remove it");
        GuestConfig { name, vcpus, memory_mib, kernel, initrd, cmdline, on_guest_panic, watchdog, shutdown_timeout }
    }

    fn nics(&mut self, nics: Vec<Nic>) -> Vec<NicConfig> {
        let mut checked: Vec<NicConfig> = Vec::new();
        for (index, nic) in nics.into_iter().enumerate() {
            let (tap_key, mac_key) = (format!("nic[{index}].tap"), format!("nic[{index}].mac"));
            self.require(
                is_tap_name(&nic.tap),
                &tap_key,
                quoted(&nic.tap),
                "not an interface name: 1 to 15 characters without '/', ':' or '%'",
            );
            let twice = checked.iter().any(|other| other.tap == nic.tap);
            self.require(!twice, &tap_key, quoted(&nic.tap), "used twice; each nic needs a tap of its own");
            let mac = match parse_mac(&nic.mac) {
                Ok(mac) => mac,
                Err(remedy) => {
                    self.problems.push(Problem::new(mac_key, quoted(&nic.mac), remedy));
                    continue;
                }
            };
            let twice = checked.iter().any(|other| other.mac == mac);
            self.require(!twice, &mac_key, quoted(&nic.mac), "used twice; each nic needs an address of its own");
            checked.push(NicConfig { tap: nic.tap, mac });
        }
        checked
    }

    fn disks(&mut self, disks: Vec<Disk>) -> Vec<DiskConfig> {
        let mut checked: Vec<DiskConfig> = Vec::new();
        for (index, Disk { path, serial, read_only, on_error, timeout_s }) in disks.into_iter().enumerate() {
            let (path_key, serial_key) = (format!("disk[{index}].path"), format!("disk[{index}].serial"));
            self.absolute(&path_key, &path);
            let twice = checked.iter().any(|other| other.path == path);
            self.require(!twice, &path_key, quoted(path.display()), "used twice; each disk needs an image of its own");
            self.require(
                is_serial_number(&serial),
                &serial_key,
                quoted(&serial),
                "not a serial number: 1 to 20 printable characters without spaces",
            );
            let twice = checked.iter().any(|other| other.serial == serial);
            self.require(!twice, &serial_key, quoted(&serial), "used twice; the guest tells its disks apart by it");
            if let Some(timeout_s) = timeout_s {
                self.range(&format!("disk[{index}].timeout_s"), timeout_s.into(), 1, 3600, "s");
            }
            checked.push(DiskConfig { path, serial, read_only, on_error, timeout_s });
        }
        checked
    }

    fn console(&mut self, console: &Console, guest: &str) -> ConsoleConfig {
        let sink = match console.output.split_once(':') {
            None if console.output == "none" => Sink::None,
            None if console.output == "pty" => Sink::Pty(format!("/run/kemari/{guest}.pty").into()),
            Some(("file", path)) => Sink::File(path.into()),
            Some(("pty", path)) => Sink::Pty(path.into()),
            Some(("socket", path)) => Sink::Socket(path.into()),
            _ => {
                let remedy =
                    "not a place for the console; \"none\", \"file:PATH\", \"pty\", \"pty:PATH\" or \"socket:PATH\"";
                self.problems.push(Problem::new("console.output", quoted(&console.output), remedy));
                Sink::None
            }
        };
        match &sink {
            Sink::None => {}
            Sink::File(path) | Sink::Pty(path) => self.absolute("console.output", path),
            Sink::Socket(path) => self.socket_path("console.output", path),
        }
        ConsoleConfig { sink, hold: console.hold }
    }

    fn node(&mut self, node: Node, guest: &str) -> NodeConfig {
        let name = node.name.unwrap_or_else(hostname);
        self.name("node.name", &name);
        let state_dir = node.state_dir.unwrap_or_else(|| format!("/var/lib/kemari/{guest}").into());
        self.absolute("node.state_dir", &state_dir);
        let control = node.control.unwrap_or_else(|| format!("/run/kemari/{guest}.sock").into());
        self.socket_path("node.control", &control);
        NodeConfig { name, state_dir, control }
    }

    fn link(&mut self, link: Link) -> LinkConfig {
        let listen = self.address("link.listen", &link.listen);
        let peer = self.address("link.peer", &link.peer);
        self.require(peer.port() != 0, "link.peer", quoted(&link.peer), "port 0 is no port to connect to");
        self.require(
            listen != peer,
            "link.peer",
            quoted(&link.peer),
            "the same as link.listen; name the other node's address",
        );
        self.absolute("link.key_file", &link.key_file);
        self.range("link.heartbeat_ms", link.heartbeat_ms, 1, 60_000, "ms");
        self.range("link.peer_timeout_ms", link.peer_timeout_ms, 2, 600_000, "ms");
        self.require(
            link.peer_timeout_ms >= 2 * link.heartbeat_ms,
            "link.peer_timeout_ms",
            link.peer_timeout_ms,
            "less than twice link.heartbeat_ms; one lost heartbeat would look like a lost peer",
        );
        LinkConfig {
            listen,
            peer,
            key_file: link.key_file,
            heartbeat: Duration::from_millis(link.heartbeat_ms),
            peer_timeout: Duration::from_millis(link.peer_timeout_ms),
        }
    }

    fn address(&mut self, key: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            let remedy =
                "not an address; write it as \"10.0.0.1:7040\" or \"[fd00::1]:7040\" (a name would need name service)";
            self.problems.push(Problem::new(key, quoted(text), remedy));
            SocketAddr::from(([0, 0, 0, 0], 1))
        })
    }

    fn replication(&mut self, replication: &Replication) -> ReplicationConfig {
        self.range("replication.max_epoch_ms", replication.max_epoch_ms, 1, 60_000, "ms");
        self.range("replication.held_limit_mib", replication.held_limit_mib, 1, 4096, "MiB");
        self.range("replication.checkpoint_mib", replication.checkpoint_mib, 1, 4096, "MiB");
        ReplicationConfig {
            mode: replication.mode,
            max_epoch: Duration::from_millis(replication.max_epoch_ms),
            held_limit_bytes: bytes(replication.held_limit_mib),
            checkpoint_bytes: bytes(replication.checkpoint_mib),
        }
    }
}

fn bytes(mib: u64) -> usize {
    usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("{:?}", text.to_string())
}

fn parse_mac(text: &str) -> Result<[u8; 6], &'static str> {
    let wrong = "not a hardware address; write six pairs of hexadecimal digits, as 52:54:00:12:34:56";
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(wrong)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong)?;
    }
    if pairs.next().is_some() {
        return Err(wrong);
    }
    if mac[0] & 1 == 1 {
        return Err("a multicast address; the lowest bit of the first byte must be 0, as in 52:54:00:12:34:56");
    }
    if mac == [0; 6] {
        return Err("all zeros; take one from 52:54:00:00:00:00 on");
    }
    Ok(mac)
}

/// This host's name, up to the first dot, as Pacemaker names its nodes by default.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}
