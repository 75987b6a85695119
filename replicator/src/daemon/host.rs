//! What a node works with in either role.

use kemari_protocol::Identity;
use kemari_vmm::{Machine, MachineEvent};

use super::DaemonError;
use super::links::Links;
use super::news::News;
use crate::authority::Authority;
use crate::config::Config;
use crate::evidence::Recorder;

/// Checkpoints that may be sent and not yet acknowledged.
const DEPTH: usize = 1;

/// The parts that outlive a change of roles. The machine is one of them: it is made once, filled with memory once, and serves
/// as the primary's guest or as the standby's copy.
pub(super) struct Host {
    pub(super) config: Config,
    pub(super) machine: Machine,
    pub(super) machine_events: Vec<MachineEvent>,
    pub(super) authority: Authority,
    pub(super) links: Links,
    pub(super) news: News,
    pub(super) recorder: Recorder,
}

impl Host {
    /// This node's part of the pair, as the protocol wants it.
    pub(super) fn protocol_config(&self) -> Result<kemari_protocol::Config, DaemonError> {
        let link = &self.config.link;
        Ok(kemari_protocol::Config {
            node: self.config.node.name.clone(),
            identity: self.identity()?,
            pages: self.machine.pages(),
            heartbeat: link.heartbeat,
            peer_timeout: link.peer_timeout,
            depth: DEPTH,
        })
    }

    /// The guest's name and everything that must be equal on both hosts.
    fn identity(&self) -> Result<Identity, DaemonError> {
        let mut pairs = vec![("guest".to_owned(), self.config.guest.name.clone())];
        pairs.extend(self.machine.layout());
        Ok(Identity::new(pairs)?)
    }
}
