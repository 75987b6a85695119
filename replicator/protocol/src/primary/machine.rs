//! The state machine itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kemari_core::{Committed, Epoch, Generation, Image, PageRun, PageSet, Sealed};

use super::lacking::{InFlight, Lacking};
use super::redial::Redial;
use super::resync::{Next, Resync};
use super::{Checkpoint, CheckpointError, Event, Phase, Status, YieldError};
use crate::checkpoint;
use crate::limits::STATE_BYTES;
use crate::link::Link;
use crate::message::{Manifest, Offer, Refuse, Select, Versions, clip};
use crate::violation::Violation;
use crate::{Chunk, ChunkError, Config, ConfigError, DecodeError, Message};

/// Where it stands; a [`Phase`] with what belongs to it.
#[derive(Debug)]
enum Stage {
    Alone,
    Greeting,
    Syncing(Resync),
    /// The checkpoint that ends a resync is on its way.
    Committing(Resync),
    /// The checkpoint that ended it was acknowledged. The proof waits: nothing may be released before the standby could go on.
    Rehearsing(Committed),
    /// The driver was told to close the gate.
    Closing,
    Covering,
    Protected,
    Yielded,
    Superseded,
}

impl Stage {
    fn doing(&self) -> &'static str {
        match self {
            Stage::Alone => "no link was up",
            Stage::Greeting => "an offer awaited its answer",
            Stage::Syncing(_) | Stage::Committing(_) => "a resync was on its way",
            Stage::Rehearsing(_) => "the rehearsal's result was awaited",
            Stage::Closing | Stage::Covering | Stage::Protected => "checkpoints were on their way",
            Stage::Yielded => "a promotion was awaited",
            Stage::Superseded => "this side was superseded",
        }
    }
}

/// The primary's state machine.
#[derive(Debug)]
pub struct Primary {
    config: Config,
    generation: Generation,
    stage: Stage,
    link: Link,
    redial: Redial,
    /// The driver was told to dial, and has not said how that ended.
    dialling: bool,
    peer: Option<String>,
    lacking: Lacking,
    gate_open: bool,
    /// Something may have left that no committed checkpoint covers.
    uncovered: bool,
    last_epoch: Option<Epoch>,
    /// The newest committed checkpoint, if it was cut as the last one.
    finished: Option<Image>,
    events: VecDeque<Event>,
    commit_latency: Option<Duration>,
    checkpoints: u64,
    pages_sent: u64,
    bytes_sent: u64,
}

