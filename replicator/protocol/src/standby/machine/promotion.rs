//! The way to a promotion: the freeze, what arrives meanwhile, and how it ends.

use std::time::Instant;

use kemari_core::{Generation, Image};

use super::Standby;
use crate::Message;
use crate::message::{Refuse, clip};
use crate::standby::freeze::{Freeze, Progress};
use crate::standby::{Event, FreezeError, Promoted};
use crate::violation::Violation;

impl Standby {
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

    /// A message that came in a freeze: it waits, unless it answers the question whether the primary lives.
    pub(super) fn receive_frozen(&mut self, now: Instant, message: Message) {
        let Some(freeze) = &mut self.freeze else { return };
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

    pub(super) fn yield_received(&mut self, image: Image, promote: bool) -> Result<(), Violation> {
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

    /// No primary can commit anything to this image any more.
    pub(super) fn certain(&mut self) {
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
}
