//! The primary: the guest runs here, and what it shows to the world waits at the gate.
//!
//! [`Primary::pump`] is the whole policy: after anything has happened it acts on what the protocol says, performs what the
//! gate has released, cuts a checkpoint if one is due, and sends what there is to send, until nothing is left to do.

use std::time::Instant;

use kemari_core::{Epoch, Gate, Generation, Image, PageSet};
use kemari_protocol::primary::{Event, Phase, Primary as Protocol};
use kemari_vmm::{Machine, Output, SourceId};

use super::consent::Naming;
use super::handover::Handover;
use super::host::Host;
use super::metrics::Metrics;
use super::news::Ticket;
use super::pace::Pace;
use super::{DaemonError, Outcome, TURN};
use crate::authority::{Grant, Parting};
use crate::config::Mode;
use crate::link::Link;

/// Plaintext waiting to be encrypted and sent above which no more is asked of a resync: enough to keep a fast link busy while
/// the event loop does something else, small beside a guest.
const RESYNC_QUEUE_BYTES: usize = 1 << 20;

/// Chunks of a resync that are copied before the event loop gets its turn again: about a millisecond.
const RESYNC_CHUNKS: usize = 8;

/// Why output does not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nothing is known yet.
    Unseen,
    /// It is there.
    Present,
    /// It is gone.
    Gone {
        /// How it went, if it was there.
        parted: Option<String>,
        /// Why it cannot be reached since.
        unreachable: Option<String>,
    },
}

impl Peer {
    /// Dialling has failed.
    fn unreachable(&mut self, reason: &str) {
        let parted = match self {
            Peer::Gone { parted, .. } => parted.take(),
            Peer::Unseen | Peer::Present => None,
        };
        *self = Peer::Gone { parted, unreachable: Some(reason.to_owned()) };
    }

    /// What an operator has to know, if it is not there.
    pub(super) fn trouble(&self) -> Option<String> {
        let Peer::Gone { parted, unreachable } = self else { return None };
        let said = [parted, unreachable].into_iter().flatten();
        Some(said.map(String::as_str).collect::<Vec<_>>().join("; since then: "))
    }
}

/// The primary's side of one guest.
pub(crate) struct Primary {
    pub(super) generation: Generation,
    pub(super) protocol: Protocol,
    pub(super) gate: Gate<Output>,
    pub(super) link: Option<Link>,
    /// A link that another node opened, which must believe that it is primary, too.
    pub(super) rival: Option<Link>,
    pub(super) peer: Peer,
    pub(super) metrics: Metrics,
    pub(super) handover: Option<Handover>,
    pub(super) naming: Naming,
    pub(super) mode: Mode,
    pub(super) pace: Pace,
    pub(super) epoch_begun: Instant,
    pub(super) checkpoint_wanted: bool,
    /// Who waits for the commit of which epoch.
    pub(super) waiters: Vec<(Epoch, Ticket)>,
    /// In `sync` mode the guest stays paused from its checkpoint to the acknowledgement.
    pub(super) awaiting: Option<Epoch>,
    /// Reused from one checkpoint to the next.
    pub(super) dirty: PageSet,
    pub(super) outputs: Vec<Output>,
    /// Lost pages that the guest waits for.
    pub(super) mending: Vec<u64>,
    /// A disk has failed a request that the guest waits for; when it is tried again.
    pub(super) stalled: Option<Instant>,
    /// Lost pages that nobody has, and the guest has not touched.
    pub(super) unreadable: std::collections::BTreeSet<u64>,
    /// Devices that were ready while the guest stood still for a reason.
    pub(super) unserved: Vec<SourceId>,
    /// When the guest was resumed here after the loss of its primary, if it was.
    pub(super) resumed_at: Option<Instant>,
    /// Why the guest stands still until somebody decides, if it does.
    pub(super) halted: Option<String>,
    /// A reset of the guest has begun and is not done.
    pub(super) resetting: bool,
    /// When the oldest output of the epoch in progress was held.
    pub(super) held_since: Option<Instant>,
    /// The same for the epochs in flight, oldest first.
    pub(super) held_in_flight: std::collections::VecDeque<(Epoch, Option<Instant>)>,
    /// The last turn ended before everything was done that had arrived.
    has_more: bool,
}

impl Primary {
    /// The primary of the generation granted. The gate opens with the consent that the grant includes, until a standby is in
    /// sync. `base` is the image that the guest was resumed from, which a standby may hold, too.
    pub(super) fn new(
        now: Instant,
        host: &mut Host,
        grant: Grant,
        base: Option<Image>,
    ) -> Result<Primary, DaemonError> {
        let generation = grant.generation();
        let pages = host.machine.pages();
        let stale = if base.is_some() { PageSet::empty(pages) } else { PageSet::full(pages) };
        let mut protocol = Protocol::new(now, host.protocol.clone(), generation, base, stale)?;
        let mut gate = Gate::new(generation, Epoch::FIRST, host.config.replication.held_limit_bytes);
        gate.open(grant.into_consent())?;
        protocol.gate_opened(now);
        Ok(Primary {
            generation,
            protocol,
            gate,
            link: None,
            rival: None,
            peer: Peer::Unseen,
            metrics: Metrics::default(),
            handover: None,
            naming: Naming::alone(),
            mode: host.config.replication.mode,
            pace: Pace::new(host.max_epoch(), host.config.replication.checkpoint_bytes),
            epoch_begun: now,
            checkpoint_wanted: false,
            waiters: Vec::new(),
            awaiting: None,
            dirty: PageSet::empty(pages),
            outputs: Vec::new(),
            mending: Vec::new(),
            stalled: None,
            unreadable: std::collections::BTreeSet::new(),
            unserved: Vec::new(),
            resumed_at: None,
            halted: None,
            resetting: false,
            held_since: None,
            held_in_flight: std::collections::VecDeque::new(),
            has_more: false,
        })
    }

