//! The replicator daemon: runs a guest on KVM and keeps a standby able to resume it.
