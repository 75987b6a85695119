//! The primary: the guest runs here, and what it shows to the world waits at the gate.
//!
//! [`Primary::pump`] is the whole policy: after anything has happened it acts on what the protocol says, performs what the
//! gate has released, cuts a checkpoint if one is due, and sends what there is to send, until nothing is left to do.

use std::time::{Duration, Instant};

use kemari_core::{Epoch, Gate, Generation, Image, PageSet};
use kemari_protocol::primary::{Checkpoint, Event, Phase, Primary as Protocol};
use kemari_protocol::{Chunk, Message};
use kemari_vmm::{Machine, Output, SourceId};

use super::handover::Handover;
use super::metrics::Metrics;
use super::session::Session;
use super::{Context, DaemonError, Outcome};
use crate::authority::Grant;
use crate::config::Mode;

/// Plaintext waiting to be encrypted and sent above which no more is asked of a resync: enough to keep a fast link busy while
/// the event loop does something else, small beside a guest.
const RESYNC_QUEUE_BYTES: usize = 4 << 20;

/// Why output does not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nothing is known yet.
    Unseen,
    /// It is there.
    Present,
    /// It is gone; the text says how.
    Gone(String),
}

/// The primary's side of one guest.
pub(crate) struct Primary {
    pub(super) generation: Generation,
    pub(super) protocol: Protocol,
    pub(super) gate: Gate<Output>,
    pub(super) session: Option<Session>,
    pub(super) peer: Peer,
    pub(super) metrics: Metrics,
    pub(super) handover: Option<Handover>,
    mode: Mode,
    max_epoch: Duration,
    epoch_begun: Instant,
    checkpoint_wanted: bool,
    /// In `sync` mode the guest stays paused from its checkpoint to the acknowledgement.
    awaiting: Option<Epoch>,
    /// Reused from one checkpoint to the next.
    dirty: PageSet,
    outputs: Vec<Output>,
    /// When the oldest output of the epoch in progress was held.
    held_since: Option<Instant>,
    /// The same for the epochs in flight, oldest first.
    held_in_flight: std::collections::VecDeque<(Epoch, Option<Instant>)>,
}

impl Primary {
    /// The primary of the generation granted. The gate opens with the consent that the grant includes, until a standby is in
    /// sync. `base` is the image that the guest was resumed from, which a standby may hold, too.
    pub(super) fn new(
        now: Instant,
        context: &mut Context<'_>,
        grant: Grant,
        base: Option<Image>,
    ) -> Result<Primary, DaemonError> {
        let generation = grant.generation();
        let pages = context.machine.pages();
        let stale = if base.is_some() { PageSet::empty(pages) } else { PageSet::full(pages) };
        let mut protocol = Protocol::new(now, context.protocol_config()?, generation, base, stale)?;
        let mut gate = Gate::new(generation, Epoch::FIRST, context.config.replication.held_limit_bytes());
        gate.open(grant.into_consent())?;
        protocol.gate_opened();
        Ok(Primary {
            generation,
            protocol,
            gate,
            session: None,
            peer: Peer::Unseen,
            metrics: Metrics::default(),
            handover: None,
            mode: context.config.replication.mode,
            max_epoch: context.config.replication.max_epoch(),
            epoch_begun: now,
            checkpoint_wanted: false,
            awaiting: None,
            dirty: PageSet::empty(pages),
            outputs: Vec::new(),
            held_since: None,
            held_in_flight: std::collections::VecDeque::new(),
        })
    }

    /// Announces the guest's new place to the network; output like any other.
    pub(super) fn announce(&mut self, now: Instant, machine: &mut Machine) {
        machine.announce(&mut self.outputs);
        self.hold_collected(now);
    }

    /// Serves a device that is ready.
    pub(super) fn service(&mut self, now: Instant, context: &mut Context<'_>, source: SourceId) {
        context.machine.service(source, &mut self.outputs, context.machine_events);
        self.hold_collected(now);
    }

    pub(super) fn hold_collected(&mut self, now: Instant) {
        if !self.outputs.is_empty() {
            self.held_since.get_or_insert(now);
        }
        for output in self.outputs.drain(..) {
            self.gate.hold(output);
        }
    }

    /// Asks for a checkpoint as soon as one can be sent.
    pub(super) fn want_checkpoint(&mut self) {
        self.checkpoint_wanted = true;
    }

    /// Opens the gate by the operator's consent.
    pub(super) fn run_unprotected(&mut self, context: &mut Context<'_>) -> Result<(), DaemonError> {
        let consent = context.authority.consent(self.generation)?;
        self.gate.open(consent)?;
        self.protocol.gate_opened();
        self.awaiting = None;
        if self.handover.is_none() {
            context.machine.run();
        }
        Ok(())
    }

