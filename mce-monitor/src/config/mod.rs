//! The configuration file. Every key has a default; a file that is empty, or not there at all, is a good one.
//!
//! serde says what is no such file, with its line (a key that is not known, a threshold that is none); then every value is checked,
//! and all that is wrong is said at once, each with the key, the value and what to do about it.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::health::Thresholds;

/// Where the configuration is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kemari/mce-monitor.toml";

/// What is watched, by what it is judged, and who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is watched.
    pub sources: SourcesConfig,
    /// This daemon.
    pub daemon: DaemonConfig,
    /// The cluster that is told.
    pub cluster: ClusterConfig,
    /// The guests that are told.
    pub guests: GuestsConfig,
    /// How much is too much.
    pub thresholds: Thresholds,
}

/// `[sources]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcesConfig {
    /// Where tracefs is.
    pub tracefs: PathBuf,
    /// The instance in it that belongs to this daemon.
    pub instance: String,
    /// Where sysfs is.
    pub sysfs: PathBuf,
    /// The kernel's log.
    pub kmsg: PathBuf,
    /// Machine checks, on old kernels.
    pub mcelog: PathBuf,
    /// Whether to listen to the kernel's messages about links and devices.
    pub netlink: bool,
    /// A datagram socket to listen at in place of rtnetlink.
    pub links: Option<PathBuf>,
    /// The same in place of the kernel's uevents.
    pub uevents: Option<PathBuf>,
    /// How often sysfs is looked at.
    pub reconcile: Duration,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Its control socket.
    pub control: PathBuf,
    /// Where it keeps what it knows.
    pub state: PathBuf,
    /// Parts that are told apart at most.
    pub parts_max: usize,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Whether Pacemaker is told.
    pub enabled: bool,
    /// This node's name in it.
    pub node: String,
}

/// `[guests]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestsConfig {
    /// The directory of the guests' configurations, which name their control sockets.
    pub configs: PathBuf,
    /// Control sockets of others.
    pub sockets: Vec<PathBuf>,
    /// The directory in which every socket, whose name ends in `.sock`, is a guest's.
    pub run: PathBuf,
    /// But for this daemon's own.
    pub own: PathBuf,
    /// Longest epoch of a guest on a host that is not green.
    pub pace: Duration,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: &'static str,
    /// Its value, as written.
    pub value: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.remedy)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; name the configuration with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not TOML, or not of this shape.
    #[error("{}: {source}see kemari-mce-monitor(8)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        source: Box<toml::de::Error>,
    },
    /// Values make no sense.
    #[error("{}", list(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Vec<Problem>,
    },
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
    lines.join("\n")
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// It cannot be read, or has something wrong; says all of it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// The same; without `path` the default one is read if it is there.
    ///
    /// # Errors
    /// As [`load`](Config::load).
    pub fn find(path: Option<&Path>) -> Result<Config, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        match path {
            Some(path) => Config::load(path),
            None if default.exists() => Config::load(default),
            None => Config::parse("", default),
        }
    }

    /// The control socket that a configuration names, and nothing else of it: whoever asks a running daemon must not be kept from
    /// it by a mistake that was made since. Without `path` as in [`find`](Config::find).
    ///
    /// # Errors
    /// It cannot be read, or is no TOML.
    pub fn control_socket(path: Option<&Path>) -> Result<PathBuf, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let text = match path {
            None if !default.exists() => String::new(),
            _ => {
                let path = path.unwrap_or(default);
                fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?
            }
        };
        file::control_socket(&text)
            .map_err(|source| ConfigError::Parse { path: path.unwrap_or(default).to_owned(), source: Box::new(source) })
    }

    /// The same for text that came from `path`.
    ///
    /// # Errors
    /// As [`load`](Config::load).
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let file: file::File = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        file.checked().map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }
}
