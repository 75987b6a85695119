//! What ends a daemon.

use std::io;
use std::path::PathBuf;

use kemari_core::GateError;
use kemari_protocol::primary::{CheckpointError, YieldError};
use kemari_protocol::{ChunkError, ConfigError};

use crate::authority::AuthorityError;
use crate::config::{Config, Problem};

/// Why lost memory cannot be had back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// A device worked on it, or more was lost than could be noted.
    #[error("it was used before it was known")]
    Used,
    /// The final checkpoint of a handover is being made.
    #[error("it was found out during a handover")]
    HandingOver,
    /// The standby is on its way to become primary, by what it holds.
    #[error("it was found out during a promotion")]
    Promoting,
    /// The guest has written to it since the last checkpoint.
    #[error("it has changed since the standby has it")]
    Changed,
    /// The guest wants to use it, and there is no other copy.
    #[error("the guest uses it, and no standby in sync has it")]
    Alone,
    /// It was on its way back.
    #[error("the standby left before it gave it back")]
    StandbyLeft,
}

/// Why the daemon cannot start, or cannot go on. A primary that ends so leaves the guest to its standby.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The guest cannot be made, or broke.
    #[error(transparent)]
    Machine(#[from] kemari_vmm::Error),
    /// The guest cannot be made on this host as it is configured.
    #[error("{0}")]
    Unfit(Problem),
    /// State that this node itself acknowledged cannot be loaded.
    #[error("the committed state cannot be loaded: {0}")]
    Load(#[from] kemari_vmm::LoadError),
    /// KVM gave up on the guest.
    #[error("the guest stopped: {0}")]
    Guest(String),
    /// The guest crashed, and is to go on elsewhere.
    #[error("{0}; the standby is to resume it from the last checkpoint (guest.on_guest_panic)")]
    Crashed(String),
    /// The hardware has lost memory, and nobody can give it back.
    #[error("the hardware has lost part of the guest's memory: {0}; the guest has to go on from the last checkpoint")]
    MemoryLost(Loss),
    /// A disk request is overdue, and the guest is to go on elsewhere.
    #[error(
        "{0}; it may still be done, and the standby is to resume the guest as soon as this process is gone, or its host fenced \
         (disk.on_error)"
    )]
    DiskHangs(String),
    /// The record cannot be read or written.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The two nodes could not agree on this guest at all.
    #[error("the guest does not fit the protocol: {0}")]
    Protocol(#[from] ConfigError),
    /// The checkpoint did not fit the protocol.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Pages could not be put together.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The handover was out of order.
    #[error(transparent)]
    Yield(#[from] YieldError),
    /// A proof did not fit the gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The link cannot be set up.
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
    /// The control socket cannot be set up.
    #[error("{}: {source}; node.control names the control socket", path.display())]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The event loop failed.
    #[error("event loop: {0}")]
    EventLoop(#[from] io::Error),
    /// The guest did not follow the request to shut down.
    #[error("the guest did not shut down within {0} s of being asked to (power button, or Ctrl-Alt-Del); it was ended")]
    Unresponsive(u64),
}

impl DaemonError {
    /// Why the machine of `config` cannot be made.
    pub(super) fn of_machine(error: kemari_vmm::Error, config: &Config) -> DaemonError {
        Problem::of_machine(&error, config).map_or(DaemonError::Machine(error), DaemonError::Unfit)
    }
}