    /// When [`pump`](Primary::pump) must be called even if nothing happens.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let epoch_end = (self.protocol.phase() == Phase::Protected && self.protocol.may_checkpoint())
            .then(|| self.epoch_begun + self.max_epoch);
        [
            epoch_end,
            self.protocol.next_timeout(),
            self.session.as_ref().and_then(Session::next_timeout),
            self.handover.as_ref().map(Handover::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything there is to do.
    ///
    /// # Errors
    /// What this node cannot go on after.
    pub(super) fn pump(&mut self, context: &mut Context<'_>) -> Result<Outcome, DaemonError> {
        let now = Instant::now();
        self.receive(now);
        if self.protocol.next_timeout().is_some_and(|at| at <= now) {
            self.protocol.timeout(now);
        }
        loop {
            while let Some(event) = self.protocol.event() {
                if let Some(outcome) = self.act(Instant::now(), context, event)? {
                    self.transmit();
                    return Ok(outcome);
                }
            }
            self.release(context.machine);
            let mut progress = self.continue_handover(context)?;
            progress |= self.cut_if_due(context)?;
            progress |= self.resync(context)?;
            if !progress {
                break;
            }
        }
        self.transmit();
        if let Some(outcome) = self.handover_timeout(Instant::now(), context) {
            return Ok(outcome);
        }
        Ok(Outcome::Stay)
    }

    fn receive(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        if session.just_came_up() {
            self.protocol.link_up(now);
        }
        loop {
            match session.receive() {
                Ok(Some(message)) => self.protocol.receive(now, message),
                Ok(None) => break,
                Err(error) => {
                    self.protocol.garbled(now, &error);
                    break;
                }
            }
        }
        if let Some(reason) = session.closed() {
            self.protocol.link_down(now, &reason);
            self.session = None;
        }
    }

    /// Acts on one event of the protocol; `Some` if this node is not primary any more.
    fn act(&mut self, now: Instant, context: &mut Context<'_>, event: Event) -> Result<Option<Outcome>, DaemonError> {
        match event {
            Event::Dial => self.dial(now, context),
            Event::Close => {
                self.transmit();
                if let Some(session) = &mut self.session {
                    session.close_when_sent();
                }
            }
            Event::Harvest => {
                self.dirty.clear();
                context.machine.harvest(&mut self.dirty)?;
                self.protocol.harvested(now, &self.dirty);
            }
            Event::CheckpointWanted => self.checkpoint_wanted = true,
            Event::Committed(proof) => return self.committed(now, context, &proof),
            Event::InSync => {
                self.gate.close();
                self.protocol.gate_closed(now);
                context.emit(now, "in-sync", "the standby holds the guest and has rehearsed it; the gate is closed");
            }
            Event::Protected => {
                self.peer = Peer::Present;
                context.authority.protect(self.generation)?;
                context.emit(now, "protected", "the standby's acknowledgements gate the guest's output");
            }
            Event::PeerLost { reason, protected } => self.peer_gone(now, context, "peer-lost", reason, protected),
            Event::PeerLeft { reason, protected } => self.peer_gone(now, context, "peer-left", reason, protected),
            Event::Refused { reason } => {
                log::error!("no replication: {reason}");
                context.emit(now, "refused", &reason);
                self.peer = Peer::Gone(reason);
            }
            Event::Superseded { generation } => return Ok(Some(Outcome::Superseded(generation))),
            Event::HandoverDone { generation } => return Ok(Some(self.handed_over(Ok(generation)))),
            Event::HandoverFailed { reason } => return Ok(Some(self.handed_over(Err(reason)))),
        }
        Ok(None)
    }

    fn dial(&mut self, now: Instant, context: &mut Context<'_>) {
        match Session::dial(context) {
            Ok(session) => self.session = Some(session),
            Err(error) => self.protocol.link_down(now, &error.to_string()),
        }
    }

    fn peer_gone(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        event: &'static str,
        reason: String,
        protected: bool,
    ) {
        let consequence = if self.gate.consent().is_some() {
            "the guest runs unprotected, by consent"
        } else if protected {
            "output is held; if the standby does not come back, `run-unprotected` lets the guest go on alone"
        } else {
            "output is held until the standby is back"
        };
        log::warn!("standby gone: {reason}; {consequence}");
        context.emit(now, event, &format!("{reason}; {consequence}"));
        if self.abandon_handover(context, &reason) {
            self.awaiting = None;
        }
        self.peer = Peer::Gone(reason);
        // In sync mode the guest may be waiting for an acknowledgement that will not come. It goes on; its output does not.
        if self.awaiting.take().is_some() && self.handover.is_none() {
            context.machine.run();
        }
    }

    fn committed(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        proof: &kemari_core::Committed,
    ) -> Result<Option<Outcome>, DaemonError> {
        let image = proof.image();
        if let Some(latency) = self.protocol.status().commit_latency {
            self.metrics.commit_latency_us.record(latency.as_micros() as u64);
        }
        while self.held_in_flight.front().is_some_and(|(epoch, _)| *epoch <= image.epoch) {
            if let Some((_, Some(since))) = self.held_in_flight.pop_front() {
                self.metrics.hold_us.record(now.saturating_duration_since(since).as_micros() as u64);
            }
        }
        if self.is_final(image.epoch) {
            // What the last epoch shows is shown by the next primary, which does again whatever its image has in flight.
            return self.final_committed(now, image);
        }
        self.gate.commit(proof)?;
        if self.awaiting.is_some_and(|epoch| epoch <= image.epoch) {
            self.awaiting = None;
            if self.handover.is_none() {
                context.machine.run();
            }
        }
        context.committed(image);
        Ok(None)
    }

    fn release(&mut self, machine: &mut Machine) {
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

    fn cut_if_due(&mut self, context: &mut Context<'_>) -> Result<bool, DaemonError> {
        if !self.protocol.may_checkpoint() || self.handover.is_some() || self.awaiting.is_some() {
            return Ok(false);
        }
        let timed = self.protocol.phase() == Phase::Protected && self.epoch_begun.elapsed() >= self.max_epoch;
        if !(self.checkpoint_wanted || timed || self.gate.awaits_checkpoint()) {
            return Ok(false);
        }
        self.cut(context, false)?;
        Ok(true)
    }

    /// Cuts a checkpoint and sends it. The guest runs on at once, unless this is its `last` one here or the mode is `sync`.
    ///
    /// Returns the epoch it ends and the state, which a handover keeps.
    pub(super) fn cut(&mut self, context: &mut Context<'_>, last: bool) -> Result<(Epoch, Vec<u8>), DaemonError> {
        let begun = Instant::now();
        context.machine.pause(&mut self.outputs)?;
        self.hold_collected(begun);
        let epoch = self.gate.seal();
        let state = context.machine.save()?;
        self.dirty.clear();
        context.machine.harvest(&mut self.dirty)?;
        self.protocol.begin_checkpoint(&mut self.dirty);
        let machine = &*context.machine;
        let chunks = Chunk::gather(&self.dirty, |run, into| machine.copy_pages(run, into).map_err(DaemonError::from))?;
        let stays_paused = last || self.mode == Mode::Sync;
        if !stays_paused {
            context.machine.run();
        }
        let now = Instant::now();
        self.record_cut(now, now.duration_since(begun), epoch, state.len());
        let kept = if last { state.clone() } else { Vec::new() };
        self.protocol.send_checkpoint(now, Checkpoint { epoch, state, chunks, last })?;
        if stays_paused && !last {
            self.awaiting = Some(epoch);
        }
        self.epoch_begun = now;
        self.checkpoint_wanted = false;
        self.transmit();
        Ok((epoch, kept))
    }

    fn record_cut(&mut self, now: Instant, pause: Duration, epoch: Epoch, state_bytes: usize) {
        let pages = self.dirty.count();
        self.metrics.count(now);
        self.metrics.pause_us.record(pause.as_micros() as u64);
        self.metrics.dirty_pages.record(pages);
        self.metrics.sent_bytes.record(pages * kemari_core::PAGE_SIZE as u64 + state_bytes as u64);
        self.held_in_flight.push_back((epoch, self.held_since.take()));
    }

    /// Feeds a resync while the link has room.
    fn resync(&mut self, context: &mut Context<'_>) -> Result<bool, DaemonError> {
        let machine = &*context.machine;
        let mut any = false;
        while self.protocol.wants_precopy()
            && self.session.as_ref().is_some_and(|session| session.queued_bytes() < RESYNC_QUEUE_BYTES)
        {
            any |= self.protocol.precopy(Instant::now(), |run, into| {
                machine.copy_pages(run, into).map_err(DaemonError::from)
            })?;
            self.transmit();
        }
        Ok(any)
    }

    pub(super) fn transmit(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        while let Some(message) = self.protocol.transmit(Instant::now()) {
            session.send(message);
        }
        session.flush();
    }

    /// Answers a peer that believes it is primary, too.
    pub(super) fn answer_rival(&self, node: &str, message: &Message) -> Option<kemari_protocol::Rivalry> {
        match message {
            Message::Offer(offer) => Some(kemari_protocol::refuse_as_primary(node, self.generation, offer)),
            _ => None,
        }
    }
}
