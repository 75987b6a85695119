//! The state machine itself: what it is told, and what it makes of the primary's messages.

mod checkpoints;
mod greeting;
mod promotion;

use std::collections::VecDeque;
use std::time::Instant;

use kemari_core::{Generation, Image};

use super::freeze::{Freeze, Progress};
use super::staged::Staged;
use super::{Event, Held, NotPromotable, Phase, Status};
use crate::link::Link;
use crate::message::{Refuse, clip};
use crate::violation::Violation;
use crate::{Config, ConfigError, DecodeError, Message};

/// How far the two have come on this link.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// There is no link.
    Alone,
    /// The primary's offer is awaited.
    Greeting,
    /// The driver makes the primary's generation durable.
    Adopting { generation: Generation, version: u16 },
    /// Replication is on its way.
    Open(Generation),
}

impl Stage {
    fn doing(&self) -> &'static str {
        match self {
            Stage::Alone => "no link was up",
            Stage::Greeting => "an offer was awaited",
            Stage::Adopting { .. } => "the offer was being answered",
            Stage::Open(_) => "checkpoints were awaited",
        }
    }
}

/// The standby's state machine.
#[derive(Debug)]
pub struct Standby {
    config: Config,
    generation: Option<Generation>,
    stage: Stage,
    link: Link,
    peer: Option<String>,
    image: Option<Image>,
    state: Vec<u8>,
    rehearsed: bool,
    /// The primary may have shown what the image does not cover.
    unprotected: bool,
    /// A resync in place has begun, and is not ended by a checkpoint yet.
    resyncing: bool,
    staged: Option<Staged>,
    freeze: Option<Freeze>,
    /// The primary has said that it is demoted.
    yielded: bool,
    events: VecDeque<Event>,
    checkpoints: u64,
    pages_received: u64,
}