    /// Announces the guest's new place to the network; output like any other.
    pub(super) fn announce(&mut self, now: Instant, machine: &mut Machine) {
        machine.announce(&mut self.outputs);
        self.hold_collected(now);
    }

    /// Serves a device that is ready.
    pub(super) fn service(&mut self, now: Instant, host: &mut Host, source: SourceId) {
        if self.is_sealed() || self.is_mending() {
            // The final checkpoint is cut: a frame that is received now would be in memory and not in it. Or a page is missing.
            if !self.unserved.contains(&source) {
                self.unserved.push(source);
            }
            return;
        }
        host.machine.service(source, &mut self.outputs, &mut host.machine_events);
        self.hold_collected(now);
    }

    pub(super) fn hold_collected(&mut self, now: Instant) {
        if !self.outputs.is_empty() && self.gate.consent().is_none() {
            self.held_since.get_or_insert(now);
        }
        for output in self.outputs.drain(..) {
            self.gate.hold(output);
        }
    }

    /// Whether the standby's acknowledgements gate the output.
    pub(super) fn is_protected(&self) -> bool {
        self.protocol.phase() == Phase::Protected
    }

    /// Says goodbye to the standby, if there is one.
    pub(super) fn leave(&mut self, now: Instant, reason: &str) {
        self.protocol.leave(now, reason);
        self.transmit();
    }

    /// Lets the guest run, unless it stands still for a reason.
    pub(super) fn go_on(&mut self, host: &mut Host) {
        let waits = self.awaiting.is_some() || self.handover.is_some() || self.is_mending() || self.stalled.is_some();
        if waits || self.stands_still() {
            return;
        }
        host.machine.run();
        for source in std::mem::take(&mut self.unserved) {
            self.service(Instant::now(), host, source);
        }
    }

