//! The planned change of roles, as the primary sees it.
//!
//! 1. The guest is paused. Checkpoints in flight are let come back, and disk requests that were already released are let
//!    finish: after the handover no write of this host may land on a disk that the other one writes to.
//! 2. The final checkpoint is cut. What it holds is never released here: the next primary does it again.
//! 3. Once that is committed this side yields. From there it runs the guest only if it is promoted anew.
//!
//! Until 3 anything that goes wrong ends the handover and the guest goes on here.

use std::time::{Duration, Instant};

use kemari_core::{Epoch, Generation, Image};
use kemari_protocol::standby::Held;

use super::host::Host;
use super::news::{News, Ticket};
use super::primary::Primary;
use super::{DaemonError, Outcome};

/// How long a handover may take before it is given up.
const LIMIT: Duration = Duration::from_secs(10);

/// A handover on its way.
pub(super) struct Handover {
    /// Who waits for its end.
    ticket: Option<Ticket>,
    promote: bool,
    begun: Instant,
    stage: Stage,
}

enum Stage {
    /// Waiting for what is in flight.
    Draining,
    /// The final checkpoint is on its way.
    Final { epoch: Epoch, state: Vec<u8> },
    /// The standby was told.
    Yielded { held: Held },
}

impl Handover {
    /// When it is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.begun + LIMIT
    }
}

impl Primary {
    /// Begins a handover that `ticket` waits for; with `promote` the standby is asked to be promoted at the end of it.
    pub(super) fn begin_handover(&mut self, now: Instant, host: &mut Host, ticket: Option<Ticket>, promote: bool) {
        match self.prepare_handover(now, host) {
            Ok(()) => self.handover = Some(Handover { ticket, promote, begun: now, stage: Stage::Draining }),
            Err(reason) => {
                log::warn!("no handover: {reason}");
                if let Some(ticket) = ticket {
                    host.news.refuse(ticket, format!("no handover: {reason}"));
                }
            }
        }
    }

    fn prepare_handover(&mut self, now: Instant, host: &mut Host) -> Result<(), String> {
        if self.handover.is_some() {
            return Err("one is on its way already".to_owned());
        }
        if self.is_mending() {
            return Err("a page of the guest's memory is being mended; try again".to_owned());
        }
        if !self.is_protected() {
            return Err("there is no standby in sync; wait for `status` to say protected".to_owned());
        }
        if self.awaits_naming(host) {
            // It would be refused the promotion, and nobody else could be granted it.
            return Err("the record does not name the standby yet; try again".to_owned());
        }
        host.machine.pause(&mut self.outputs).map_err(|error| error.to_string())?;
        self.hold_collected(now);
        Ok(())
    }

    /// Whether a handover is possible, only not just now.
    pub(super) fn has_to_wait_for_handover(&self, host: &Host) -> bool {
        self.is_protected() && (self.is_mending() || self.awaits_naming(host))
    }

    fn awaits_naming(&self, host: &Host) -> bool {
        host.authority.has_handler() && !self.naming.is_named()
    }

    /// Whether a handover is on its way.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handover.is_some()
    }

    /// Whether the final checkpoint is cut.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(&self.handover, Some(Handover { stage: Stage::Final { .. } | Stage::Yielded { .. }, .. }))
    }

    /// Cuts the final checkpoint as soon as nothing is in flight any more. Returns whether it did.
    pub(super) fn continue_handover(&mut self, host: &mut Host) -> Result<bool, DaemonError> {
        let draining = matches!(&self.handover, Some(Handover { stage: Stage::Draining, .. }));
        if !draining || self.protocol.status().in_flight > 0 || host.machine.disk_in_flight() > 0 {
            return Ok(false);
        }
        if !self.protocol.may_checkpoint() {
            return Ok(false);
        }
        let (epoch, state) = self.cut(host, true)?;
        if let Some(handover) = &mut self.handover {
            handover.stage = Stage::Final { epoch, state };
        }
        Ok(true)
    }

    /// Whether this epoch is the last one here.
    pub(super) fn is_final(&self, epoch: Epoch) -> bool {
        matches!(&self.handover, Some(Handover { stage: Stage::Final { epoch: last, .. }, .. }) if *last == epoch)
    }

    /// The final checkpoint is committed: yield.
    pub(super) fn final_committed(&mut self, now: Instant, host: &mut Host, image: Image) -> Option<Outcome> {
        let Some(Handover { ticket, promote, begun, stage: Stage::Final { epoch, state } }) = self.handover.take()
        else {
            return None;
        };
        let held = Held { image, state, rehearsed: true };
        match self.protocol.yield_to_peer(now, promote) {
            Ok(()) if promote => {
                self.handover = Some(Handover { ticket, promote, begun, stage: Stage::Yielded { held } });
                None
            }
            Ok(()) => {
                self.transmit();
                Some(Outcome::Demoted { held: Some(held), ticket, result: Ok(None) })
            }
            Err(error) => {
                // Nothing was yielded; what the final epoch has shown leaves with the next commit.
                let stage = Stage::Final { epoch, state: held.state };
                self.handover = Some(Handover { ticket, promote, begun, stage });
                self.abandon_handover(host, &error.to_string());
                None
            }
        }
    }

    /// Who waits for the end of a handover that came to nothing is told so.
    pub(super) fn dismiss_handover(&mut self, news: &mut News) {
        if let Some(ticket) = self.handover.take().and_then(|handover| handover.ticket) {
            news.refuse(ticket, "no handover: this node is not the primary any more");
        }
    }

    /// The standby was promoted, or was not, or nobody knows: this side is a standby now in any case.
    pub(super) fn handed_over(&mut self, result: Result<Generation, String>) -> Outcome {
        let (held, ticket) = match self.handover.take() {
            Some(Handover { stage: Stage::Yielded { held }, ticket, .. }) => (Some(held), ticket),
            other => (None, other.and_then(|handover| handover.ticket)),
        };
        Outcome::Demoted { held, ticket, result: result.map(Some) }
    }

    /// Ends a handover that has not come to its point of no return: the guest goes on here.
    pub(super) fn abandon_handover(&mut self, host: &mut Host, reason: &str) -> bool {
        if !matches!(&self.handover, Some(Handover { stage: Stage::Draining | Stage::Final { .. }, .. })) {
            return false;
        }
        let ticket = self.handover.take().and_then(|handover| handover.ticket);
        self.awaiting = None;
        self.go_on(host);
        let detail = format!("no handover, the guest goes on here: {reason}");
        host.news.emit("handover-failed", &detail);
        if let Some(ticket) = ticket {
            host.news.refuse(ticket, detail);
        }
        true
    }

    /// Gives up a handover that takes too long.
    pub(super) fn handover_timeout(&mut self, now: Instant, host: &mut Host) -> Option<Outcome> {
        let reason = match &self.handover {
            Some(handover) if handover.deadline() <= now && host.machine.disk_in_flight() > 0 => {
                "a disk request that this host has begun is not done"
            }
            Some(handover) if handover.deadline() <= now => "the standby did not answer in time",
            _ => return None,
        };
        if self.abandon_handover(host, reason) { None } else { Some(self.handed_over(Err(reason.to_owned()))) }
    }
}