impl Standby {
    /// A standby that knows `generation` (from stable storage) and holds `held` (memory already being as of it): `None` after
    /// a start, the final image after a handover.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(config: Config, generation: Option<Generation>, held: Option<Held>) -> Result<Standby, ConfigError> {
        config.check()?;
        let (image, state, rehearsed) = match held {
            Some(Held { image, state, rehearsed }) => (Some(image), state, rehearsed),
            None => (None, Vec::new(), false),
        };
        Ok(Standby {
            link: Link::new(&config),
            config,
            generation,
            stage: Stage::Alone,
            peer: None,
            image,
            state,
            rehearsed,
            unprotected: false,
            resyncing: false,
            staged: None,
            freeze: None,
            yielded: false,
            events: VecDeque::new(),
            checkpoints: 0,
            pages_received: 0,
        })
    }

    /// A primary's authenticated link is up.
    pub fn link_up(&mut self, now: Instant) {
        self.link.up(now);
        self.stage = Stage::Greeting;
        self.peer = None;
        self.yielded = false;
    }

    /// The link is lost.
    pub fn link_down(&mut self, _now: Instant, reason: &str) {
        if self.link.is_up() {
            self.part();
            self.events.push_back(Event::PeerLost { reason: reason.to_owned() });
        }
    }

    /// A message from the primary.
    pub fn receive(&mut self, now: Instant, message: Message) {
        if !self.link.is_up() {
            return;
        }
        self.link.heard(now);
        if self.freeze.is_some() {
            self.receive_frozen(now, message);
        } else {
            self.act(message);
        }
    }

    fn act(&mut self, message: Message) {
        if let Err(violation) = self.handle(message) {
            self.reject(violation.to_string());
        }
    }

    /// The byte stream from the primary made no sense.
    pub fn garbled(&mut self, _now: Instant, error: &DecodeError) {
        if self.link.is_up() {
            self.reject(format!("the primary's bytes make no sense: {error}"));
        }
    }

    /// The instant named by [`next_timeout`](Standby::next_timeout) has come. Calling early or late is allowed.
    pub fn timeout(&mut self, now: Instant) {
        if self.link.is_silent(now) {
            self.part();
            let reason = format!("the primary was silent for {:?}", self.config.peer_timeout);
            self.events.extend([Event::PeerLost { reason }, Event::Close]);
        }
    }

    /// When to call [`timeout`](Standby::timeout).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.link.next_timeout()
    }

    /// The next message to send.
    pub fn transmit(&mut self, now: Instant) -> Option<Message> {
        self.link.transmit(now)
    }

    /// The next event to act on.
    pub fn event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let (Event::Frozen, Some(freeze)) = (&event, &mut self.freeze) {
            freeze.progress = Progress::Told;
        }
        Some(event)
    }

    /// The generation of [`Event::AdoptGeneration`] is on stable storage.
    pub fn adopted(&mut self, _now: Instant, generation: Generation) {
        self.generation = Some(generation);
        if let Stage::Adopting { generation: offered, version } = self.stage
            && offered == generation
        {
            self.select(generation, version);
        }
    }

    /// The answer to [`Event::Rehearse`]; a failure names what this host refused.
    pub fn rehearsed(&mut self, _now: Instant, result: Result<(), String>) {
        self.rehearsed = result.is_ok();
        if self.link.is_up() && matches!(self.stage, Stage::Open(_)) {
            self.link.send(Message::Rehearsed(result.map_err(clip)));
        }
    }

    /// The saved state of the image held.
    #[must_use]
    pub fn state(&self) -> Option<&[u8]> {
        self.image.is_some().then_some(&self.state)
    }

    /// The image held, promotable or not.
    #[must_use]
    pub fn image(&self) -> Option<Image> {
        self.image
    }

    /// Whether the image held may be promoted: rehearsed, of the newest generation known, covering everything released.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn promotable(&self) -> Result<Image, NotPromotable> {
        let image = self.image.ok_or(NotPromotable::NoImage)?;
        match self.generation {
            Some(newest) if newest != image.generation => Err(NotPromotable::Outdated { image, newest }),
            _ if self.unprotected => Err(NotPromotable::Unprotected { image }),
            _ if !self.rehearsed => Err(NotPromotable::Unrehearsed { image }),
            _ => Ok(image),
        }
    }

    /// Leaves cleanly: says goodbye and closes the link.
    pub fn leave(&mut self, _now: Instant, reason: &str) {
        if self.link.is_up() {
            self.part();
            self.link.close(Message::Bye { reason: clip(reason.to_owned()) });
            self.events.push_back(Event::Close);
        }
    }

    /// Numbers for status and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        let promotable = self.promotable();
        let phase = match &self.stage {
            _ if self.freeze.is_some() => Phase::Frozen,
            Stage::Alone => Phase::Alone,
            Stage::Greeting | Stage::Adopting { .. } => Phase::Greeting,
            Stage::Open(_) if promotable.is_ok() => Phase::InSync,
            Stage::Open(_) => Phase::Syncing,
        };
        Status {
            phase,
            peer: self.peer.clone(),
            image: self.image,
            generation: self.generation,
            promotable,
            yielded: self.yielded,
            staged_bytes: self.staged.as_ref().map_or(0, Staged::bytes),
            checkpoints: self.checkpoints,
            pages_received: self.pages_received,
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), Violation> {
        match message {
            // A probe's reply that comes late answers a freeze that has ended.
            Message::Heartbeat | Message::ProbeReply { .. } => Ok(()),
            Message::Bye { reason } => {
                self.part();
                self.events.extend([Event::PeerLeft { reason }, Event::Close]);
                Ok(())
            }
            Message::Refuse(Refuse { reason, .. }) => {
                self.part();
                self.events.extend([Event::Refused { reason }, Event::Close]);
                Ok(())
            }
            Message::Offer(offer) if self.stage == Stage::Greeting => {
                self.offered(offer);
                Ok(())
            }
            message => match self.stage {
                Stage::Open(generation) => self.replicate(generation, message),
                _ => Err(Violation::Unexpected { message: message.name(), doing: self.stage.doing() }),
            },
        }
    }

    /// The link is over. A checkpoint that has not wholly arrived never will, what is parked means nothing on another link, and
    /// nobody is left to answer a probe.
    fn part(&mut self) {
        self.link.lost();
        self.stage = Stage::Alone;
        self.staged = None;
        if let Some(freeze) = &mut self.freeze {
            freeze.forget();
        }
        self.certain();
    }

    /// The peer broke the protocol.
    fn reject(&mut self, reason: String) {
        let reason = clip(reason);
        self.part();
        self.link.close(Message::Refuse(Refuse { reason: reason.clone(), generation: None }));
        self.events.extend([Event::PeerLost { reason }, Event::Close]);
    }
}
