//! The side whose guest runs.
//!
//! # Who calls what, when
//! * [`Event::Dial`]: open a connection; then [`link_up`](Primary::link_up), or [`link_down`](Primary::link_down) if it failed.
//! * [`Event::Harvest`]: take the guest's dirty log (without pausing it), hand it to [`harvested`](Primary::harvested).
//! * While [`wants_precopy`](Primary::wants_precopy), and whenever the link has room: [`precopy`](Primary::precopy).
//! * [`Event::CheckpointWanted`], or output is held, or `max_epoch` has passed: if [`may_checkpoint`](Primary::may_checkpoint),
//!   pause, `Gate::seal`, save state, harvest; [`begin_checkpoint`](Primary::begin_checkpoint) adds what the standby still
//!   lacks; copy the pages ([`Gathered`](crate::Gathered)), resume, [`send_checkpoint`](Primary::send_checkpoint). If anything fails after
//!   the harvest: [`harvested`](Primary::harvested) gives the dirty pages back.
//! * [`Event::Committed`]: `Gate::commit`, then perform what the gate releases.
//! * [`Event::InSync`]: close the gate **first** (withdraw consent, durably), then [`gate_closed`](Primary::gate_closed).
//! * Consent was put in force and the gate opened: [`gate_opened`](Primary::gate_opened).
//! * The hardware has lost a page: stop the guest, harvest, [`harvested`](Primary::harvested), then
//!   [`ask_for_page`](Primary::ask_for_page), and wait for [`Event::PageBack`] before the guest runs.
//! * Handover: stop the guest, send a checkpoint with `last`, wait for its [`Event::Committed`], then
//!   [`yield_to_peer`](Primary::yield_to_peer), and wait for [`Event::HandoverDone`] or [`Event::HandoverFailed`].

mod lacking;
mod machine;
mod redial;
mod resync;

use std::time::Duration;

use kemari_core::{Committed, Epoch, Generation, Image};

use crate::Chunk;
pub use machine::Primary;

/// Where a primary stands with its standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No link, or the driver is dialling.
    Alone,
    /// The link is up; the two are introducing themselves.
    Greeting,
    /// The standby is being brought to the newest checkpoint.
    Syncing {
        /// Pages sent in this resync.
        done: u64,
        /// Pages sent and still to be sent, as far as is known. Grows as the guest goes on writing.
        total: u64,
        /// Rounds of copying begun while the guest runs; 0 if the difference fits one checkpoint.
        round: u32,
    },
    /// The standby holds a checkpoint and is trying to load it.
    Rehearsing,
    /// The standby can be trusted; what was released before the gate was closed is not yet covered.
    Covering,
    /// The standby's acknowledgements gate the output.
    Protected,
    /// [`Primary::yield_to_peer`] was called: demoted, and silent for ever.
    Yielded,
    /// A newer generation exists: silent for ever.
    Superseded,
}

/// What the driver is told. See the [module](self) for what to do about each.
#[derive(Debug)]
pub enum Event {
    /// Connect to the standby, then say `link_up` or `link_down`.
    Dial,
    /// Send what is left to transmit, then close the link. Calling `link_down` for it is allowed and changes nothing.
    Close,
    /// Harvest the dirty log and hand it over by [`Primary::harvested`].
    Harvest,
    /// Cut a checkpoint as soon as possible.
    CheckpointWanted,
    /// A checkpoint is committed on a standby that can load it: show this to the gate.
    Committed(Committed),
    /// The standby holds and can load the guest. Close the gate first, then call [`Primary::gate_closed`].
    InSync,
    /// The newest committed image covers everything released. The guest is protected from here on.
    Protected,
    /// The link is lost, or the peer broke the protocol. Output stays held unless there is consent.
    PeerLost {
        /// Why.
        reason: String,
        /// Whether the guest was [`Protected`](Phase::Protected) until now.
        protected: bool,
    },
    /// The standby left and said so.
    PeerLeft {
        /// What it said.
        reason: String,
        /// Whether the guest was [`Protected`](Phase::Protected) until now.
        protected: bool,
    },
    /// One of the two will not work with the other; names both. Tried again, less and less often.
    Refused {
        /// Why.
        reason: String,
    },
    /// The peer serves a newer generation: pause the guest, release nothing more, ever.
    Superseded {
        /// The peer's.
        generation: Generation,
    },
    /// A page that was [asked for](Primary::ask_for_page), as it was when it was lost.
    PageBack(Chunk),
    /// The standby was promoted: this side is done.
    HandoverDone {
        /// Of the new primary.
        generation: Generation,
    },
    /// The standby was not promoted, or nobody knows. Keep the final image: this side stays promotable, and runs again only
    /// if it is promoted.
    HandoverFailed {
        /// Why.
        reason: String,
    },
}

/// A checkpoint, as cut by the driver.
#[derive(Debug)]
pub struct Checkpoint {
    /// The epoch it ends; greater than that of the checkpoint before.
    pub epoch: Epoch,
    /// Saved state, at most 16 MiB.
    pub state: Vec<u8>,
    /// The pages that [`Primary::begin_checkpoint`] asked for, each once.
    pub chunks: Vec<Chunk>,
    /// Whether the guest stays paused after it, for a handover.
    pub last: bool,
}

/// Why a checkpoint was not sent. Its pages count as not sent; its epoch stays uncommitted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckpointError {
    /// There is nobody to send it to, or too many are unacknowledged: ask [`Primary::may_checkpoint`] first.
    #[error("no checkpoint can be sent now: {0}")]
    NotNow(&'static str),
    /// Its epoch is not after the one sent before.
    #[error("epoch {epoch} was already checkpointed")]
    Epoch {
        /// Of the checkpoint.
        epoch: Epoch,
    },
    /// It lacks pages that the standby needs, has pages twice, or pages that the guest has not.
    #[error("a checkpoint must have each page asked for once, and none past the guest's memory")]
    Pages,
    /// Too much state.
    #[error("{bytes} bytes of state are over the limit of 16 MiB")]
    State {
        /// How many.
        bytes: usize,
    },
}

/// Why there is no handover now.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum YieldError {
    /// The standby could not take over.
    #[error("the guest is not protected ({0:?})")]
    Unprotected(Phase),
    /// The final checkpoint is not sent or not acknowledged.
    #[error("the final checkpoint is not committed on the standby")]
    NotFinal,
}

/// Numbers for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// The standby's name, once it has introduced itself on this link.
    pub peer: Option<String>,
    /// Checkpoints sent and not acknowledged.
    pub in_flight: usize,
    /// What the standby is known to hold.
    pub committed: Option<Image>,
    /// From the sending of the last committed checkpoint to its acknowledgement.
    pub commit_latency: Option<Duration>,
    /// Checkpoints committed since the start.
    pub checkpoints: u64,
    /// Pages sent since the start.
    pub pages_sent: u64,
    /// Bytes of page content and state sent since the start.
    pub bytes_sent: u64,
    /// Pages in which the standby's image may differ, apart from those in the dirty log.
    pub stale_pages: u64,
}
