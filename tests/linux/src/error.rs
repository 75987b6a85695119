//! What the guest, or the way to it, did wrong.

use std::io;
use std::path::PathBuf;

/// Why a test fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The network, or the system.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// None is as it was wanted.
    #[error("the guest has no such page")]
    NoPage,
    /// The session is over.
    #[error("the guest closed the session after {answers} answers")]
    Closed {
        /// How many there were.
        answers: u64,
    },
    /// An answer to something else, or none at all.
    #[error("asked {asked:?}, the guest answered {answered:?}")]
    Nonsense {
        /// What was sent.
        asked: String,
        /// What came back.
        answered: String,
    },
    /// The guest has forgotten something that it had shown.
    #[error("{protocol}: the guest counts {counted} where it must count {expected}")]
    Count {
        /// TCP or UDP.
        protocol: &'static str,
        /// By the guest.
        counted: u64,
        /// By the client.
        expected: String,
    },
    /// A clock has gone back.
    #[error("the guest's CLOCK_MONOTONIC went from {before_ns} back to {after_ns}")]
    Backwards {
        /// Shown first.
        before_ns: u64,
        /// Shown later.
        after_ns: u64,
    },
    /// The clocks are not what a failover must leave of them.
    #[error("{what}")]
    Clock {
        /// What is wrong.
        what: String,
    },
    /// A file that another call of this program has left.
    #[error("{path}: {reason}; `clocks mark` makes it")]
    Mark {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A command in the guest failed.
    #[error("{output}\nexit status {status}")]
    Command {
        /// Its exit status.
        status: u64,
        /// What it said.
        output: String,
    },
    /// A byte is another.
    #[error("byte {at} of the bulk transfer is wrong")]
    Corrupt {
        /// Its place.
        at: u64,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }
}
