//! What every device of a kind has in common.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StateError;

/// A kind of device that a guest may have. Whoever writes a device has to say why it may be done again.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name, which is also that of its saved state: "net", "disk", "rng", "serial", "i8042", "power", "pvpanic" or "watchdog".
    pub name: &'static str,
    /// The version of what [`save`](crate::Device::save) writes.
    pub state_version: u16,
    /// Why a failover does no harm to what goes on between the guest and such a device: what happened since the last checkpoint is
    /// undone, and happens again, perhaps otherwise, and nobody may be able to tell. A device for which there is no such reason has no
    /// place in a machine.
    pub replay: &'static str,
}

impl Kind {
    /// Appends saved state to `into`.
    pub(crate) fn encode(&self, state: &impl Serialize, into: &mut Vec<u8>) {
        match postcard::to_extend(state, std::mem::take(into)) {
            Ok(bytes) => *into = bytes,
            // Plain data into a vector: postcard has nothing to fail at. What is missing is refused by `decode`.
            Err(error) => log::error!("{}: state cannot be saved: {error}", self.name),
        }
    }

    /// The opposite of [`encode`](Kind::encode), for state that has all of `bytes` to itself.
    pub(crate) fn decode<T: DeserializeOwned>(&self, version: u16, bytes: &[u8]) -> Result<T, StateError> {
        let (kind, known) = (self.name, self.state_version);
        if version != known {
            return Err(StateError::Version { kind, version, known });
        }
        match postcard::take_from_bytes(bytes) {
            Ok((state, [])) => Ok(state),
            Ok(_) => Err(self.invalid("bytes follow it".to_owned())),
            Err(source) => Err(StateError::Encoding { kind, source }),
        }
    }

    /// Saved state that decodes, and says what cannot be.
    pub(crate) fn invalid(&self, what: String) -> StateError {
        StateError::Invalid { kind: self.name, what }
    }
}
