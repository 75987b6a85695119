//! What a node says about itself when it meets its peer, and how that is compared.

use std::time::Duration;

use kemari_core::same_frequency;
use serde::{Deserialize, Serialize};

use crate::limits::{IDENTITY_KEYS, NAME_BYTES, VALUE_BYTES};

/// What must be equal on both hosts, key by key, before a guest may move between them.
///
/// Keys are short names such as `memory_mib` or `nic0.mac`; the machine provides them. What ends in `_khz` is a measured frequency,
/// which need only be the [same](same_frequency) as far as it can be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(Vec<(String, String)>);

impl Identity {
    /// An identity of these `(key, value)` pairs, in this order.
    ///
    /// # Errors
    /// More than 256 keys, a key or value longer than 256 bytes, or the same key twice.
    pub fn new(pairs: Vec<(String, String)>) -> Result<Identity, ConfigError> {
        let identity = Identity(pairs);
        identity.check()?;
        Ok(identity)
    }

    /// The same check for an identity that came from a peer.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.0.len() > IDENTITY_KEYS {
            return Err(ConfigError::TooManyKeys { keys: self.0.len() });
        }
        for (index, (key, value)) in self.0.iter().enumerate() {
            if key.is_empty() || key.len() > VALUE_BYTES || value.len() > VALUE_BYTES {
                return Err(ConfigError::KeyOrValueLength { index });
            }
            if self.0[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(ConfigError::DuplicateKey { key: key.clone() });
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What differs, one sentence a key, naming both nodes: `memory_mib: alpha has 256, beta has 512`.
    pub(crate) fn differences(&self, node: &str, other: &Identity, other_node: &str) -> Vec<String> {
        let mut differences = Vec::new();
        for (key, value) in &self.0 {
            match other.get(key) {
                Some(theirs) if agree(key, value, theirs) => {}
                Some(theirs) => differences.push(format!("{key}: {node} has {value}, {other_node} has {theirs}")),
                None => differences.push(format!("{key}: {node} has {value}, {other_node} has none")),
            }
        }
        for (key, value) in other.0.iter().filter(|(key, _)| self.get(key).is_none()) {
            differences.push(format!("{key}: {node} has none, {other_node} has {value}"));
        }
        differences
    }
}

fn agree(key: &str, one: &str, other: &str) -> bool {
    let khz = |value: &str| value.parse::<u32>().ok().filter(|_| key.ends_with("_khz"));
    let measured = khz(one).zip(khz(other)).is_some_and(|(one, other)| same_frequency(one, other));
    measured || one == other
}

/// One node's part of the pair: the same type for either role.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, 1 to 64 bytes; it appears in the peer's messages.
    pub node: String,
    /// What must be equal on both hosts.
    pub identity: Identity,
    /// Pages in the guest, at least 1.
    pub pages: u64,
    /// Something is sent at least this often, so that the peer knows we live. At least 1 ms.
    pub heartbeat: Duration,
    /// Silence after which the peer counts as lost. At least twice `heartbeat`, and twice the peer's.
    pub peer_timeout: Duration,
    /// Checkpoints that may be sent and not yet acknowledged, 1 to 16. Only a primary uses it.
    pub depth: usize,
}

impl Config {
    /// Checks every bound.
    ///
    /// # Errors
    /// Names the value that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.node.is_empty() || self.node.len() > NAME_BYTES {
            return Err(ConfigError::NodeName { bytes: self.node.len() });
        }
        self.identity.check()?;
        if self.pages == 0 {
            return Err(ConfigError::NoMemory);
        }
        let (heartbeat, peer_timeout) = (self.heartbeat, self.peer_timeout);
        if heartbeat < Duration::from_millis(1) || peer_timeout < heartbeat * 2 || peer_timeout > LONGEST_TIMEOUT {
            return Err(ConfigError::Timeouts { heartbeat, peer_timeout });
        }
        if !(1..=16).contains(&self.depth) {
            return Err(ConfigError::Depth { depth: self.depth });
        }
        Ok(())
    }
}

impl Config {
    /// Whether a peer that sends something every `heartbeat_ms` is heard in time; a sentence that names both if not.
    pub(crate) fn check_peer(&self, peer: &str, heartbeat_ms: u32) -> Result<(), String> {
        let heartbeat = Duration::from_millis(heartbeat_ms.into());
        if heartbeat * 2 <= self.peer_timeout {
            return Ok(());
        }
        Err(format!(
            "{peer} sends a heartbeat every {heartbeat:?}, but {} takes it for lost after {:?}; configure both alike",
            self.node, self.peer_timeout
        ))
    }
}

/// Past this a timeout is a mistake; it also keeps sums of instants far from overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// A [`Config`] that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The node name is empty or too long.
    #[error("a node name has 1 to {NAME_BYTES} bytes, not {bytes}")]
    NodeName {
        /// Its length.
        bytes: usize,
    },
    /// The identity has too many keys.
    #[error("an identity has at most {IDENTITY_KEYS} keys, not {keys}")]
    TooManyKeys {
        /// How many.
        keys: usize,
    },
    /// A key is empty, or a key or value is too long.
    #[error("key number {index} of the identity, or its value, is empty or longer than {VALUE_BYTES} bytes")]
    KeyOrValueLength {
        /// Position of the key, from 0.
        index: usize,
    },
    /// A key appears twice.
    #[error("the identity has the key {key} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A guest without memory.
    #[error("the guest has no pages")]
    NoMemory,
    /// Heartbeat and timeout do not go together.
    #[error(
        "the peer timeout ({peer_timeout:?}) must be at least twice the heartbeat ({heartbeat:?}), which is at least 1 ms, \
         and at most one hour"
    )]
    Timeouts {
        /// As configured.
        heartbeat: Duration,
        /// As configured.
        peer_timeout: Duration,
    },
    /// The pipeline is too shallow or too deep.
    #[error("1 to 16 checkpoints may be in flight, not {depth}")]
    Depth {
        /// As configured.
        depth: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_frequencies_need_only_be_about_equal() {
        let differences = |key: &str, ours: &str, theirs: &str| {
            let identity = |value: &str| Identity::new(vec![(key.to_owned(), value.to_owned())]).expect("good");
            identity(ours).differences("alpha", &identity(theirs), "beta")
        };
        // Either side of what would round to another MHz.
        assert!(differences("tsc_khz", "2445499", "2445501").is_empty());
        let expected = "tsc_khz: alpha has 2445430, beta has 2000000";
        assert_eq!(differences("tsc_khz", "2445430", "2000000"), [expected]);
        assert_eq!(differences("memory_mib", "2445499", "2445501").len(), 1, "not measured");
        assert_eq!(differences("tsc_khz", "2445499", "none").len(), 1);
    }
}
