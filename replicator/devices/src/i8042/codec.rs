//! Saved state as bytes, until the devices share one codec.

use crate::StateError;

/// Appends saved state to `into`.
pub(crate) fn encode(state: &impl serde::Serialize, into: &mut Vec<u8>) {
    match postcard::to_extend(state, std::mem::take(into)) {
        Ok(bytes) => *into = bytes,
        // Plain data into a vector: postcard has nothing to fail at. What is missing is refused by `decode`.
        Err(error) => log::error!("state cannot be saved: {error}"),
    }
}

/// The opposite of [`encode`], for state that has all of `bytes` to itself.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    kind: &'static str,
    known: u16,
    version: u16,
    bytes: &[u8],
) -> Result<T, StateError> {
    if version != known {
        return Err(StateError::Version { kind, version, known });
    }
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Ok(state),
        Ok(_) => Err(StateError::Invalid { kind, what: "bytes follow it".to_owned() }),
        Err(source) => Err(StateError::Encoding { kind, source }),
    }
}
