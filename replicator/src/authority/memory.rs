//! The durable memory of one node about one guest.
//!
//! It is on stable storage before anything that it allows is done, and is locked (`flock`, so that the lock dies with the
//! process) while a daemon uses it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kemari_control::Standing;
use kemari_core::{Consent, ConsentReason, Generation};

use super::record::{Record, Store};
use super::{AuthorityError, Grant};

const RECORD_FILE: &str = "record";
const LOCK_FILE: &str = "lock";

/// What the record said last, to be read without waiting for the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<(Option<Generation>, Option<Standing>)>>);

impl Known {
    pub(super) fn generation(&self) -> Option<Generation> {
        self.get().0
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        self.get().1
    }

    fn get(&self) -> (Option<Generation>, Option<Standing>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, store: &Store) {
        let record = store.record();
        let new = (record.and_then(Record::generation), record.map(|record| record.standing));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// What this node knows for certain.
#[derive(Debug)]
pub struct Memory {
    guest: String,
    store: Store,
    known: Known,
    /// Keeps the flock for as long as the daemon lives.
    lock: File,
}

impl Memory {
    /// Opens the memory of this node about `guest` in `directory`, making the directory if it is missing.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or the record is damaged or another guest's.
    pub fn open(directory: &Path, guest: &str) -> Result<Memory, AuthorityError> {
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
        let known = Known::default();
        known.learn(&store);
        Ok(Memory { guest: guest.to_owned(), store, known, lock })
    }

    /// Keeps the lock until nothing is left of this process, even if this is dropped before.
    pub(super) fn keep_lock(&self) {
        match self.lock.try_clone() {
            Ok(lock) => std::mem::forget(lock),
            Err(error) => log::error!("the state directory is given up early: {error}"),
        }
    }

    /// What it knows, for those who must not wait for it.
    pub(super) fn known(&self) -> Known {
        self.known.clone()
    }

    fn write(&mut self, record: Record) -> Result<(), AuthorityError> {
        self.store.write(record)?;
        self.known.learn(&self.store);
        Ok(())
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
        let generation = Generation { number: 1, id: super::random_id()? };
        self.write(Record::new(&self.guest, generation, Standing::Created))?;
        Ok(generation)
    }

    /// The newest generation this node knows.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.known.generation()
    }

    /// What this node was when the record was last written.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.known.standing()
    }

    /// Makes `generation` the one this node follows.
    ///
    /// # Errors
    /// The record cannot be written; nothing may then be done in that generation.
    pub fn follow(&mut self, generation: Generation) -> Result<(), AuthorityError> {
        self.write(Record::new(&self.guest, generation, Standing::Standby))
    }

    /// Marks what this node holds of `generation` as never to be resumed.
    ///
    /// # Errors
    /// The record cannot be written, or is of another generation or of a primary.
    pub fn outdate(&mut self, generation: Generation) -> Result<(), AuthorityError> {
        match (self.generation(), self.standing()) {
            // A newer one, too, is not this node's to have: what nobody was granted would count for more than the primary's.
            (Some(known), _) if known != generation => return Err(overtaken(generation, Some(known))),
            (Some(known), Some(Standing::Primary)) if known == generation => {
                return Err(AuthorityError::Denied(format!("this node is the primary of generation {known}")));
            }
            _ => {}
        }
        self.write(Record::new(&self.guest, generation, Standing::Outdated))
    }

    /// The generation from which a guest without image would boot, and whether it has never run.
    ///
    /// To boot is right for a guest that never ran, and otherwise only if somebody who knows more says so: this node cannot
    /// know whether the other holds a newer image.
    ///
    /// # Errors
    /// There is no record.
    pub(super) fn bootable(&self) -> Result<(Generation, bool), AuthorityError> {
        match (self.generation(), self.standing()) {
            (Some(generation), standing) => Ok((generation, standing == Some(Standing::Created))),
            (None, _) => Err(AuthorityError::NothingToResume(
                "this node has no record of the guest. Run `kemari-replicator create` on the node that is to boot it \
                 first, or wait until this one is in sync",
            )),
        }
    }

    /// Makes this node the primary of `to`, which follows `from`.
    ///
    /// # Errors
    /// The record is of another generation than `from`, or cannot be written; the node must then not become primary.
    pub(super) fn grant(&mut self, from: Generation, to: Generation) -> Result<Grant, AuthorityError> {
        self.expect(from)?;
        self.write(Record::new(&self.guest, to, Standing::Primary))?;
        Ok(Grant { generation: to })
    }

