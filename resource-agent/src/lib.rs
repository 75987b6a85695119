//! The OCF agent of Kemari.
//!
//! Three pieces that share this program because they share their knowledge of the cluster:
//! * [`authority`]: the handler that the replicator asks who may speak;
//! * the actions that Pacemaker asks for;
//! * the supervisor that tells Pacemaker at once what happens to the replicator.

mod attend;
mod attributes;
pub mod authority;
mod cli;
mod cluster;
mod guest;
mod ocf;
pub mod sabotage;

pub use cli::main;
pub use cluster::{ClusterError, CommandError};
