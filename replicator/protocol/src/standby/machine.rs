//! The state machine itself.

use std::collections::VecDeque;
use std::time::Instant;

use kemari_core::sabotage::{self, Bug};
use kemari_core::{Generation, Image};

use super::freeze::{Freeze, Progress};
use super::staged::{Staged, check_range};
use super::{Event, FreezeError, Held, NotPromotable, Phase, Promoted, Status};
use crate::link::Link;
use crate::message::{Manifest, Offer, Refuse, Select, Versions, clip};
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
    Adopting(Generation),
    /// Replication is on its way.
    Open(Generation),
}

impl Stage {
    fn doing(&self) -> &'static str {
        match self {
            Stage::Alone => "no link was up",
            Stage::Greeting => "an offer was awaited",
            Stage::Adopting(_) => "the offer was being answered",
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
        if let Some(freeze) = &mut self.freeze {
            match (message, freeze.progress) {
                (Message::ProbeReply { nonce }, Progress::Probing { nonce: asked }) if nonce == asked => {
                    let primary = self.peer.as_deref().unwrap_or("the primary");
                    let reason = format!("{primary} lives, and answers as primary; hand over there, or stop it first");
                    self.refuse_freeze(now, reason);
                }
                (Message::Bye { .. }, Progress::Probing { .. }) => self.certain(),
                (message, progress) => {
                    // A demoted primary lives, but it does not answer the probe, and commits nothing any more.
                    let demoted = matches!(progress, Progress::Probing { .. })
                        && matches!(&message, Message::Yield { image, .. } if self.image == Some(*image));
                    if !freeze.park(message) {
                        self.refuse_freeze(now, "the primary goes on sending".to_owned());
                    } else if demoted {
                        self.yielded = true;
                        self.certain();
                    }
                }
            }
            return;
        }
        self.act(message);
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
        if self.stage == Stage::Adopting(generation) {
            self.select(generation);
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

    /// Asks for a freeze. From here on nothing is committed or acknowledged, until [`Event::FreezeRefused`] or
    /// [`unfreeze`](Standby::unfreeze). [`Event::Frozen`] comes once the link is down, the primary was silent for the peer
    /// timeout, or is demoted. `nonce` is any number not used before.
    ///
    /// # Errors
    /// There is nothing to promote; nothing has changed.
    pub fn freeze(&mut self, _now: Instant, nonce: u64) -> Result<(), FreezeError> {
        if self.freeze.is_some() {
            return Err(FreezeError::Already);
        }
        self.promotable()?;
        self.freeze = Some(Freeze::new(Progress::Probing { nonce }));
        if self.link.is_up() && !self.yielded {
            self.link.send(Message::Probe { nonce });
        } else {
            self.certain();
        }
        Ok(())
    }

    /// Ends a freeze; what arrived meanwhile is handled now.
    pub fn unfreeze(&mut self, _now: Instant) {
        let Some(freeze) = self.freeze.take() else { return };
        self.events.retain(|event| !matches!(event, Event::Frozen));
        for message in freeze.parked {
            if self.link.is_up() {
                self.act(message);
            }
        }
    }

    /// Answers [`Event::PromoteRequested`] with no, and ends the freeze if there is one.
    pub fn refuse_promotion(&mut self, now: Instant, reason: &str) {
        if self.yielded && self.link.is_up() {
            self.part();
            self.link.close(Message::PromoteRefused { reason: clip(reason.to_owned()) });
            self.events.push_back(Event::Close);
        }
        self.unfreeze(now);
    }

    /// Ends this side: it is the primary of `generation` now. What has arrived of a checkpoint is dropped.
    ///
    /// # Errors
    /// Gives `self` back unless [`Event::Frozen`] was taken from [`event`](Standby::event) and the freeze still stands.
    pub fn promote(self, generation: Generation) -> Result<Promoted, Box<Standby>> {
        let told = self.freeze.as_ref().is_some_and(|freeze| freeze.progress == Progress::Told);
        let (true, Ok(image)) = (told, self.promotable()) else { return Err(Box::new(self)) };
        let farewell = match (self.link.is_up(), self.yielded) {
            (true, true) => vec![Message::Promoted { generation }],
            (true, false) => {
                let reason = clip(format!("{} was promoted to generation {generation}", self.config.node));
                vec![Message::Refuse(Refuse { reason, generation: Some(generation) })]
            }
            (false, _) => Vec::new(),
        };
        Ok(Promoted { image, state: self.state, farewell })
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
            Stage::Greeting | Stage::Adopting(_) => Phase::Greeting,
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

    fn offered(&mut self, offer: Offer) {
        let refuse = |reason, generation| Message::Refuse(Refuse { reason: clip(reason), generation });
        let refusal = match self.generation {
            Some(known) if known != offer.generation && !offer.generation.is_newer_than(known) => {
                let reason = format!(
                    "{} serves generation {}, but {} knows generation {known}",
                    offer.node, offer.generation, self.config.node
                );
                Some((reason, Some(known)))
            }
            _ => self.misfit(&offer).map(|reason| (reason, None)),
        };
        if let Some((reason, generation)) = refusal {
            self.part();
            self.link.close(refuse(reason.clone(), generation));
            self.events.extend([Event::Refused { reason }, Event::Close]);
            return;
        }
        self.peer = Some(offer.node);
        self.unprotected |= offer.unprotected;
        if self.generation == Some(offer.generation) {
            self.select(offer.generation);
        } else {
            self.stage = Stage::Adopting(offer.generation);
            self.events.push_back(Event::AdoptGeneration(offer.generation));
        }
    }

    /// Why this guest cannot be replicated between these two nodes, naming both.
    fn misfit(&self, offer: &Offer) -> Option<String> {
        let (ours, theirs) = (&self.config.node, &offer.node);
        let supported = Versions::SUPPORTED;
        if supported.common(offer.versions).is_none() {
            return Some(format!(
                "{theirs} speaks protocol versions {}, {ours} speaks {supported}; run releases that share one",
                offer.versions
            ));
        }
        let differences = offer.identity.differences(theirs, &self.config.identity, ours);
        if !differences.is_empty() {
            return Some(format!("the guest differs: {}", differences.join("; ")));
        }
        if offer.pages != self.config.pages {
            return Some(format!("the guest has {} pages on {theirs}, {} on {ours}", offer.pages, self.config.pages));
        }
        self.config.check_peer(theirs, offer.heartbeat_ms).err()
    }

    fn select(&mut self, generation: Generation) {
        self.stage = Stage::Open(generation);
        self.link.send(Message::Select(Select {
            version: Versions::SUPPORTED.newest,
            node: self.config.node.clone(),
            image: self.image,
            rehearsed: self.rehearsed,
            heartbeat_ms: self.config.heartbeat.as_millis() as u32,
            peer_timeout_ms: self.config.peer_timeout.as_millis() as u32,
        }));
    }

    fn replicate(&mut self, generation: Generation, message: Message) -> Result<(), Violation> {
        match (message, &mut self.staged) {
            (Message::SyncBegin, None) => {
                (self.image, self.rehearsed, self.resyncing) = (None, false, true);
                self.state = Vec::new();
                self.events.push_back(Event::Void);
            }
            (Message::SyncPages(chunk), None) if self.resyncing => {
                for run in chunk.runs() {
                    check_range(*run, self.config.pages)?;
                }
                self.pages_received += chunk.pages();
                self.events.push_back(Event::Write(chunk));
            }
            (Message::Manifest(manifest), None) => self.announced(generation, manifest)?,
            (Message::Pages(chunk), Some(staged)) => {
                if sabotage::planted(Bug::PromotePartial) {
                    self.events.push_back(Event::Write(chunk.clone()));
                }
                self.pages_received += chunk.pages();
                staged.pages(chunk, self.config.pages)?;
            }
            (Message::State(piece), Some(staged)) => staged.state(piece)?,
            (Message::Yield { image, promote }, None) => self.yield_received(image, promote)?,
            (other, _) => {
                return Err(Violation::Unexpected { message: other.name(), doing: self.stage.doing() });
            }
        }
        if self.staged.as_ref().is_some_and(Staged::is_whole)
            && let Some(staged) = self.staged.take()
        {
            self.commit(staged)?;
        }
        Ok(())
    }

    fn announced(&mut self, generation: Generation, manifest: Manifest) -> Result<(), Violation> {
        let Manifest { image, onto, .. } = manifest;
        if image.generation != generation {
            return Err(Violation::Generation { image, generation });
        }
        if onto != self.image || (onto.is_none() && !self.resyncing) {
            return Err(Violation::Base { image, onto, held: self.image });
        }
        if let Some(onto) = onto.filter(|onto| onto.generation == generation && onto.epoch >= image.epoch) {
            return Err(Violation::Order { image, onto });
        }
        if sabotage::planted(Bug::AckBeforeVerify) {
            self.link.send(Message::Ack(image));
        }
        self.staged = Some(Staged::new(manifest, self.config.pages)?);
        Ok(())
    }

    /// A checkpoint is whole: verified, it is the image from here on. The driver lays its pages into memory before it sends
    /// the acknowledgement.
    fn commit(&mut self, staged: Staged) -> Result<(), Violation> {
        staged.verify()?;
        let Staged { manifest, chunks, state, .. } = staged;
        let image = manifest.image;
        self.image = Some(image);
        self.state = state;
        self.unprotected = manifest.unprotected;
        self.resyncing = false;
        self.checkpoints += 1;
        self.events.push_back(Event::Commit { image, chunks });
        if !sabotage::planted(Bug::AckBeforeVerify) {
            self.link.send(Message::Ack(image));
        }
        if !self.rehearsed {
            self.events.push_back(Event::Rehearse);
        }
        Ok(())
    }

    fn yield_received(&mut self, image: Image, promote: bool) -> Result<(), Violation> {
        if self.image != Some(image) {
            return Err(Violation::Final { image, held: self.image });
        }
        self.yielded = true;
        if promote {
            self.events.push_back(Event::PromoteRequested { image });
        } else {
            self.part();
            let reason = format!("the primary is demoted; both nodes hold {image}");
            self.events.extend([Event::PeerLeft { reason }, Event::Close]);
        }
        Ok(())
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

    /// No primary can commit anything to this image any more.
    fn certain(&mut self) {
        if let Some(freeze) = &mut self.freeze
            && matches!(freeze.progress, Progress::Probing { .. })
        {
            freeze.progress = Progress::Certain;
            self.events.push_back(Event::Frozen);
        }
    }

    fn refuse_freeze(&mut self, now: Instant, reason: String) {
        self.events.push_back(Event::FreezeRefused { reason });
        self.unfreeze(now);
    }

    /// The peer broke the protocol.
    fn reject(&mut self, reason: String) {
        let reason = clip(reason);
        self.part();
        self.link.close(Message::Refuse(Refuse { reason: reason.clone(), generation: None }));
        self.events.extend([Event::PeerLost { reason }, Event::Close]);
    }
}
