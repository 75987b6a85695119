//! How a node ends when it is asked to: the guest goes to the standby if there is one in sync, and is shut down otherwise.

use std::time::{Duration, Instant};

use super::DaemonError;
use super::host::Host;
use super::news::Ticket;
use super::node::Role;

/// How long a guest without standby may take to shut down.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// The way to the end of this process.
pub(super) struct Stop {
    tickets: Vec<Ticket>,
    stage: Stage,
    deadline: Instant,
    insisted: bool,
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
            tickets: ticket.into_iter().collect(),
            stage: Stage::Asked,
            deadline: Instant::now() + SHUTDOWN_LIMIT,
            insisted: false,
        }
    }

    /// Asked again. From a terminal or an init system (no ticket) that means: now.
    pub(super) fn insist(&mut self, ticket: Option<Ticket>) {
        self.insisted |= ticket.is_none();
        self.tickets.extend(ticket);
    }

    /// The guest is down: there is nothing left to run.
    pub(super) fn guest_is_down(&mut self) {
        self.stage = Stage::Down;
    }

    /// When the guest's time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes the next step. Returns whether the daemon goes on.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        host: &mut Host,
        role: Option<&mut Role>,
    ) -> Result<bool, DaemonError> {
        let primary = match role {
            Some(Role::Primary(primary)) => primary,
            Some(Role::Standby(standby)) => {
                standby.leave(now, "stopped");
                self.answer(host, "stopped");
                return Ok(false);
            }
            None => return Ok(false),
        };
        if self.insisted || matches!(self.stage, Stage::Down) {
            primary.leave(now, if self.insisted { "ended by force" } else { "the guest has shut down" });
            self.answer(host, "the guest is down");
            return Ok(false);
        }
        match self.stage {
            Stage::Asked if primary.is_protected() => {
                primary.begin_handover(now, host, None, true);
                self.stage = Stage::HandingOver;
            }
            Stage::HandingOver if primary.is_handing_over() => {}
            Stage::Asked | Stage::HandingOver => {
                log::info!("there is no standby in sync: the guest is asked to shut down");
                host.machine.ctrl_alt_del();
                self.stage = Stage::ShuttingDown;
                self.deadline = now + SHUTDOWN_LIMIT;
            }
            Stage::ShuttingDown if now >= self.deadline => {
                primary.leave(now, "the guest did not shut down");
                return Err(DaemonError::Unresponsive(SHUTDOWN_LIMIT.as_secs()));
            }
            Stage::ShuttingDown | Stage::Down => {}
        }
        Ok(true)
    }

    fn answer(&mut self, host: &mut Host, detail: &str) {
        for ticket in self.tickets.drain(..) {
            host.news.grant(ticket, detail);
        }
    }
}
