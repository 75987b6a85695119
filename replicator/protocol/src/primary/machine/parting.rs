//! How a link ends: by a word of either side, without one, or because the peer broke the protocol.

use std::time::Instant;

use super::{Primary, Stage};
use crate::Message;
use crate::message::{Refuse, clip};
use crate::primary::Event;

impl Primary {
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

    /// The link is gone without a word.
    pub(super) fn lose(&mut self, now: Instant, reason: String) {
        let protected = self.part(now);
        self.events.push_back(match protected {
            Some(protected) => Event::PeerLost { reason, protected },
            None => Event::HandoverFailed { reason },
        });
    }

    pub(super) fn left(&mut self, now: Instant, reason: String) {
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
                self.lost.clear();
                self.redial.after_loss(now);
                Some(protected)
            }
        }
    }

    pub(super) fn refused(&mut self, now: Instant, refuse: Refuse) {
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
    pub(super) fn refuse(&mut self, now: Instant, reason: String) {
        let reason = clip(reason);
        self.part(now);
        self.link.close(Message::Refuse(Refuse { reason: reason.clone(), generation: None }));
        self.redial.after_refusal(now);
        self.events.extend([Event::Refused { reason }, Event::Close]);
    }

    /// The peer broke the protocol.
    pub(super) fn reject(&mut self, now: Instant, reason: String) {
        let reason = clip(reason);
        self.lose(now, reason.clone());
        self.link.close(Message::Refuse(Refuse { reason, generation: None }));
        self.events.push_back(Event::Close);
    }
}
