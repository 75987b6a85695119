//! Two replicators over a model link, in virtual time: what may never happen, whatever is cut, lost, late or restarted.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod handover;
mod hostile;
mod pair;
mod schedules;
mod world;
