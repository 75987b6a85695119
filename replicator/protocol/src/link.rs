//! One link as either role sees it: what is to be sent, when something was last sent and heard.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::{Config, Message};

/// The link to the peer, up or down.
#[derive(Debug)]
pub(crate) struct Link {
    heartbeat: Duration,
    peer_timeout: Duration,
    times: Option<Times>,
    outgoing: VecDeque<Message>,
}

#[derive(Debug)]
struct Times {
    heard: Instant,
    sent: Instant,
}

impl Link {
    pub(crate) fn new(config: &Config) -> Link {
        Link { heartbeat: config.heartbeat, peer_timeout: config.peer_timeout, times: None, outgoing: VecDeque::new() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.times.is_some()
    }

    pub(crate) fn up(&mut self, now: Instant) {
        self.outgoing.clear();
        self.times = Some(Times { heard: now, sent: now });
    }

    /// It is gone: what was not sent never will be.
    pub(crate) fn lost(&mut self) {
        self.outgoing.clear();
        self.times = None;
    }

    /// It is to be closed after `farewell`.
    pub(crate) fn close(&mut self, farewell: Message) {
        self.outgoing.push_back(farewell);
        self.times = None;
    }

    pub(crate) fn send(&mut self, message: Message) {
        debug_assert!(self.is_up(), "{message:?} has nowhere to go");
        self.outgoing.push_back(message);
    }

    pub(crate) fn transmit(&mut self, now: Instant) -> Option<Message> {
        let message = self.outgoing.pop_front()?;
        if let Some(times) = &mut self.times {
            times.sent = now;
        }
        Some(message)
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        if let Some(times) = &mut self.times {
            times.heard = now;
        }
    }

    /// Whether the peer has been silent for too long. If not, queues a heartbeat when nothing else was sent for a while.
    #[must_use]
    pub(crate) fn is_silent(&mut self, now: Instant) -> bool {
        let Some(times) = &mut self.times else { return false };
        if now >= times.heard + self.peer_timeout {
            return true;
        }
        if now >= times.sent + self.heartbeat {
            times.sent = now;
            // What already waits to be sent shows as well that we live.
            if self.outgoing.is_empty() {
                self.outgoing.push_back(Message::Heartbeat);
            }
        }
        false
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let times = self.times.as_ref()?;
        Some((times.sent + self.heartbeat).min(times.heard + self.peer_timeout))
    }
}
