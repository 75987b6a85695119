//! The guest of a configuration file, as far as the agent needs to know it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority::name;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// It cannot be read.
    #[error("{}: {source}; the parameter config names the guest's TOML file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {reason}; `kemari-replicator check {}` says more", path.display(), path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What the agent needs of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Its configuration file.
    pub(crate) config: PathBuf,
    pub(crate) name: String,
    /// The replicator's name for this node, which must be the cluster's.
    pub(crate) node: String,
    /// The replicator's control socket.
    pub(crate) control: PathBuf,
}

#[derive(Deserialize)]
struct File {
    guest: GuestTable,
    #[serde(default)]
    node: NodeTable,
}

#[derive(Deserialize)]
struct GuestTable {
    name: String,
}

#[derive(Default, Deserialize)]
struct NodeTable {
    name: Option<String>,
    control: Option<PathBuf>,
}

impl Guest {
    /// Reads it. What it says beyond that is the replicator's affair.
    ///
    /// # Errors
    /// There is no such file, or it lacks one of the keys.
    pub(crate) fn read(config: &Path) -> Result<Guest, GuestError> {
        let read = |source| GuestError::Read { path: config.to_owned(), source };
        let text = std::fs::read_to_string(config).map_err(read)?;
        Guest::parse(config, &text, hostname)
            .map_err(|reason| GuestError::Malformed { path: config.to_owned(), reason: reason.replace('\n', " ") })
    }

    /// What is not said is as the replicator takes it. Both names go into the cluster's record, which holds not every name.
    fn parse(config: &Path, text: &str, hostname: fn() -> String) -> Result<Guest, String> {
        let File { guest, node } = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let guest = name(&guest.name).map_err(|error| error.to_string())?;
        let node_name = name(&node.name.unwrap_or_else(hostname)).map_err(|error| error.to_string())?;
        let control = node.control.unwrap_or_else(|| format!("/run/kemari/{guest}.sock").into());
        Ok(Guest { config: config.to_owned(), name: guest, node: node_name, control })
    }
}

/// This host's name up to the first dot.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_among_others() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("web.toml");
        let text =
            "[guest]\nname = \"web\"\nmemory_mib = 64\n[node]\nname = \"alpha\"\ncontrol = \"/run/kemari/web.sock\"\n";
        std::fs::write(&path, text).expect("writable");
        let guest = Guest::read(&path).expect("a configuration");
        assert_eq!((guest.name.as_str(), guest.node.as_str()), ("web", "alpha"));
        assert!(matches!(Guest::read(&directory.path().join("none")), Err(GuestError::Read { .. })));
    }

    #[test]
    fn what_is_not_said_is_as_the_replicator_takes_it() {
        let parse = |text| Guest::parse(Path::new("/web.toml"), text, || "alpha".to_owned());
        let guest = parse("[guest]\nname = \"web\"\n").expect("enough");
        assert_eq!((guest.node.as_str(), guest.control), ("alpha", "/run/kemari/web.sock".into()));
        assert_eq!(parse("[guest]\nname = \"web\"\n[node]\nname = \"beta\"\n").expect("enough").node, "beta");
        assert!(parse("[guest]\n").is_err());
        assert!(parse("[guest]\nname = \"w'b\"\n").expect_err("no such record").contains("w'b"));
    }
}
