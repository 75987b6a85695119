//! The pre-shared key and its file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// First line of a key file.
const HEADER: &str = "kemari-key-1";
/// A key file is under a hundred bytes.
const FILE_LIMIT_BYTES: u64 = 4096;

/// The secret that the two nodes share.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("{}: {source}; `kemari-replicator keygen FILE` makes a key, which is then copied to the other node", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `keygen` where a file is.
    #[error("{}: exists; a key that is in use must not be replaced on one node only. Remove it first if that is meant", path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// Somebody else owns it.
    #[error("{}: owned by user {owner}, not by user {user}; `chown {user}` it", path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this program.
        user: u32,
    },
    /// Others can read or write it.
    #[error("{}: mode {mode:04o} lets others at the key; `chmod 600` it", path.display())]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key file.
    #[error("{}: not a key file (line 1 is {HEADER}, line 2 has 64 hexadecimal digits); make one with `kemari-replicator keygen`", path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// No randomness.
    #[error("cannot draw a key: {0}")]
    Random(getrandom::Error),
}

impl Key {
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Reads a key file, which must be for its owner alone.
    ///
    /// # Errors
    /// It is missing, others may read or write it, or it is no key file.
    pub fn load(path: &Path) -> Result<Key, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        // SAFETY: geteuid has no preconditions and cannot fail.
        let user = unsafe { libc::geteuid() };
        if metadata.uid() != user {
            return Err(KeyError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Mode { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        let mut text = String::new();
        file.take(FILE_LIMIT_BYTES).read_to_string(&mut text).map_err(io)?;
        parse(&text).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    /// Draws a key and writes it to a new file, for its owner alone.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn generate(path: &Path) -> Result<Key, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists { path: path.to_owned() });
            }
            other => other.map_err(io)?,
        };
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{HEADER}\n{digits}").and_then(|()| file.sync_all()).map_err(io)?;
        Ok(Key(bytes))
    }
}

fn parse(text: &str) -> Option<Key> {
    let mut lines = text.lines();
    let (HEADER, digits, None) = (lines.next()?, lines.next()?, lines.next()) else { return None };
    if digits.len() != 2 * KEY_BYTES || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(Key(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("key");
        let key = Key::generate(&path).expect("a new file");
        assert_eq!(fs::metadata(&path).expect("just made").mode() & 0o777, 0o600);
        assert_eq!(Key::load(&path).expect("just made").0, key.0);
        assert!(matches!(Key::generate(&path), Err(KeyError::Exists { .. })));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("key");
        Key::generate(&path).expect("a new file");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
        assert!(matches!(Key::load(&path), Err(KeyError::Mode { mode: 0o640, .. })));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let digits = "ab".repeat(32);
        assert!(parse(&format!("{HEADER}\n{digits}\n")).is_some());
        for text in [
            String::new(),
            digits.clone(),
            format!("{HEADER}\n{digits}ab\n"),
            format!("{HEADER}\n{digits}\nx\n"),
            format!("{HEADER}\n{}\n", "zz".repeat(32)),
            format!("{HEADER}\n{}\n", "é".repeat(32)),
        ] {
            assert!(parse(&text).is_none(), "{text:?}");
        }
    }
}
