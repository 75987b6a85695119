//! What the node has to say to whoever is at the control socket: answers that were waited for, and events.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use kemari_control::{Event, Reply, Status};

/// Events kept for subscribers until the server takes them, which it does whenever the event loop turns.
const EVENTS: usize = 1024;

/// Who waits for an answer: a connection of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(pub(super) usize);

/// Answers and events on their way to the control socket.
#[derive(Default)]
pub(super) struct News {
    events: VecDeque<Event>,
    answers: VecDeque<(Ticket, Reply)>,
}

impl News {
    /// Tells every subscriber that something happened, and logs it.
    pub(super) fn emit(&mut self, kind: &str, detail: &str) {
        log::info!("{kind}: {detail}");
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.events.push_back(Event { unix_ms, kind: kind.to_owned(), detail: detail.to_owned() });
    }

    /// Answers that what was asked for is done.
    pub(super) fn grant(&mut self, ticket: Ticket, detail: impl Into<String>) {
        self.answers.push_back((ticket, Reply::Done { detail: detail.into() }));
    }

    /// Answers that it is not, and why.
    pub(super) fn refuse(&mut self, ticket: Ticket, reason: impl Into<String>) {
        self.answers.push_back((ticket, Reply::Refused { reason: reason.into() }));
    }

    /// Answers with the status.
    pub(super) fn answer_status(&mut self, ticket: Ticket, status: Status) {
        self.answers.push_back((ticket, Reply::Status(Box::new(status))));
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn next_answer(&mut self) -> Option<(Ticket, Reply)> {
        self.answers.pop_front()
    }
}
