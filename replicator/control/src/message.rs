//! What is said at the control socket.

use serde::{Deserialize, Serialize};

use crate::Status;

/// Longest line in either direction, in bytes, its end included.
pub const LINE_BYTES: usize = 64 << 10;

/// What is asked of a replicator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What are you doing?
    Status,
    /// Run the guest here: resume it from the image held, or boot it if it never ran.
    Promote {
        /// Boot it from its disk even though it did run: what it had in memory is forgotten.
        #[serde(default)]
        cold_boot: bool,
    },
    /// Stop running the guest here, after a final checkpoint that both nodes hold; nobody runs it until one is promoted.
    Demote,
    /// Commit a checkpoint now.
    Checkpoint,
    /// Have epochs of a protected guest end sooner than its configuration says, until they are reset.
    Pace {
        /// Longest epoch, in milliseconds; without it, as configured.
        #[serde(default)]
        max_epoch_ms: Option<u64>,
    },
    /// Hand the guest over to the standby.
    Handover,
    /// Let the guest go on without standby: the caller's word that the standby will not be promoted.
    RunUnprotected,
    /// Never resume the image held here, which is of this generation, until this node has been brought in sync anew: the
    /// primary goes on without it.
    Outdate {
        /// As `number-id`.
        generation: String,
        /// Only an image of an epoch before this one; without it, any.
        #[serde(default)]
        before_epoch: Option<u64>,
    },
    /// Shut the guest down and stay, as a standby that holds nothing.
    Shutdown,
    /// Reset the guest, as by a reset button.
    Reset,
    /// End the process: hand over if there is a standby in sync, else shut the guest down.
    Stop,
    /// Tell what happens from here on.
    Events,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It is done.
    Done {
        /// What was done, for the operator.
        detail: String,
    },
    /// It is not, and nothing has changed unless the text says so.
    Refused {
        /// Why, and what to do about it.
        reason: String,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What, as one word: `primary`, `protected`, `peer-lost`, …
    pub kind: String,
    /// The same as a sentence.
    pub detail: String,
}
