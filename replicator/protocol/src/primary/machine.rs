//! The state machine itself: what it is told, and what it makes of the standby's messages.

mod checkpoints;
mod loss;
mod parting;
mod stage;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kemari_core::{Epoch, Generation, Image, PageSet};

use super::lacking::Lacking;
use super::redial::Redial;
use super::resync::Resync;
use super::{Event, Phase, Status, YieldError};
use crate::link::Link;
use crate::message::{Offer, Select, Versions};
use crate::violation::Violation;
use crate::{Config, ConfigError, DecodeError, Message};
use stage::Stage;

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
    /// Pages that were lost and asked for, oldest first.
    lost: VecDeque<u64>,
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
            lost: VecDeque::new(),
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

    /// The gate was opened by consent: what is released from here on is covered by no checkpoint.
    ///
    /// A standby that is being brought up to date from an image of before is left, so that it cannot take that image for the
    /// newest: the next offer says how things are.
    pub fn gate_opened(&mut self, now: Instant) {
        self.gate_open = true;
        self.uncovered = true;
        self.lacking.uncover();
        if self.link.is_up() && self.lacking.base().is_some() {
            self.lose(now, "the gate was opened, and the standby has to be told from the start".to_owned());
            self.events.push_back(Event::Close);
        }
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
        self.stage.phase(&self.lacking)
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
            Message::PageBack(chunk) => self.page_back(chunk)?,
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
        let Select { version, node, image, rehearsed, heartbeat_ms } = select;
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

    fn rehearsed(&mut self, now: Instant, result: Result<(), String>) {
        if let Err(reason) = result {
            return self.refuse(now, format!("the standby cannot load the guest: {reason}"));
        }
        if let Stage::Rehearsing(committed) = std::mem::replace(&mut self.stage, Stage::Closing) {
            self.events.push_back(Event::Committed(committed));
        }
        self.in_sync();
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
}
