//! Who may speak: the authority that grants generations and consent.
//!
//! Here the authority is the operator, through explicit commands, and its memory is one small record per guest and node. It
//! is on stable storage before anything that it allows is done, and is locked (`flock`, so that the lock dies with the
//! process) while a daemon uses it.
//!
//! The two things it hands out are types: a [`Grant`] is needed to become primary, a [`Consent`] to run unprotected.

mod record;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kemari_core::{Consent, ConsentReason, Generation};

use self::record::Store;
pub use self::record::{Record, Standing};

const RECORD_FILE: &str = "record";
const LOCK_FILE: &str = "lock";

/// Why the authority says no, or cannot say anything.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The state directory or a file in it cannot be used.
    #[error("{}: {source}; node.state_dir must be a directory that root can write to", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The record is there and cannot be read as one.
    #[error("{}: not a record ({reason}); restore it from a backup, or remove it and resync this node as a standby", path.display())]
    Damaged {
        /// The record file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The record belongs to another guest.
    #[error("{}: this is the record of guest {found:?}, not of {wanted:?}; give each guest its own node.state_dir", path.display())]
    OtherGuest {
        /// The record file.
        path: PathBuf,
        /// Named in it.
        found: String,
        /// Named in the configuration.
        wanted: String,
    },
    /// Another process has the lock.
    #[error("{}: another kemari-replicator is using this state directory; stop it first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// `create` where a record exists.
    #[error("{}: a record exists (generation {generation}); the guest was created before. Remove the file only if its history is to be forgotten", path.display())]
    Exists {
        /// The record file.
        path: PathBuf,
        /// Recorded in it.
        generation: String,
    },
    /// Promotion on a node that holds nothing to resume, and was not told to boot the guest anew.
    #[error("{0}")]
    NothingToResume(&'static str),
    /// No randomness for a generation's id.
    #[error("cannot draw a random generation id: {0}")]
    Random(getrandom::Error),
}

/// The authority's word that this node is the primary of a generation, already on stable storage.
///
/// It includes consent: a new generation names its first primary alone, so no other node can be promoted in it until a
/// standby has caught up.
#[derive(Debug)]
#[must_use = "a generation that was granted and is not used leaves the guest without a primary"]
pub struct Grant {
    generation: Generation,
}

impl Grant {
    /// The generation granted.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The consent it includes.
    pub fn into_consent(self) -> Consent {
        Consent::recorded(self.generation, ConsentReason::NamedAlone)
    }
}

/// The operator's word, remembered in a directory of this node.
#[derive(Debug)]
pub struct Authority {
    guest: String,
    store: Store,
    /// Keeps the flock for as long as the daemon lives.
    _lock: File,
}

impl Authority {
    /// Opens the memory of this node about `guest` in `directory`, making the directory if it is missing.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or the record is damaged or another guest's.
    pub fn open(directory: &Path, guest: &str) -> Result<Authority, AuthorityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::Io { path, source }
        };
        fs::create_dir_all(directory).map_err(io(directory))?;
        let lock_path = directory.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(AuthorityError::Locked { path: lock_path }),
            Err(fs::TryLockError::Error(source)) => return Err(AuthorityError::Io { path: lock_path, source }),
        }
        let store = Store::open(directory, &directory.join(RECORD_FILE), guest)?;
        Ok(Authority { guest: guest.to_owned(), store, _lock: lock })
    }

    /// Writes the first record of a guest: this node is the one to boot it.
    ///
    /// # Errors
    /// A record exists already, or cannot be written.
    pub fn create(&mut self) -> Result<Generation, AuthorityError> {
        if let Some(record) = self.store.record() {
            let generation = format!("{}-{}", record.generation_number, record.generation_id);
            return Err(AuthorityError::Exists { path: self.store.path().to_owned(), generation });
        }
        let generation = Generation { number: 1, id: random_id()? };
        self.store.write(Record::new(&self.guest, generation, Standing::Created))?;
        Ok(generation)
    }

    /// The newest generation this node knows.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.store.record().and_then(Record::generation)
    }

    /// Makes `generation` the one this node follows.
    ///
    /// # Errors
    /// The record cannot be written; nothing may then be done in that generation.
    pub fn follow(&mut self, generation: Generation) -> Result<(), AuthorityError> {
        self.store.write(Record::new(&self.guest, generation, Standing::Standby))
    }

    /// Grants the generation after `from` to this node, which holds the newest image of `from`.
    ///
    /// # Errors
    /// The record cannot be written; the node must then not become primary.
    pub fn promote(&mut self, from: Generation) -> Result<Grant, AuthorityError> {
        let generation = from.next(random_id()?);
        self.store.write(Record::new(&self.guest, generation, Standing::Primary).unprotected())?;
        Ok(Grant { generation })
    }

    /// Whether this node was named to boot a guest that never ran.
    #[must_use]
    pub fn may_boot(&self) -> bool {
        self.store.record().is_some_and(|record| record.standing == Standing::Created)
    }

    /// Grants a generation in which the guest boots from its disk, without memory of what it did before.
    ///
    /// That is right for a guest that never ran, and otherwise only if the operator says so (`insist`): this node cannot
    /// know whether the other holds a newer image.
    ///
    /// # Errors
    /// There is no record, or one of a guest that ran, and the operator did not insist; or the record cannot be written.
    pub fn cold_boot(&mut self, insist: bool) -> Result<Grant, AuthorityError> {
        let from = match (self.store.record(), self.generation()) {
            (Some(record), Some(generation)) if insist || record.standing == Standing::Created => generation,
            (Some(_), _) => {
                return Err(AuthorityError::NothingToResume(
                    "this node holds no image in sync to resume. Promote the node that does; if neither has one, boot the \
                     guest from its disk with `promote --cold-boot`",
                ));
            }
            (None, _) => {
                return Err(AuthorityError::NothingToResume(
                    "this node has no record of the guest. Run `kemari-replicator create` on the node that is to boot it \
                     first, or wait until this one is in sync",
                ));
            }
        };
        self.promote(from)
    }

    /// Consent for the primary of `generation` to run unprotected, by the operator's command.
    ///
    /// # Errors
    /// The record cannot be written; then there is no consent.
    pub fn consent(&mut self, generation: Generation) -> Result<Consent, AuthorityError> {
        self.store.write(Record::new(&self.guest, generation, Standing::Primary).unprotected())?;
        Ok(Consent::recorded(generation, ConsentReason::Operator))
    }

    /// Withdraws consent: the standby gates the output of `generation` again.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn protect(&mut self, generation: Generation) -> Result<(), AuthorityError> {
        self.store.write(Record::new(&self.guest, generation, Standing::Primary))
    }
}

