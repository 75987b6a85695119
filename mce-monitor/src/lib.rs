//! The watcher of hardware errors: the guest leaves a host before the host dies.
//!
//! sources -> classify -> deduplicate -> buckets -> health -> sinks. The rooms in the middle are pure: records and time come in,
//! a verdict comes out, and a captured stream leads to the same verdict as the host that it was captured on.

pub mod bucket;
pub mod classify;
mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deduplicate;
pub mod fault;
pub mod fuzzing;
pub mod health;
mod lines;
pub mod moment;
pub mod record;
pub mod replay;
mod show;
mod sinks;
mod sources;
mod stop;
pub mod trace;

pub use cli::main;