    /// When [`pump`](Primary::pump) must be called even if nothing happens.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        // At once, after a look at everything else.
        let at_once = (self.has_more || self.may_resync() || self.may_reset_on()).then(Instant::now);
        let epoch_end = (self.is_protected() && self.may_cut()).then(|| self.epoch_begun + self.pace.limit());
        [
            at_once,
            epoch_end,
            self.protocol.next_timeout(),
            self.link.as_ref().and_then(Link::next_timeout),
            self.handover.as_ref().map(Handover::deadline),
            self.naming.next_timeout(),
            self.stalled,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything there is to do.
    ///
    /// # Errors
    /// What this node cannot go on after.
    pub(super) fn pump(&mut self, host: &mut Host) -> Result<Outcome, DaemonError> {
        let now = Instant::now();
        // What has arrived comes before what is late: after a pause of this process both are so.
        self.receive(now);
        if let Some(generation) = self.answer_rival(host) {
            return Ok(Outcome::Superseded(generation));
        }
        if self.protocol.next_timeout().is_some_and(|at| at <= now) {
            self.protocol.timeout(now);
        }
        self.resync(host)?;
        self.continue_stall(now, host);
        self.continue_reset(host)?;
        self.has_more = false;
        loop {
            while let Some(event) = self.protocol.event() {
                if let Some(outcome) = self.act(Instant::now(), host, event)? {
                    self.transmit();
                    return Ok(outcome);
                }
            }
            self.release(&mut host.machine);
            let mut progress = self.continue_handover(host)?;
            progress |= self.cut_if_due(host)?;
            if now.elapsed() >= TURN {
                // A standby that says more than this node hears must not keep the guest and operators waiting.
                self.has_more = true;
                break;
            }
            if !(self.receive(Instant::now()) || progress) {
                break;
            }
        }
        self.transmit();
        if let Some(outcome) = self.handover_timeout(Instant::now(), host) {
            return Ok(outcome);
        }
        self.ask_authority(now, host)?;
        Ok(Outcome::Stay)
    }

    /// Takes one message off the link, so that what it causes is done before the next: a standby that acknowledges and leaves has
    /// acknowledged. Returns whether there was something.
    fn receive(&mut self, now: Instant) -> bool {
        let Some(link) = &mut self.link else { return false };
        if link.just_came_up() {
            self.protocol.link_up(now);
        }
        match link.receive() {
            Ok(Some(message)) => {
                self.protocol.receive(now, message);
                return true;
            }
            Ok(None) => {}
            Err(error) => self.protocol.garbled(now, &error),
        }
        if let Some(reason) = link.closed() {
            self.protocol.link_down(now, reason);
            // What ended a link that was up, the protocol has said better.
            if !link.was_up() {
                self.peer.unreachable(reason);
            }
            self.link = None;
            return true;
        }
        false
    }

    /// Acts on one event of the protocol; `Some` if this node is not primary any more.
    fn act(&mut self, now: Instant, host: &mut Host, event: Event) -> Result<Option<Outcome>, DaemonError> {
        match event {
            Event::Dial => self.dial(now, host),
            Event::Close => {
                self.transmit();
                if let Some(link) = &mut self.link {
                    link.close_when_sent();
                }
            }
            Event::Harvest => {
                self.dirty.clear();
                host.machine.harvest(&mut self.dirty)?;
                self.protocol.harvested(now, &self.dirty);
            }
            Event::CheckpointWanted => self.checkpoint_wanted = true,
            Event::Committed(proof) => return self.committed(now, host, &proof),
            Event::InSync => {
                self.gate.close();
                self.protocol.gate_closed(now);
                self.naming.in_sync(self.gate.epoch());
                host.news.emit("in-sync", "the standby holds the guest and has rehearsed it; the gate is closed");
            }
            Event::Protected => {
                self.peer = Peer::Present;
                host.authority_says = None;
                host.news.emit("protected", "the standby's acknowledgements gate the guest's output");
            }
            Event::PageBack(chunk) => self.page_back(host, &chunk)?,
            Event::PeerLost { reason, protected } => {
                self.give_up_mending()?;
                self.naming.parted(Parting::Lost);
                self.peer_gone(host, "peer-lost", reason, protected);
            }
            Event::PeerLeft { reason, protected } => {
                self.give_up_mending()?;
                self.naming.parted(Parting::Left);
                self.peer_gone(host, "peer-left", reason, protected);
            }
            Event::Refused { reason } => {
                log::error!("no replication: {reason}");
                self.give_up_mending()?;
                self.naming.parted(Parting::Lost);
                self.peer_gone(host, "refused", reason, false);
            }
            Event::Superseded { generation } => return Ok(Some(Outcome::Superseded(generation))),
            Event::HandoverDone { generation } => return Ok(Some(self.handed_over(Ok(generation)))),
            Event::HandoverFailed { reason } => return Ok(Some(self.handed_over(Err(reason)))),
        }
        Ok(None)
    }

    fn dial(&mut self, now: Instant, host: &mut Host) {
        if let Some(reason) = self.unreadable() {
            self.peer.unreachable(reason);
            return self.protocol.link_down(now, reason);
        }
        match host.links.dial() {
            Ok(link) => self.link = Some(link),
            Err(error) => self.protocol.link_down(now, &error.to_string()),
        }
    }

    fn peer_gone(&mut self, host: &mut Host, event: &'static str, reason: String, protected: bool) {
        let consequence = if self.gate.consent().is_some() {
            "the guest runs unprotected, by consent"
        } else if host.authority.has_handler() {
            "output is held until the authority consents to go on alone, or the standby is back"
        } else if protected {
            "output is held; if the standby does not come back, `run-unprotected` lets the guest go on alone"
        } else {
            "output is held until the standby is back"
        };
        log::warn!("standby gone: {reason}; {consequence}");
        host.news.emit(event, &format!("{reason}; {consequence}"));
        if self.abandon_handover(host, &reason) {
            self.awaiting = None;
        }
        self.dismiss_waiters(&mut host.news);
        self.peer = Peer::Gone { parted: Some(reason), unreachable: None };
        // In sync mode the guest may be waiting for an acknowledgement that will not come. It goes on; its output does not.
        if self.awaiting.take().is_some() {
            self.go_on(host);
        }
    }

    pub(super) fn release(&mut self, machine: &mut Machine) {
        if self.is_mending() {
            // What is performed is answered in the guest's memory.
            return;
        }
        let mut any = false;
        while let Some(output) = self.gate.next_released() {
            machine.release(output);
            any = true;
        }
        if any {
            machine.signal();
        }
        machine.set_backpressure(self.gate.is_full());
    }

    /// Feeds a resync while the link has room, a little at a time: the guest's output, the operator and the peer's
    /// heartbeats have their turn in between.
    fn resync(&mut self, host: &mut Host) -> Result<(), DaemonError> {
        let machine = &host.machine;
        for _ in 0..RESYNC_CHUNKS {
            if !self.may_resync() {
                break;
            }
            self.protocol
                .precopy(Instant::now(), |run, into| machine.copy_pages(run, into).map_err(DaemonError::from))?;
            self.transmit();
        }
        Ok(())
    }

    /// Whether there is something to be copied, and room on the link.
    fn may_resync(&self) -> bool {
        self.protocol.wants_precopy() && self.link.as_ref().is_some_and(|link| link.queued_bytes() < RESYNC_QUEUE_BYTES)
    }

    pub(super) fn transmit(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        while let Some(message) = self.protocol.transmit(Instant::now()) {
            link.send(message);
        }
        link.flush();
    }
}