fn random_id() -> Result<u64, AuthorityError> {
    getrandom::u64().map_err(AuthorityError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Authority {
        Authority::open(directory, "web").expect("an empty directory")
    }

    #[test]
    fn a_guest_is_created_once_and_boots_once_without_insisting() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut authority = open(directory.path());
        assert!(matches!(authority.cold_boot(true), Err(AuthorityError::NothingToResume(_))));
        let first = authority.create().expect("nothing there");
        assert!(matches!(authority.create(), Err(AuthorityError::Exists { .. })));
        let grant = authority.cold_boot(false).expect("created, never run");
        assert!(grant.generation().is_newer_than(first));
        assert!(matches!(authority.cold_boot(false), Err(AuthorityError::NothingToResume(_))));
        assert!(authority.cold_boot(true).is_ok());
    }

    #[test]
    fn what_was_granted_is_known_after_a_restart() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut authority = open(directory.path());
        let followed = Generation { number: 7, id: 0xf00 };
        authority.follow(followed).expect("writable");
        let grant = authority.promote(followed).expect("writable");
        assert!(grant.generation().is_newer_than(followed));
        drop(authority);
        assert_eq!(open(directory.path()).generation(), Some(grant.generation()));
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let first = open(directory.path());
        assert!(matches!(Authority::open(directory.path(), "web"), Err(AuthorityError::Locked { .. })));
        drop(first);
        open(directory.path());
    }

    #[test]
    fn damage_and_other_guests_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        open(directory.path()).create().expect("nothing there");
        assert!(matches!(Authority::open(directory.path(), "db"), Err(AuthorityError::OtherGuest { .. })));
        fs::write(directory.path().join(RECORD_FILE), "{").expect("writable");
        assert!(matches!(Authority::open(directory.path(), "web"), Err(AuthorityError::Damaged { .. })));
    }
}