impl Primary {
    /// A primary of `generation`.
    ///
    /// `base` is the image a standby may be known to hold, and `stale` the pages changed since (a set over the guest's
    /// size): what this node was promoted from, and what it dirtied since. Without `base` everything is stale. The gate is taken to be closed.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(
        now: Instant,
        config: Config,
        generation: Generation,
        base: Option<Image>,
        stale: PageSet,
    ) -> Result<Primary, ConfigError> {
        config.check()?;
        let stale = if base.is_some() { stale } else { PageSet::full(config.pages) };
        Ok(Primary {
            link: Link::new(&config),
            config,
            generation,
            stage: Stage::Alone,
            redial: Redial::new(now),
            dialling: false,
            peer: None,
            lacking: Lacking::new(base, stale),
            gate_open: false,
            uncovered: false,
            last_epoch: None,
            finished: None,
            events: VecDeque::new(),
            commit_latency: None,
            checkpoints: 0,
            pages_sent: 0,
            bytes_sent: 0,
        })
    }

    /// The authenticated link is up.
    pub fn link_up(&mut self, now: Instant) {
        self.dialling = false;
        if !matches!(self.stage, Stage::Alone) {
            return;
        }
        self.link.up(now);
        self.peer = None;
        self.stage = Stage::Greeting;
        self.link.send(Message::Offer(Offer {
            versions: Versions::SUPPORTED,
            node: self.config.node.clone(),
            identity: self.config.identity.clone(),
            pages: self.config.pages,
            generation: self.generation,
            unprotected: self.gate_open || self.uncovered,
            heartbeat_ms: self.config.heartbeat.as_millis() as u32,
            peer_timeout_ms: self.config.peer_timeout.as_millis() as u32,
        }));
    }

    /// The link is lost, or dialling failed.
    pub fn link_down(&mut self, now: Instant, reason: &str) {
        if std::mem::take(&mut self.dialling) {
            self.redial.after_loss(now);
        } else if self.link.is_up() {
            self.lose(now, reason.to_owned());
        }
    }

    /// A message from the standby.
    pub fn receive(&mut self, now: Instant, message: Message) {
        if !self.link.is_up() {
            return;
        }
        self.link.heard(now);
        if let Err(violation) = self.handle(now, message) {
            self.reject(now, violation.to_string());
        }
    }

    /// The byte stream from the standby made no sense.
    pub fn garbled(&mut self, now: Instant, error: &DecodeError) {
        if self.link.is_up() {
            self.reject(now, format!("the standby's bytes make no sense: {error}"));
        }
    }

    /// The instant named by [`next_timeout`](Primary::next_timeout) has come. Calling early or late is allowed.
    pub fn timeout(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Alone) && !self.dialling && self.redial.is_due(now) {
            self.dialling = true;
            self.events.push_back(Event::Dial);
        }
        if self.link.is_silent(now) {
            let reason = format!("the standby was silent for {:?}", self.config.peer_timeout);
            self.lose(now, reason);
            self.events.push_back(Event::Close);
        }
    }

    /// When to call [`timeout`](Primary::timeout).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let redial = if self.dialling { None } else { self.redial.at() };
        [redial, self.link.next_timeout()].into_iter().flatten().min()
    }

    /// The next message to send.
    pub fn transmit(&mut self, now: Instant) -> Option<Message> {
        self.link.transmit(now)
    }

    /// The next event to act on.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Pages that were harvested from the dirty log and not sent: the answer to [`Event::Harvest`], or the pages of a
    /// checkpoint that came to nothing.
    pub fn harvested(&mut self, _now: Instant, pages: &PageSet) {
        self.lacking.add(pages);
        let Stage::Syncing(resync) = &mut self.stage else { return };
        if !resync.awaits_harvest() {
            return;
        }
        match resync.harvested(&mut self.lacking) {
            Next::Begin => {
                resync.rehearse = true;
                self.link.send(Message::SyncBegin);
            }
            Next::Round => {}
            Next::Checkpoint => self.events.push_back(Event::CheckpointWanted),
        }
    }

    /// Whether [`precopy`](Primary::precopy) has something to send.
    #[must_use]
    pub fn wants_precopy(&self) -> bool {
        matches!(&self.stage, Stage::Syncing(resync) if resync.is_copying())
    }

    /// Sends the next chunk of a resync while the guest runs; `copy` appends the content of each run it is given.
    /// Returns whether there was something to send. Call it as often as the link has room.
    ///
    /// # Errors
    /// What `copy` failed with; those pages stay to be sent.
    pub fn precopy<E: From<ChunkError>>(
        &mut self,
        _now: Instant,
        mut copy: impl FnMut(PageRun, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Stage::Syncing(resync) = &mut self.stage else { return Ok(false) };
        let Some(batch) = resync.next_batch() else { return Ok(false) };
        let chunk = match Chunk::copied(batch.clone(), &mut copy) {
            Ok(chunk) => chunk,
            Err(error) => {
                resync.put_back(batch);
                return Err(error);
            }
        };
        if resync.copied(chunk.pages()) {
            self.events.push_back(Event::Harvest);
        }
        self.count(&chunk);
        self.link.send(Message::SyncPages(chunk));
        Ok(true)
    }

    /// Whether a checkpoint can be sent now.
    #[must_use]
    pub fn may_checkpoint(&self) -> bool {
        let stage = match &self.stage {
            Stage::Syncing(resync) => resync.awaits_checkpoint(),
            Stage::Covering | Stage::Protected => true,
            _ => false,
        };
        stage && self.lacking.in_flight() < self.config.depth
    }

    /// Adds to the pages just harvested those that the standby lacks as well. What is then in `pages` must be in the
    /// checkpoint. To be called while the guest is paused.
    pub fn begin_checkpoint(&mut self, pages: &mut PageSet) {
        self.lacking.complete(pages);
    }

    /// Sends a checkpoint.
    ///
    /// # Errors
    /// The checkpoint does not fit the moment or the guest; nothing was sent, and its pages will be asked for again.
    pub fn send_checkpoint(&mut self, now: Instant, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let Checkpoint { epoch, state, chunks, last } = checkpoint;
        let runs: Vec<PageRun> = chunks.iter().flat_map(|chunk| chunk.runs().iter().copied()).collect();
        if let Err(error) = self.check_checkpoint(epoch, state.len(), &runs) {
            runs.into_iter().for_each(|run| self.lacking.add_run(run));
            return Err(error);
        }
        let onto = self.lacking.tip();
        let sealed = Sealed::new(self.generation, epoch, checkpoint::checksum(&chunks, &state));
        self.last_epoch = Some(epoch);
        self.link.send(Message::Manifest(Manifest {
            image: sealed.image(),
            onto,
            pages: runs.iter().map(|run| run.count).sum(),
            state_bytes: state.len() as u64,
            unprotected: self.gate_open,
            last,
        }));
        for chunk in chunks {
            self.count(&chunk);
            self.link.send(Message::Pages(chunk));
        }
        self.bytes_sent += state.len() as u64;
        for piece in checkpoint::pieces(&state) {
            self.link.send(Message::State(piece.to_vec()));
        }
        self.lacking.sent(InFlight { sealed, runs, sent: now, unprotected: self.gate_open, last });
        self.stage = match std::mem::replace(&mut self.stage, Stage::Alone) {
            Stage::Syncing(resync) => Stage::Committing(resync),
            other => other,
        };
        Ok(())
    }

    fn check_checkpoint(&mut self, epoch: Epoch, state_bytes: usize, runs: &[PageRun]) -> Result<(), CheckpointError> {
        if !self.may_checkpoint() {
            return Err(CheckpointError::NotNow(self.stage.doing()));
        }
        if self.last_epoch.is_some_and(|last| epoch <= last) {
            return Err(CheckpointError::Epoch { epoch });
        }
        if state_bytes > STATE_BYTES {
            return Err(CheckpointError::State { bytes: state_bytes });
        }
        let mut end = 0;
        for run in runs {
            let after = run.end().filter(|after| *after <= self.config.pages && run.first >= end);
            end = after.ok_or(CheckpointError::Pages)?;
        }
        if self.lacking.cover(runs) { Ok(()) } else { Err(CheckpointError::Pages) }
    }

    /// The gate was opened by consent: what is released from here on is covered by no checkpoint.
    pub fn gate_opened(&mut self) {
        self.gate_open = true;
        self.uncovered = true;
        self.lacking.uncover();
    }

    /// The gate is closed again: the answer to [`Event::InSync`].
    pub fn gate_closed(&mut self, _now: Instant) {
        self.gate_open = false;
        if !matches!(self.stage, Stage::Closing) {
            return;
        }
        if self.uncovered {
            self.stage = Stage::Covering;
            self.events.push_back(Event::CheckpointWanted);
        } else {
            self.protected();
        }
    }

    /// Demotes this side after its last checkpoint; with `promote` the standby is asked to be promoted. From here on this
    /// side sends nothing that could commit, and never runs again.
    ///
    /// # Errors
    /// The guest is not protected, or the last checkpoint is not committed. Nothing has changed then.
    pub fn yield_to_peer(&mut self, _now: Instant, promote: bool) -> Result<(), YieldError> {
        if !matches!(self.stage, Stage::Protected) {
            return Err(YieldError::Unprotected(self.phase()));
        }
        let image = self.finished.filter(|_| self.lacking.in_flight() == 0).ok_or(YieldError::NotFinal)?;
        self.stage = Stage::Yielded;
        self.redial.never();
        if promote {
            self.link.send(Message::Yield { image, promote });
        } else {
            self.link.close(Message::Yield { image, promote });
            self.events.push_back(Event::Close);
        }
        Ok(())
    }

    /// Leaves cleanly: says goodbye and closes the link.
    pub fn leave(&mut self, _now: Instant, reason: &str) {
        self.redial.never();
        self.dialling = false;
        if self.link.is_up() {
            self.link.close(Message::Bye { reason: clip(reason.to_owned()) });
            self.events.push_back(Event::Close);
            self.stage = Stage::Alone;
        }
    }

    /// Numbers for status and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase(),
            peer: self.peer.clone(),
            in_flight: self.lacking.in_flight(),
            committed: self.lacking.base(),
            commit_latency: self.commit_latency,
            checkpoints: self.checkpoints,
            pages_sent: self.pages_sent,
            bytes_sent: self.bytes_sent,
            stale_pages: self.lacking.stale_pages(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.stage {
            Stage::Alone => Phase::Alone,
            Stage::Greeting => Phase::Greeting,
            Stage::Syncing(resync) | Stage::Committing(resync) => {
                let (done, total, round) = resync.progress(&self.lacking);
                Phase::Syncing { done, total, round }
            }
            Stage::Rehearsing(_) => Phase::Rehearsing,
            Stage::Closing | Stage::Covering => Phase::Covering,
            Stage::Protected => Phase::Protected,
            Stage::Yielded => Phase::Yielded,
            Stage::Superseded => Phase::Superseded,
        }
    }

    /// Checkpoints sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lacking.in_flight()
    }

    /// From the sending of the last committed checkpoint to its acknowledgement.
    #[must_use]
    pub fn commit_latency(&self) -> Option<Duration> {
        self.commit_latency
    }

    /// What the standby is known to hold.
    #[must_use]
    pub fn committed(&self) -> Option<Image> {
        self.lacking.base()
    }

    fn count(&mut self, chunk: &Chunk) {
        self.pages_sent += chunk.pages();
        self.bytes_sent += chunk.data().len() as u64;
    }

    fn handle(&mut self, now: Instant, message: Message) -> Result<(), Violation> {
        match message {
            Message::Heartbeat => {}
            // A demoted primary lives, but not as one who can be asked to make way.
            Message::Probe { .. } if matches!(self.stage, Stage::Yielded) => {}
            Message::Probe { nonce } => self.link.send(Message::ProbeReply { nonce }),
            Message::Bye { reason } => self.left(now, reason),
            Message::Refuse(refuse) => self.refused(now, refuse),
            Message::Select(select) if matches!(self.stage, Stage::Greeting) => self.selected(now, select)?,
            Message::Ack(image) => self.acknowledged(now, image)?,
            Message::Rehearsed(result) if matches!(self.stage, Stage::Rehearsing(_)) => self.rehearsed(now, result),
            Message::Promoted { generation } if matches!(self.stage, Stage::Yielded) => {
                self.link.lost();
                self.events.extend([Event::HandoverDone { generation }, Event::Close]);
            }
            Message::PromoteRefused { reason } if matches!(self.stage, Stage::Yielded) => {
                self.link.lost();
                self.events.extend([Event::HandoverFailed { reason }, Event::Close]);
            }
            other => return Err(Violation::Unexpected { message: other.name(), doing: self.stage.doing() }),
        }
        Ok(())
    }

    fn selected(&mut self, now: Instant, select: Select) -> Result<(), Violation> {
        let Select { version, node, image, rehearsed, heartbeat_ms, peer_timeout_ms: _ } = select;
        let supported = Versions::SUPPORTED;
        if !(supported.oldest..=supported.newest).contains(&version) {
            return Err(Violation::Version { version });
        }
        if let Err(reason) = self.config.check_peer(&node, heartbeat_ms) {
            self.refuse(now, reason);
            return Ok(());
        }
        self.peer = Some(node);
        if let Some((committed, checkpoint)) = self.lacking.reconcile(image) {
            self.covered(now, &checkpoint);
            // Else the checkpoint that ends this resync covers it, too.
            if rehearsed {
                self.events.push_back(Event::Committed(committed));
            }
        }
        self.stage = Stage::Syncing(Resync::new(!rehearsed));
        self.events.push_back(Event::Harvest);
        Ok(())
    }

    fn acknowledged(&mut self, now: Instant, image: Image) -> Result<(), Violation> {
        let (committed, checkpoint) = self
            .lacking
            .acknowledge(image)
            .map_err(|expected| Violation::Acknowledged { acknowledged: image, expected })?;
        self.covered(now, &checkpoint);
        if matches!(&self.stage, Stage::Committing(resync) if resync.rehearse) {
            self.stage = Stage::Rehearsing(committed);
            return Ok(());
        }
        self.events.push_back(Event::Committed(committed));
        match &self.stage {
            Stage::Committing(_) => self.in_sync(),
            Stage::Covering if !self.uncovered => self.protected(),
            _ => {}
        }
        Ok(())
    }

    fn rehearsed(&mut self, now: Instant, result: Result<(), String>) {
        if let Err(reason) = result {
            return self.refuse(now, format!("the standby cannot load the guest: {reason}"));
        }
        if let Stage::Rehearsing(committed) = std::mem::replace(&mut self.stage, Stage::Closing) {
            self.events.push_back(Event::Committed(committed));
        }
        self.in_sync();
    }

    /// A checkpoint is committed.
    fn covered(&mut self, now: Instant, checkpoint: &InFlight) {
        self.checkpoints += 1;
        self.commit_latency = Some(now.saturating_duration_since(checkpoint.sent));
        if !checkpoint.unprotected {
            self.uncovered = false;
        }
        // A handover may be given up after its last checkpoint was cut: then others follow, and none is final any more.
        self.finished = checkpoint.last.then(|| checkpoint.sealed.image());
    }

    fn in_sync(&mut self) {
        self.redial.succeeded();
        self.stage = Stage::Closing;
        self.events.push_back(Event::InSync);
    }

    fn protected(&mut self) {
        self.stage = Stage::Protected;
        self.events.push_back(Event::Protected);
    }

    /// The link is gone without a word.
    fn lose(&mut self, now: Instant, reason: String) {
        let protected = self.part(now);
        self.events.push_back(match protected {
            Some(protected) => Event::PeerLost { reason, protected },
            None => Event::HandoverFailed { reason },
        });
    }

    fn left(&mut self, now: Instant, reason: String) {
        let protected = self.part(now);
        self.events.push_back(match protected {
            Some(protected) => Event::PeerLeft { reason, protected },
            None => Event::HandoverFailed { reason: format!("the standby left: {reason}") },
        });
        self.events.push_back(Event::Close);
    }

    /// Ends the link. Returns whether the guest was protected until now; `None` if this side had yielded.
    fn part(&mut self, now: Instant) -> Option<bool> {
        self.link.lost();
        match self.stage {
            Stage::Yielded => None,
            Stage::Superseded => Some(false),
            _ => {
                let protected = matches!(self.stage, Stage::Protected);
                self.stage = Stage::Alone;
                self.finished = None;
                self.redial.after_loss(now);
                Some(protected)
            }
        }
    }

    fn refused(&mut self, now: Instant, refuse: Refuse) {
        let Refuse { reason, generation } = refuse;
        let was_up = self.part(now);
        match generation.filter(|generation| generation.is_newer_than(self.generation)) {
            _ if was_up.is_none() => self.events.push_back(Event::HandoverFailed { reason }),
            Some(generation) => {
                self.stage = Stage::Superseded;
                self.redial.never();
                self.events.push_back(Event::Superseded { generation });
            }
            None => {
                self.redial.after_refusal(now);
                self.events.push_back(Event::Refused { reason });
            }
        }
        self.events.push_back(Event::Close);
    }

    /// There will be no replication with this peer.
    fn refuse(&mut self, now: Instant, reason: String) {
        let reason = clip(reason);
        self.part(now);
        self.link.close(Message::Refuse(Refuse { reason: reason.clone(), generation: None }));
        self.redial.after_refusal(now);
        self.events.extend([Event::Refused { reason }, Event::Close]);
    }

    /// The peer broke the protocol.
    fn reject(&mut self, now: Instant, reason: String) {
        let reason = clip(reason);
        self.lose(now, reason.clone());
        self.link.close(Message::Refuse(Refuse { reason, generation: None }));
        self.events.push_back(Event::Close);
    }
}
