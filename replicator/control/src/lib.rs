//! Requests, replies and status of the control socket as types, with a small blocking client; and such sockets themselves.
//!
//! The control socket is a unix socket that only root may open. A request is one line of JSON, and so is its reply; requests on
//! one connection are carried out one after the other. After [`Request::Events`] the connection carries one [`Event`] a
//! line, until either side closes it.

mod client;
mod message;
mod socket;
mod status;

pub use client::{Client, ClientError, Events};
pub use message::{Event, LINE_BYTES, Reply, Request};
pub use socket::{connect, listen};
pub use status::{
    Checkpoints, ConsoleStatus, Crashes, DiskStatus, Figure, Gate, ImageName, NicStatus, Replication, Role, Standing,
    Status, SyncProgress,
};
