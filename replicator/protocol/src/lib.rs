//! The replication protocol as sans-IO state machines: no sockets, no KVM, no clock, no threads.
//!
//! [`Primary`](primary::Primary) and [`Standby`](standby::Standby) are driven by whoever owns the link, the guest and the
//! clock (the *driver*), in one thread:
//!
//! * `link_up`, `link_down`: the authenticated link came or went. The primary dials (it says when), the standby listens;
//! * `receive`: a [`Message`] came out of the [`Decoder`]; `garbled`: the decoder failed;
//! * `timeout`: the instant that `next_timeout` named has come;
//! * after any of these, or any other call: take everything from `event` and act on it, in order; then everything from
//!   `transmit`, and send it as [`Frame`]s. `Close` among the events means: send what `transmit` still has, then close.
//!
//! Messages are taken off the queue in the order of sending; a driver with a slow link may leave them there.

mod checkpoint;
mod chunk;
mod codec;
mod config;
pub mod limits;
mod link;
mod message;
pub mod primary;
pub mod standby;
mod violation;

pub use chunk::{Chunk, ChunkError, Gathered};
pub use codec::{DecodeError, Decoder, Frame};
pub use config::{Config, ConfigError, Identity};
pub use message::{Manifest, Message, Offer, Refuse, Rivalry, Select, Versions, refuse_as_primary};
