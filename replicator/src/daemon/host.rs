//! What a node works with in either role.

use kemari_protocol::Identity;
use kemari_vmm::{LoadError, Machine, MachineEvent};

use super::DaemonError;
use super::crash::Ledger;
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
    /// Made once: a promotion does not wait for it.
    pub(super) protocol: kemari_protocol::Config,
    pub(super) machine_events: Vec<MachineEvent>,
    pub(super) authority: Authority,
    /// Why the authority keeps this node waiting, if it does.
    pub(super) authority_says: Option<String>,
    /// When a checkpoint was committed last, on either side.
    pub(super) committed_at: Option<std::time::Instant>,
    /// The guest's crashes: on a standby, as of what was loaded last.
    pub(super) ledger: Ledger,
    /// Pages that the hardware had lost and the standby has given back.
    pub(super) mended_pages: u64,
    /// Longest epoch while somebody wants checkpoints more often than configured.
    pub(super) pace: Option<std::time::Duration>,
    pub(super) links: Links,
    pub(super) news: News,
    pub(super) recorder: Recorder,
}

impl Host {
    /// Longest epoch of a protected guest.
    pub(super) fn max_epoch(&self) -> std::time::Duration {
        let configured = self.config.replication.max_epoch;
        self.pace.map_or(configured, |pace| pace.min(configured))
    }

    /// The state of everything but memory, for a checkpoint. Only while the machine is paused.
    pub(super) fn save(&mut self) -> Result<Vec<u8>, kemari_vmm::Error> {
        let mut state = self.machine.save()?;
        self.ledger.append(&mut state);
        Ok(state)
    }

    /// Loads a checkpoint's state.
    pub(super) fn load(&mut self, state: &[u8]) -> Result<(), LoadError> {
        let (ledger, machine) = Ledger::split(state)?;
        self.machine.load(machine)?;
        self.ledger = ledger;
        Ok(())
    }

    /// Saves what was just loaded, and compares.
    pub(super) fn read_back(&mut self, state: &[u8]) -> Result<(), LoadError> {
        let (_, machine) = Ledger::split(state)?;
        self.machine.read_back(machine)
    }

    /// Keeps what the authority has answered, and tells it if it is something else than before.
    pub(super) fn authority_answered(&mut self, answer: String) {
        if self.authority_says.as_ref() != Some(&answer) {
            log::warn!("{answer}");
            self.news.emit("refused-by-authority", &answer);
            self.authority_says = Some(answer);
        }
    }
}

/// This node's part of the pair, as the protocol wants it: the guest's name and everything that must be equal on both hosts.
pub(super) fn protocol_config(config: &Config, machine: &Machine) -> Result<kemari_protocol::Config, DaemonError> {
    let mut layout = vec![("guest".to_owned(), config.guest.name.clone())];
    layout.push(("on_guest_panic".to_owned(), config.guest.on_guest_panic.name().to_owned()));
    layout.extend(machine.layout());
    Ok(kemari_protocol::Config {
        node: config.node.name.clone(),
        identity: Identity::new(layout)?,
        pages: machine.pages(),
        heartbeat: config.link.heartbeat,
        peer_timeout: config.link.peer_timeout,
        depth: DEPTH,
    })
}
