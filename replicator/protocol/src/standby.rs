//! The side that holds the image.
//!
//! # Who calls what, when
//! * A primary connected and proved that it has the key: [`link_up`](Standby::link_up). One link at a time; while one is up,
//!   refuse others.
//! * [`Event::AdoptGeneration`]: make it durable (fsync), then [`adopted`](Standby::adopted).
//! * [`Event::Void`]: the image is gone from here (record it if you keep records); memory is about to be written in place.
//! * [`Event::Write`], [`Event::Commit`]: write every page into guest memory before anything else is done.
//! * [`Event::Rehearse`]: load [`state`](Standby::state) and read it back, then [`rehearsed`](Standby::rehearsed).
//! * Someone wants this node promoted, or [`Event::PromoteRequested`]: [`freeze`](Standby::freeze). After [`Event::Frozen`]
//!   ask the authority: granted, [`promote`](Standby::promote); refused, [`refuse_promotion`](Standby::refuse_promotion) or
//!   [`unfreeze`](Standby::unfreeze). After [`Event::FreezeRefused`] it is not frozen any more.

mod freeze;
mod machine;
mod staged;

use kemari_core::{Generation, Image};

use crate::{Chunk, Message};
pub use machine::Standby;

/// Where a standby stands with its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No link.
    Alone,
    /// The link is up; the two are introducing themselves.
    Greeting,
    /// Connected; receiving a resync, or checkpoints that are not yet promotable.
    Syncing,
    /// Connected, and the image is [promotable](Standby::promotable).
    InSync,
    /// Frozen or about to be: nothing is committed or acknowledged.
    Frozen,
}

/// What the driver is told. See the [module](self) for what to do about each.
#[derive(Debug)]
pub enum Event {
    /// Send what is left to transmit, then close the link. Calling `link_down` for it is allowed and changes nothing.
    Close,
    /// The primary serves this generation, which is newer than what was known. Make that durable, then call
    /// [`Standby::adopted`].
    AdoptGeneration(Generation),
    /// A resync in place begins: there is no promotable image until it is done.
    Void,
    /// Pages to be written in place.
    Write(Chunk),
    /// A checkpoint is committed: write its pages.
    Commit {
        /// What memory and [`Standby::state`] are once that is done.
        image: Image,
        /// Its pages, in order.
        chunks: Vec<Chunk>,
    },
    /// Load the state of the image and read it back, then call [`Standby::rehearsed`].
    Rehearse,
    /// The primary has lost this page: copy it from memory, then call [`Standby::give_page`].
    PageWanted {
        /// Which.
        page: u64,
    },
    /// Answer to [`Standby::freeze`]: no primary can commit anything any more.
    Frozen,
    /// Answer to [`Standby::freeze`]: a live primary answered, or can be heard. Not frozen any more.
    FreezeRefused {
        /// Why.
        reason: String,
    },
    /// The primary is demoted and asks this node to be promoted.
    PromoteRequested {
        /// Its final image, which this node holds.
        image: Image,
    },
    /// The primary is silent, the link is lost, or the peer broke the protocol.
    PeerLost {
        /// Why.
        reason: String,
    },
    /// The primary left and said so.
    PeerLeft {
        /// What it said.
        reason: String,
    },
    /// One of the two will not work with the other; names both.
    Refused {
        /// Why.
        reason: String,
    },
}

/// An image held in memory, with the state that goes with it.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub image: Image,
    /// The saved state that came with it.
    pub state: Vec<u8>,
    /// Whether this host has loaded a checkpoint of this generation, or cut it itself.
    pub rehearsed: bool,
}

/// Why this node must not be promoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPromotable {
    /// Nothing was ever committed here, or a resync has begun to overwrite it.
    #[error("this node holds no image")]
    NoImage,
    /// A newer generation is known.
    #[error("this node holds {image}, but generation {newest} is known")]
    Outdated {
        /// What it holds.
        image: Image,
        /// What it knows.
        newest: Generation,
    },
    /// The primary has run unprotected since.
    #[error("the primary has run unprotected since {image}, which this node holds")]
    Unprotected {
        /// What it holds.
        image: Image,
    },
    /// It was never loaded here.
    #[error("{image} was not rehearsed on this node")]
    Unrehearsed {
        /// What it holds.
        image: Image,
    },
}

/// Why a freeze was refused at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    /// There is nothing to promote.
    #[error(transparent)]
    NotPromotable(#[from] NotPromotable),
    /// It is frozen, or being frozen, already.
    #[error("this node is already frozen")]
    Already,
}

/// What a promoted standby goes on with. Memory is as of `image`.
#[derive(Debug)]
pub struct Promoted {
    /// The image: base of the new primary's incremental resync.
    pub image: Image,
    /// State to load.
    pub state: Vec<u8>,
    /// To be sent before the link is closed, if there is one.
    pub farewell: Vec<Message>,
}

/// Numbers for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// The primary's name, once it has introduced itself on this link.
    pub peer: Option<String>,
    /// What it holds.
    pub image: Option<Image>,
    /// The newest generation it knows.
    pub generation: Option<Generation>,
    /// Whether the image may be promoted, and why not.
    pub promotable: Result<Image, NotPromotable>,
    /// Whether the last primary has said that it is demoted, with the image held here as its last one.
    pub yielded: bool,
    /// Bytes of the checkpoint in progress that have arrived.
    pub staged_bytes: u64,
    /// Checkpoints committed since the start.
    pub checkpoints: u64,
    /// Pages received since the start.
    pub pages_received: u64,
}