    /// Consent for the primary of `generation` to run unprotected.
    ///
    /// # Errors
    /// The record is of another generation, or cannot be written; then there is no consent.
    pub(super) fn consent(&mut self, generation: Generation, reason: ConsentReason) -> Result<Consent, AuthorityError> {
        self.expect(generation)?;
        self.write(Record::new(&self.guest, generation, Standing::Primary))?;
        Ok(Consent::recorded(generation, reason))
    }

    /// Withdraws consent: the standby gates the output of `generation` again.
    ///
    /// # Errors
    /// The record is of another generation, or cannot be written.
    pub(super) fn protect(&mut self, generation: Generation) -> Result<(), AuthorityError> {
        self.expect(generation)?;
        self.write(Record::new(&self.guest, generation, Standing::Primary))
    }

    /// The record never goes back: an answer that comes late must not undo what was learned meanwhile.
    fn expect(&self, generation: Generation) -> Result<(), AuthorityError> {
        if self.generation() == Some(generation) { Ok(()) } else { Err(overtaken(generation, self.generation())) }
    }
}

fn overtaken(asked: Generation, known: Option<Generation>) -> AuthorityError {
    let known = known.map_or_else(|| "none".to_owned(), |known| known.to_string());
    AuthorityError::Overtaken { asked: asked.to_string(), known }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Memory {
        Memory::open(directory, "web").expect("an empty directory")
    }

    fn generation(number: u64) -> Generation {
        Generation { number, id: 0xf00 + number }
    }

    #[test]
    fn a_guest_is_created_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut memory = open(directory.path());
        assert!(matches!(memory.bootable(), Err(AuthorityError::NothingToResume(_))));
        let first = memory.create().expect("nothing there");
        assert!(matches!(memory.create(), Err(AuthorityError::Exists { .. })));
        assert_eq!(memory.bootable().expect("created"), (first, true));
        let grant = memory.grant(first, generation(2)).expect("writable");
        assert_eq!(memory.bootable().expect("created"), (grant.generation(), false));
    }

    #[test]
    fn what_was_granted_is_known_after_a_restart() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut memory = open(directory.path());
        memory.follow(generation(7)).expect("writable");
        let grant = memory.grant(generation(7), generation(8)).expect("writable");
        drop(memory);
        let memory = open(directory.path());
        assert_eq!(memory.generation(), Some(grant.generation()));
        assert_eq!(memory.standing(), Some(Standing::Primary));
    }

    #[test]
    fn an_answer_that_comes_late_undoes_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut memory = open(directory.path());
        memory.follow(generation(7)).expect("writable");
        memory.follow(generation(9)).expect("writable");
        assert!(matches!(memory.grant(generation(7), generation(8)), Err(AuthorityError::Overtaken { .. })));
        assert!(matches!(memory.protect(generation(7)), Err(AuthorityError::Overtaken { .. })));
        let reason = ConsentReason::NamedAlone;
        assert!(matches!(memory.consent(generation(7), reason), Err(AuthorityError::Overtaken { .. })));
        assert_eq!((memory.generation(), memory.standing()), (Some(generation(9)), Some(Standing::Standby)));
    }

    #[test]
    fn a_standby_is_outdated_until_it_follows_again_and_a_primary_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut memory = open(directory.path());
        memory.follow(generation(7)).expect("writable");
        for other in [6, 8, 70] {
            assert!(matches!(memory.outdate(generation(other)), Err(AuthorityError::Overtaken { .. })));
        }
        memory.outdate(generation(7)).expect("writable");
        assert_eq!(memory.standing(), Some(Standing::Outdated));
        drop(memory);
        let mut memory = open(directory.path());
        assert_eq!(memory.standing(), Some(Standing::Outdated));
        memory.follow(generation(7)).expect("writable");
        let _ = memory.grant(generation(7), generation(8)).expect("writable");
        assert!(matches!(memory.outdate(generation(8)), Err(AuthorityError::Denied(_))));
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let first = open(directory.path());
        assert!(matches!(Memory::open(directory.path(), "web"), Err(AuthorityError::Locked { .. })));
        drop(first);
        open(directory.path()).keep_lock();
        assert!(matches!(Memory::open(directory.path(), "web"), Err(AuthorityError::Locked { .. })));
    }

    #[test]
    fn damage_and_other_guests_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        open(directory.path()).create().expect("nothing there");
        assert!(matches!(Memory::open(directory.path(), "db"), Err(AuthorityError::OtherGuest { .. })));
        fs::write(directory.path().join(RECORD_FILE), "{").expect("writable");
        assert!(matches!(Memory::open(directory.path(), "web"), Err(AuthorityError::Damaged { .. })));
    }
}
