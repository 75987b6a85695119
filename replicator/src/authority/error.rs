//! Why the authority says no, or cannot say anything.

use std::io;
use std::path::PathBuf;

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
    /// The question was overtaken: this node knows a generation by now that the question did not.
    #[error("this node follows generation {known} by now, not {asked}")]
    Overtaken {
        /// What was asked about, as `number-id`.
        asked: String,
        /// The record's.
        known: String,
    },
    /// The handler says no.
    #[error("{0}")]
    Denied(String),
    /// Nobody knows what the handler has done.
    #[error("not known: {0}")]
    Unknown(String),
    /// The thread that asks the handler is gone.
    #[error("the authority's thread: {0}")]
    Thread(io::Error),
    /// No randomness for a generation's id.
    #[error("cannot draw a random generation id: {0}")]
    Random(getrandom::Error),
}
