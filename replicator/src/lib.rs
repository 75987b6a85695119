//! The replicator daemon: runs a guest on KVM and keeps a standby able to resume it.

pub mod authority;
pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod evidence;
pub mod link;
pub mod metrics;
