//! The guest of a configuration file, as far as the agent needs to know it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    node: NodeTable,
}

#[derive(Deserialize)]
struct GuestTable {
    name: String,
}

#[derive(Deserialize)]
struct NodeTable {
    name: String,
    control: PathBuf,
}

impl Guest {
    /// Reads it. What it says beyond that is the replicator's affair.
    ///
    /// # Errors
    /// There is no such file, or it lacks one of the keys.
    pub(crate) fn read(config: &Path) -> Result<Guest, GuestError> {
        let read = |source| GuestError::Read { path: config.to_owned(), source };
        let text = std::fs::read_to_string(config).map_err(read)?;
        let malformed = |error: toml::de::Error| GuestError::Malformed {
            path: config.to_owned(),
            reason: error.message().to_owned(),
        };
        let File { guest, node } = toml::from_str(&text).map_err(malformed)?;
        Ok(Guest { config: config.to_owned(), name: guest.name, node: node.name, control: node.control })
    }
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
        std::fs::write(&path, "[guest]\nname = \"web\"\n[node]\nname = \"alpha\"\n").expect("writable");
        assert!(Guest::read(&path).expect_err("no socket").to_string().contains("control"));
        assert!(matches!(Guest::read(&directory.path().join("none")), Err(GuestError::Read { .. })));
    }
}
