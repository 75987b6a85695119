//! What the two sides say to each other.

use kemari_core::{Generation, Image};
use serde::{Deserialize, Serialize};

use crate::limits::REASON_BYTES;
use crate::{Chunk, Identity};

/// One message of the protocol; [`Frame`](crate::Frame) is how it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Primary: who I am, and what I ask for. The first message on a link.
    Offer(Offer),
    /// Standby: agreed; this is what I hold.
    Select(Select),
    /// Either: there will be no replication between us. The last message on a link.
    Refuse(Refuse),
    /// Primary: from here your image is void; [`SyncPages`](Message::SyncPages) write your memory in place.
    SyncBegin,
    /// Primary: pages to be written at once, while the guest runs.
    SyncPages(Chunk),
    /// Primary: a checkpoint follows, made of exactly this.
    Manifest(Manifest),
    /// Primary: pages of the checkpoint in progress.
    Pages(Chunk),
    /// Primary: bytes of saved state of the checkpoint in progress, in order.
    State(Vec<u8>),
    /// Standby: I hold this checkpoint whole and verified.
    Ack(Image),
    /// Standby: I loaded a checkpoint and read it back; or why that failed.
    Rehearsed(Result<(), String>),
    /// Either: I live.
    Heartbeat,
    /// Standby: do you live? (Someone wants me to be promoted.)
    Probe {
        /// To be returned.
        nonce: u64,
    },
    /// Primary: I live.
    ProbeReply {
        /// From the probe.
        nonce: u64,
    },
    /// Primary: I am demoted, and this image is final.
    Yield {
        /// The last checkpoint, which the standby has acknowledged.
        image: Image,
        /// Whether the standby is asked to be promoted.
        promote: bool,
    },
    /// Standby, after [`Yield`](Message::Yield): I am the primary now.
    Promoted {
        /// The new generation.
        generation: Generation,
    },
    /// Standby, after [`Yield`](Message::Yield): I am not.
    PromoteRefused {
        /// Why.
        reason: String,
    },
    /// Primary: this page was lost here, and has not changed since the image that you hold: send it back.
    PageLost {
        /// Which.
        page: u64,
    },
    /// Standby: the page asked for, as it is in my image.
    PageBack(Chunk),
    /// Either: I leave, cleanly. The last message on a link.
    Bye {
        /// Why.
        reason: String,
    },
}

impl Message {
    /// Its name, for diagnosis.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Message::Offer(_) => "an offer",
            Message::Select(_) => "a selection",
            Message::Refuse(_) => "a refusal",
            Message::SyncBegin => "the begin of a resync",
            Message::SyncPages(_) => "resync pages",
            Message::Manifest(_) => "a manifest",
            Message::Pages(_) => "checkpoint pages",
            Message::State(_) => "checkpoint state",
            Message::Ack(_) => "an acknowledgement",
            Message::Rehearsed(_) => "a rehearsal's result",
            Message::Heartbeat => "a heartbeat",
            Message::Probe { .. } => "a probe",
            Message::ProbeReply { .. } => "a probe's reply",
            Message::Yield { .. } => "a yield",
            Message::Promoted { .. } => "a promotion",
            Message::PromoteRefused { .. } => "a refused promotion",
            Message::PageLost { .. } => "a request for a lost page",
            Message::PageBack(_) => "a lost page",
            Message::Bye { .. } => "a goodbye",
        }
    }

    /// Memory it keeps while it waits.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let payload = match self {
            Message::SyncPages(chunk) | Message::Pages(chunk) | Message::PageBack(chunk) => chunk.data().len(),
            Message::State(bytes) => bytes.len(),
            _ => 0,
        };
        (payload + size_of::<Message>()) as u64
    }
}

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this build speaks.
    pub const SUPPORTED: Versions = Versions { oldest: 1, newest: 1 };

    /// The newest version in both ranges.
    pub(crate) fn common(self, other: Versions) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// See [`Message::Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What the primary speaks.
    pub versions: Versions,
    /// Its name.
    pub node: String,
    /// What must be equal on both hosts.
    pub identity: Identity,
    /// Pages in its guest.
    pub pages: u64,
    /// The history it serves.
    pub generation: Generation,
    /// Whether its gate is open by consent: what it released is covered by no image that the standby holds.
    pub unprotected: bool,
    /// How often it sends something, in milliseconds: the other side's patience must be longer.
    pub heartbeat_ms: u32,
}

/// See [`Message::Select`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Select {
    /// The version to speak from here on.
    pub version: u16,
    /// The standby's name.
    pub node: String,
    /// The image it could be promoted from, or could be brought up to date from.
    pub image: Option<Image>,
    /// Whether it has rehearsed a checkpoint of that image's generation.
    pub rehearsed: bool,
    /// How often it sends something, in milliseconds: the other side's patience must be longer.
    pub heartbeat_ms: u32,
}

/// See [`Message::Refuse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, naming both sides.
    pub reason: String,
    /// The history that the refusing side serves instead, when that is the reason.
    pub generation: Option<Generation>,
}

/// What a checkpoint is made of; sent before it, so that the standby can bound and check what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What the standby holds once it has all of it.
    pub image: Image,
    /// The image that the pages are to be laid over; `None` after [`Message::SyncBegin`].
    pub onto: Option<Image>,
    /// Pages that follow.
    pub pages: u64,
    /// Bytes of saved state that follow.
    pub state_bytes: u64,
    /// Whether it was cut while the gate was open, so that the outside may know more than it holds.
    pub unprotected: bool,
}

/// What a primary does about an [`Offer`] that it finds on its listening socket.
#[derive(Debug, PartialEq, Eq)]
pub struct Rivalry {
    /// To be sent before the link is closed.
    pub answer: Message,
    /// Set if the rival's generation is newer: this primary must fall silent for ever.
    pub superseded_by: Option<Generation>,
}

/// The answer of a primary (`node`, serving `generation`) to the `offer` of another one.
#[must_use]
pub fn refuse_as_primary(node: &str, generation: Generation, offer: &Offer) -> Rivalry {
    let theirs = offer.generation;
    let reason = format!(
        "{node} is itself the primary of generation {generation}, while {} offers generation {theirs}",
        offer.node
    );
    Rivalry {
        answer: Message::Refuse(Refuse { reason: clip(reason), generation: Some(generation) }),
        superseded_by: theirs.is_newer_than(generation).then_some(theirs),
    }
}

/// Cuts a reason to what a frame may carry.
pub(crate) fn clip(mut reason: String) -> String {
    if reason.len() > REASON_BYTES {
        let mut end = REASON_BYTES;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}
