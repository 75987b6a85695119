//! When to dial again.

use std::time::{Duration, Instant};

const LOST: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
const REFUSED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backoff {
    first: Duration,
    longest: Duration,
}

/// The moment of the next attempt. Each failure in a row of the same kind doubles the pause; protection starts over.
#[derive(Debug)]
pub(crate) struct Redial {
    at: Option<Instant>,
    backoff: Backoff,
    failures: u32,
}

impl Redial {
    /// Dials at once.
    pub(crate) fn new(now: Instant) -> Redial {
        Redial { at: Some(now), backoff: LOST, failures: 0 }
    }

    pub(crate) fn after_loss(&mut self, now: Instant) {
        self.schedule(now, LOST);
    }

    /// What was refused once will be refused again until someone acts: there is no hurry.
    pub(crate) fn after_refusal(&mut self, now: Instant) {
        self.schedule(now, REFUSED);
    }

    fn schedule(&mut self, now: Instant, backoff: Backoff) {
        if std::mem::replace(&mut self.backoff, backoff) != backoff {
            self.failures = 0;
        }
        let pause = backoff.first * 2_u32.pow(self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.at = Some(now + pause.min(backoff.longest));
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn never(&mut self) {
        self.at = None;
    }

    /// Whether it is time; says so once.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| now >= *at).is_some()
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }
}
