//! How a node ends when it is asked to: the guest goes to the standby if there is one in sync, and is shut down otherwise. And
//! how it only shuts the guest down.

use std::time::{Duration, Instant};

use super::DaemonError;
use super::host::Host;
use super::news::{News, Ticket};
use super::node::Role;
use super::primary::Primary;

/// How long a promotion that is on its way is waited for.
const PROMOTION_LIMIT: Duration = Duration::from_secs(30);
/// What a primary says as it leaves because there is no guest any more.
pub(super) const GUEST_IS_DOWN: &str = "the guest has shut down";
/// How long the commit of what the guest said last is waited for.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// The way to the end of this process, or of the guest.
pub(super) struct Stop {
    /// Whether only the guest is to end: the node stays, as a standby that holds nothing.
    stays: bool,
    tickets: Vec<Ticket>,
    stage: Stage,
    deadline: Instant,
    insisted: bool,
}

/// What follows from a step.
pub(super) enum Next {
    /// There are more steps to take, or something to wait for.
    GoOn,
    /// The process ends.
    End,
    /// The guest is down and this node a standby.
    Stay,
    /// The guest did not shut down, and runs.
    GiveUp,
}

enum Stage {
    /// Just asked.
    Asked,
    /// A handover is on its way.
    HandingOver,
    /// The guest was asked to shut down.
    ShuttingDown,
    /// The guest has shut down.
    Down,
}

impl Stop {
    /// A stop that `ticket` waits for, if anybody does.
    pub(super) fn new(ticket: Option<Ticket>) -> Stop {
        Stop {
            stays: false,
            tickets: ticket.into_iter().collect(),
            stage: Stage::Asked,
            deadline: Instant::now() + PROMOTION_LIMIT,
            insisted: false,
        }
    }

    /// The end of the guest alone, that `ticket` waits for.
    pub(super) fn of_guest(ticket: Ticket) -> Stop {
        Stop { stays: true, ..Stop::new(Some(ticket)) }
    }

    /// Asked again. From a terminal or an init system (no ticket) that means: now.
    pub(super) fn insist(&mut self, ticket: Option<Ticket>) {
        // What was to end with the guest is now to end altogether; that is the first time it is asked.
        let first = std::mem::take(&mut self.stays);
        self.insisted |= ticket.is_none() && !first;
        self.tickets.extend(ticket);
    }

    /// Whether it is to be at once.
    pub(super) fn is_insisted(&self) -> bool {
        self.insisted
    }

    /// Whether the guest was asked to shut down and has still to do it.
    pub(super) fn awaits_guest(&self) -> bool {
        matches!(self.stage, Stage::ShuttingDown)
    }

    /// The guest is down: there is nothing left to run, but what it said last may still have to leave.
    pub(super) fn guest_is_down(&mut self) {
        self.stage = Stage::Down;
        self.deadline = Instant::now() + LAST_WORDS_LIMIT;
    }

    /// Whether the guest is down.
    pub(super) fn is_guest_down(&self) -> bool {
        matches!(self.stage, Stage::Down)
    }

    /// When a step must be taken at the latest, if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!matches!(self.stage, Stage::HandingOver)).then_some(self.deadline)
    }

    /// Takes the next step.
    ///
    /// # Errors
    /// The guest does not shut down, and this process is to end.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        host: &mut Host,
        role: Option<&mut Role>,
    ) -> Result<Next, DaemonError> {
        let primary = match role {
            Some(Role::Primary(primary)) => primary,
            // The authority may just be granting it a generation, which would then be without a primary.
            Some(Role::Standby(standby)) if standby.is_being_promoted() && !self.insisted && now < self.deadline => {
                return Ok(Next::GoOn);
            }
            Some(Role::Standby(_)) if self.stays => {
                self.refuse_all(&mut host.news, "the guest does not run here any more");
                return Ok(Next::GiveUp);
            }
            Some(Role::Standby(standby)) => {
                standby.leave(now, "stopped");
                self.answer(host, "stopped");
                return Ok(Next::End);
            }
            None => return Ok(Next::End),
        };
        if self.is_guest_down() && !self.insisted && primary.has_last_words() && now < self.deadline {
            primary.checkpoint_wanted = true;
            return Ok(Next::GoOn);
        }
        if self.insisted || self.is_guest_down() {
            primary.leave(now, if self.insisted { "ended by force" } else { GUEST_IS_DOWN });
            self.answer(host, "the guest is down");
            return Ok(if self.stays { Next::Stay } else { Next::End });
        }
        match self.stage {
            // The standby is ready, and what is in the way passes: a guest whose memory can be saved is not shut down.
            Stage::Asked if !self.stays && now < self.deadline && primary.has_to_wait_for_handover(host) => {}
            Stage::Asked if primary.is_protected() && !self.stays => {
                primary.begin_handover(now, host, None, true);
                self.stage = Stage::HandingOver;
            }
            Stage::HandingOver if primary.is_handing_over() => {}
            Stage::Asked | Stage::HandingOver if primary.stands_still() => self.guest_is_down(),
            Stage::Asked | Stage::HandingOver => {
                log::info!("the guest is asked to shut down");
                host.machine.ask_to_shut_down();
                self.stage = Stage::ShuttingDown;
                self.deadline = now + host.config.guest.shutdown_timeout;
            }
            Stage::ShuttingDown if now >= self.deadline => return self.unresponsive(host, primary, now),
            Stage::ShuttingDown | Stage::Down => {}
        }
        Ok(Next::GoOn)
    }

    fn unresponsive(&mut self, host: &mut Host, primary: &mut Primary, now: Instant) -> Result<Next, DaemonError> {
        let limit = host.config.guest.shutdown_timeout;
        if !self.stays {
            primary.leave(now, "the guest did not shut down");
            return Err(DaemonError::Unresponsive(limit.as_secs()));
        }
        let reason = format!("the guest did not shut down within {} s, and runs on", limit.as_secs());
        self.refuse_all(&mut host.news, &reason);
        Ok(Next::GiveUp)
    }

    /// It does not come to its end.
    pub(super) fn refuse(mut self, news: &mut News, reason: &str) {
        self.refuse_all(news, reason);
    }

    fn refuse_all(&mut self, news: &mut News, reason: &str) {
        for ticket in self.tickets.drain(..) {
            news.refuse(ticket, reason);
        }
    }

    fn answer(&mut self, host: &mut Host, detail: &str) {
        for ticket in self.tickets.drain(..) {
            host.news.grant(ticket, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_shutdown_only_of_a_guest_that_was_asked_to() {
        for (stage, awaits) in [
            (Stage::Asked, false),
            // It may go on: its own reset is nothing else than ever.
            (Stage::HandingOver, false),
            (Stage::ShuttingDown, true),
            (Stage::Down, false),
        ] {
            assert_eq!(Stop { stage, ..Stop::new(None) }.awaits_guest(), awaits);
        }
    }
}
