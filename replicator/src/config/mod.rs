//! The configuration file: one guest on one node.
//!
//! It is read in two steps: serde says what is no such file (an unknown key, a wrong type), with its line; then every value is
//! checked by itself and with the others, and everything that is wrong is said at once, each with the key, the value and what to
//! do about it. Whether this host has what it names is another question, which [`check`](crate::check) answers.

mod file;
mod problem;
mod refused;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kemari_vmm::{ConsoleConfig, DiskConfig, MachineConfig, NicConfig};

use self::file::File;
pub use self::problem::Problem;

/// When the guest runs on after a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At once, while the checkpoint travels.
    Event,
    /// When the standby has acknowledged it: Kemari as published in 2010, kept as the baseline.
    Sync,
}

/// What is done about a guest that crashes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnGuestPanic {
    /// It is booted anew where it is.
    Restart,
    /// The standby resumes it from the last checkpoint; if it then crashes again soon, it is booted anew.
    FailoverOnce,
    /// It stands still, to be looked at.
    Stop,
}

impl OnGuestPanic {
    /// As it is written in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OnGuestPanic::Restart => "restart",
            OnGuestPanic::FailoverOnce => "failover-once",
            OnGuestPanic::Stop => "stop",
        }
    }
}

/// A configuration that makes sense by itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the guest is made of.
    pub guest: GuestConfig,
    /// Network cards.
    pub nics: Vec<NicConfig>,
    /// Disks.
    pub disks: Vec<DiskConfig>,
    /// The serial port.
    pub console: ConsoleConfig,
    /// This node.
    pub node: NodeConfig,
    /// The way to the other one.
    pub link: LinkConfig,
    /// How checkpoints are made.
    pub replication: ReplicationConfig,
}

/// `[guest]`.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its name, the same on both nodes.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// A bzImage, or an ELF with a PVH entry.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// What is done when it crashes.
    pub on_guest_panic: OnGuestPanic,
    /// Whether it has a watchdog.
    pub watchdog: bool,
    /// How long it may take to shut down when it is asked to.
    pub shutdown_timeout: Duration,
}

/// `[node]`.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's name.
    pub name: String,
    /// Where it keeps its record.
    pub state_dir: PathBuf,
    /// Its control socket.
    pub control: PathBuf,
}

/// `[link]`.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Where this node is to be found by the other.
    pub listen: SocketAddr,
    /// Where the other is to be found.
    pub peer: SocketAddr,
    /// The key that both have.
    pub key_file: PathBuf,
    /// Something is sent at least this often.
    pub heartbeat: Duration,
    /// Silence after which the peer counts as lost.
    pub peer_timeout: Duration,
}

/// `[replication]`.
#[derive(Clone, Debug)]
pub struct ReplicationConfig {
    /// When the guest runs on after a checkpoint.
    pub mode: Mode,
    /// Longest epoch of a protected guest.
    pub max_epoch: Duration,
    /// Held output from which on the guest is slowed, in bytes.
    pub held_limit_bytes: usize,
    /// What a checkpoint is to stay below, by epochs that are shorter the faster the guest writes.
    pub checkpoint_bytes: usize,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; name the configuration file with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not TOML, or not of this shape.
    #[error("{}: {source}see kemari-replicator.toml(5)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        source: Box<toml::de::Error>,
    },
    /// Values make no sense.
    #[error("{}", problem::list(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, or it has something wrong; says all of it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// The same for text that came from `path`.
    ///
    /// # Errors
    /// As [`load`](Config::load).
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let parse_error = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
        let invalid = |problems| ConfigError::Invalid { path: path.to_owned(), problems };
        let refused = refused::requests(&toml::from_str(text).map_err(parse_error)?);
        if !refused.is_empty() {
            return Err(invalid(refused));
        }
        toml::from_str::<File>(text).map_err(parse_error)?.checked().map_err(invalid)
    }

    /// What the machine is made of.
    #[must_use]
    pub fn machine(&self) -> MachineConfig {
        let guest = &self.guest;
        MachineConfig {
            vcpus: guest.vcpus,
            memory_mib: guest.memory_mib,
            kernel: guest.kernel.clone(),
            initrd: guest.initrd.clone(),
            cmdline: guest.cmdline.clone(),
            nics: self.nics.clone(),
            disks: self.disks.clone(),
            console: self.console.clone(),
            watchdog: guest.watchdog,
        }
    }
}
