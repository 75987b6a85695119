//! One node of one guest: its role, and how roles change.
//!
//! ```text
//!            promote (frozen, granted), or a cold boot
//!   standby ──────────────────────────────────────────▶ primary
//!      ▲                                                   │
//!      └───────────────────────────────────────────────────┘
//!            demoted after a final checkpoint, or superseded
//! ```

use std::time::{Duration, Instant};

use kemari_control::{Request, Standing};
use kemari_core::{Generation, Image};
use kemari_protocol::standby::Held;
use kemari_vmm::SourceId;

use super::crash::Ledger;
use super::host::Host;
use super::news::Ticket;
use super::primary::Primary;
use super::standby::{Promotion, Standby};
use super::stop::{Next, Stop};
use super::{DaemonError, Outcome, report};
use crate::authority::{Answer, AuthorityError, Grant, Question};
use crate::link::Link;

/// How long a farewell may take to leave before its link is dropped.
const PARTING_LIMIT: Duration = Duration::from_secs(1);

/// How long the last words may take when the process ends.
const FAREWELL_LIMIT: Duration = Duration::from_millis(300);

/// What this node is.
pub(super) enum Role {
    /// It follows, or waits to be told.
    Standby(Box<Standby>),
    /// The guest runs here.
    Primary(Box<Primary>),
}

/// A node: what it works with, and what it is.
pub(super) struct Node {
    pub(super) host: Host,
    /// `None` only while one role becomes another.
    pub(super) role: Option<Role>,
    pub(super) stop: Option<Stop>,
    /// Who waits for the guest to be booted, while the authority is asked.
    booting: Option<Ticket>,
    /// Links that have only a farewell left to carry, and when to give up on it.
    parting: Vec<(Instant, Link)>,
}

impl Node {
    /// A node that is standby-or-nothing until it is told otherwise.
    pub(super) fn new(host: Host) -> Result<Node, DaemonError> {
        let standby = Standby::new(&host, None)?;
        Ok(Node { host, role: Some(Role::Standby(Box::new(standby))), stop: None, booting: None, parting: Vec::new() })
    }

    /// When [`pump`](Node::pump) must be called even if nothing happens.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let role = match &self.role {
            Some(Role::Standby(standby)) => standby.next_timeout(),
            Some(Role::Primary(primary)) => primary.next_timeout(),
            None => None,
        };
        let parting = self.parting.iter().map(|(limit, _)| *limit);
        // Until the authority has answered about a boot, a stop waits.
        let stop = self.stop.as_ref().filter(|_| self.booting.is_none()).and_then(Stop::deadline);
        role.into_iter().chain(stop).chain(parting).min()
    }

    /// Every link this node has.
    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let role = match &mut self.role {
            Some(Role::Standby(standby)) => [standby.link.as_mut(), None],
            Some(Role::Primary(primary)) => [primary.link.as_mut(), primary.rival.as_mut()],
            None => [None, None],
        };
        role.into_iter().flatten().chain(self.parting.iter_mut().map(|(_, link)| link))
    }

    /// The link with this token is ready.
    pub(super) fn link_ready(&mut self, token: mio::Token) {
        if let Some(link) = self.links().find(|link| link.token() == token) {
            link.ready();
        }
    }

    /// A peer that has the key has opened a link.
    pub(super) fn link_accepted(&mut self, link: Link) {
        match &mut self.role {
            Some(Role::Standby(standby)) => standby.adopt(&mut self.host, link),
            Some(Role::Primary(primary)) => primary.meet_rival(link),
            None => {}
        }
    }

    /// A device of the machine is ready.
    pub(super) fn service(&mut self, source: SourceId) {
        match &mut self.role {
            Some(Role::Primary(primary)) => primary.service(Instant::now(), &mut self.host, source),
            _ => {
                // A stopped device has no output; this drains what its source has to say (a byte typed at the console).
                let mut outputs = Vec::new();
                self.host.machine.service(source, &mut outputs, &mut self.host.machine_events);
                debug_assert!(outputs.is_empty(), "a stopped device must not have output");
            }
        }
    }

    /// Does everything there is to do. Returns whether the daemon goes on.
    ///
    /// # Errors
    /// What this node cannot go on after.
    pub(super) fn pump(&mut self) -> Result<bool, DaemonError> {
        loop {
            self.machine_events()?;
            self.answers()?;
            if !self.continue_stop()? {
                return Ok(false);
            }
            let outcome = match &mut self.role {
                Some(Role::Standby(standby)) => standby.pump(&mut self.host)?,
                Some(Role::Primary(primary)) => primary.pump(&mut self.host)?,
                None => Outcome::Stay,
            };
            match outcome {
                // What a guest that is down was waiting for has left.
                Outcome::Stay if self.is_at_end() => {}
                Outcome::Stay => break,
                Outcome::Promote => self.ask_to_promote()?,
                Outcome::Demoted { held, ticket, result } => self.demoted(held, ticket, result)?,
                Outcome::Superseded(generation) => self.superseded(generation)?,
            }
        }
        self.part();
        self.host.recorder.record(report::evidence(&self.host, self.role.as_ref()));
        Ok(true)
    }

    /// Carries out a request from the control socket; the answer goes through the news.
    pub(super) fn command(&mut self, ticket: Ticket, request: &Request) -> Result<(), DaemonError> {
        let now = Instant::now();
        let host = &mut self.host;
        match (request, &mut self.role) {
            (Request::Status, role) => {
                let status = report::status(now, host, role.as_ref());
                host.news.answer_status(ticket, status);
            }
            (Request::Stop, _) => self.begin_stop(Some(ticket)),
            (Request::Pace { max_epoch_ms }, role) => {
                host.pace = max_epoch_ms.map(Duration::from_millis);
                if let Some(Role::Primary(primary)) = role {
                    primary.pace.set_longest(host.max_epoch());
                }
                host.news.grant(ticket, format!("an epoch lasts {} ms at most", host.max_epoch().as_millis()));
            }
            (Request::Promote { cold_boot: true }, Some(Role::Standby(_))) => self.ask_to_boot(ticket, true)?,
            (Request::Promote { cold_boot: false }, Some(Role::Standby(standby))) => {
                if standby.holds_nothing() && may_boot(host) {
                    self.ask_to_boot(ticket, false)?;
                } else {
                    standby.request_promotion(now, host, ticket);
                }
            }
            (Request::Promote { .. }, Some(Role::Primary(primary))) if primary.is_handing_over() => {
                host.news.refuse(ticket, "not promoted: this node is handing the guest over");
            }
            (Request::Promote { .. }, Some(Role::Primary(primary))) => {
                host.news.grant(ticket, format!("already the primary of generation {}", primary.generation));
            }
            (Request::Demote, Some(Role::Primary(primary))) => primary.begin_handover(now, host, Some(ticket), false),
            (Request::Handover, Some(Role::Primary(primary))) => primary.begin_handover(now, host, Some(ticket), true),
            (Request::Checkpoint, Some(Role::Primary(primary))) => primary.request_checkpoint(host, ticket),
            (Request::RunUnprotected, Some(Role::Primary(primary))) => primary.run_unprotected(host, ticket),
            (Request::Demote, _) => host.news.grant(ticket, "not the primary"),
            (Request::Handover | Request::Checkpoint | Request::RunUnprotected, _) => {
                host.news.refuse(ticket, "the guest does not run here: ask the primary");
            }
            (Request::Outdate { generation, before_epoch }, Some(Role::Standby(standby))) => {
                standby.outdate(host, ticket, generation, *before_epoch)
            }
            (Request::Outdate { .. }, _) => host.news.refuse(ticket, "the guest runs here: a primary is not outdated"),
            (Request::Shutdown, Some(Role::Primary(_))) => self.begin_shutdown(ticket),
            (Request::Reset, Some(Role::Primary(primary))) => {
                primary.reset_guest(host)?;
                host.news.emit("reset", "the operator resets the guest");
                host.news.grant(ticket, "the guest boots anew");
            }
            (Request::Reset, _) => host.news.refuse(ticket, "the guest does not run here: ask the primary"),
            (Request::Shutdown, _) => host.news.refuse(ticket, "the guest does not run here: ask the primary"),
            // The server itself keeps the list of subscribers.
            (Request::Events, _) | (_, None) => {}
        }
        Ok(())
    }

    /// Boots the guest from its disk, in a generation of its own, once the authority has granted it.
    fn ask_to_boot(&mut self, ticket: Ticket, insist: bool) -> Result<(), DaemonError> {
        let Some(Role::Standby(standby)) = &self.role else { return Ok(()) };
        let news = &mut self.host.news;
        if self.booting.is_some() {
            news.refuse(ticket, "not booted: it is on its way already");
            return Ok(());
        }
        if !standby.is_alone() {
            news.refuse(ticket, "not booted: a primary is connected, whose guest runs");
            return Ok(());
        }
        if let Ok(image) = standby.promotable() {
            let reason =
                format!("not booted: this node can resume the guest from {image}; use `promote` without --cold-boot");
            news.refuse(ticket, reason);
            return Ok(());
        }
        self.host.authority.ask(Question::Boot { insist })?;
        self.booting = Some(ticket);
        Ok(())
    }

    /// The generation is granted: boots.
    fn boot(&mut self, ticket: Ticket, grant: Grant) -> Result<(), DaemonError> {
        let generation = grant.generation();
        self.part_from_primary();
        if let Err(error) = self.host.machine.boot() {
            let error = DaemonError::of_machine(error, &self.host.config);
            self.become_standby(None)?;
            let reason = format!(
                "not booted: {error}. Generation {generation} has no guest; once that is mended, boot it with \
                 `promote --cold-boot`"
            );
            self.host.news.emit("boot-failed", &reason);
            self.host.news.refuse(ticket, reason);
            return Ok(());
        }
        self.host.ledger = Ledger::default();
        self.become_primary(grant, None)?;
        self.host.news.emit("primary", &format!("the guest boots; generation {generation}"));
        self.host.news.grant(ticket, format!("the guest boots here; generation {generation}"));
        Ok(())
    }

    /// A primary that connected while the answer was on its way is of an older generation now.
    fn part_from_primary(&mut self) {
        if let Some(Role::Standby(standby)) = &mut self.role {
            let now = Instant::now();
            standby.leave(now, "this node boots the guest");
            self.parting.extend(standby.link.take().map(|link| (now + PARTING_LIMIT, link)));
        }
    }

    /// Asks for the next generation. The standby is frozen: nobody can commit to it any more. The image's state is loaded
    /// before: whoever is granted the generation can use it.
    fn ask_to_promote(&mut self) -> Result<(), DaemonError> {
        let Some(Role::Standby(standby)) = &mut self.role else { return Ok(()) };
        let host = &mut self.host;
        let image = match standby.prepare(host) {
            Ok(image) => image,
            Err(reason) => {
                standby.refuse(Instant::now(), host, &reason);
                return Ok(());
            }
        };
        let protocol = standby.protocol.status();
        let (peer, handed_over) = (protocol.peer, protocol.yielded);
        host.authority.ask(Question::Promote { from: image.generation, peer, handed_over })?;
        Ok(())
    }

    /// The generation is granted: resumes the guest from the image held, whose state is loaded.
    fn promote(&mut self, grant: Grant) -> Result<(), DaemonError> {
        let Some(Role::Standby(mut standby)) = self.role.take() else { return Ok(()) };
        let asked_at = standby.asked_at();
        let after_loss = !standby.protocol.status().yielded;
        self.host.ledger = self.host.ledger.newer(standby.crashes());
        let generation = grant.generation();
        let (promoted, promotion, link) = match standby.promote(generation) {
            Ok(promoted) => promoted,
            Err(unchanged) => {
                standby = unchanged;
                standby.refuse(Instant::now(), &mut self.host, "the freeze did not hold");
                self.role = Some(Role::Standby(standby));
                return Ok(());
            }
        };
        self.parting.extend(link.map(|link| (Instant::now() + PARTING_LIMIT, link)));
        self.become_primary(grant, Some(promoted.image))?;
        if let Some(Role::Primary(primary)) = &mut self.role {
            primary.resumed_at = after_loss.then(Instant::now);
        }
        let image = promoted.image;
        let detail = format!(
            "the guest goes on here from {image}; generation {generation}, promoted in {} µs",
            asked_at.elapsed().as_micros()
        );
        self.host.news.emit("primary", &detail);
        if let Some(Promotion::Operator(ticket)) = promotion {
            self.host.news.grant(ticket, detail);
        }
        Ok(())
    }

    /// Acts on what the authority has answered.
    fn answers(&mut self) -> Result<(), DaemonError> {
        while let Some(answer) = self.host.authority.answer() {
            let host = &mut self.host;
            match (answer, &mut self.role) {
                (Answer::Granted(grant), Some(Role::Standby(_))) => match self.booting.take() {
                    Some(ticket) => self.boot(ticket, grant)?,
                    None => self.promote(grant)?,
                },
                (Answer::Consented(consent), Some(Role::Primary(primary))) => primary.consented(host, consent)?,
                (Answer::Protected, Some(Role::Primary(primary))) => primary.named(host),
                (Answer::Refused { question, error }, role) => {
                    self::denied(host, role, &mut self.booting, &question, &error)
                }
                // The record was changed for a primary that is a standby by now, or the other way round.
                (Answer::Granted(_) | Answer::Consented(_) | Answer::Protected, _) => {
                    log::warn!("the authority's answer comes too late: this node has changed its role");
                }
            }
        }
        Ok(())
    }

    /// Runs the machine, which is booted or loaded, as primary.
    fn become_primary(&mut self, grant: Grant, base: Option<Image>) -> Result<(), DaemonError> {
        let mut primary = Primary::new(Instant::now(), &mut self.host, grant, base)?;
        self.host.machine.start_devices();
        self.host.machine.set_time()?;
        self.host.machine.run();
        if base.is_some() {
            primary.announce(Instant::now(), &mut self.host.machine);
        }
        self.role = Some(Role::Primary(Box::new(primary)));
        Ok(())
    }

    /// This node has handed the guest over, or tried to and must not run it any more.
    fn demoted(
        &mut self,
        held: Option<Held>,
        ticket: Option<Ticket>,
        result: Result<Option<Generation>, String>,
    ) -> Result<(), DaemonError> {
        if let Ok(Some(generation)) = result {
            // Before anybody can ask for a promotion here: the image is not the newest any more.
            self.host.authority.follow(generation)?;
        }
        self.become_standby(held)?;
        let news = &mut self.host.news;
        match result {
            Ok(generation) => {
                let detail = match generation {
                    Some(generation) => format!("handed over: the peer is the primary of generation {generation}"),
                    None => "demoted: both nodes hold the final checkpoint; promote one of them".to_owned(),
                };
                news.emit("demoted", &detail);
                if let Some(ticket) = ticket {
                    news.grant(ticket, detail);
                }
            }
            Err(reason) => {
                let detail = format!(
                    "the guest stands still: {reason}. This node holds its final checkpoint; find out whether the peer was \
                     promoted, and if not, promote either node"
                );
                log::error!("{detail}");
                if let Some(stop) = self.stop.take() {
                    // To end now would throw the guest's memory away.
                    stop.refuse(news, &detail);
                }
                news.emit("handover-failed", &detail);
                if let Some(ticket) = ticket {
                    news.refuse(ticket, detail);
                }
            }
        }
        Ok(())
    }

    /// A newer generation exists: what this one still holds was never shown, and never will be.
    fn superseded(&mut self, generation: Generation) -> Result<(), DaemonError> {
        self.host.authority.follow(generation)?;
        self.become_standby(None)?;
        let detail = format!(
            "generation {generation} has taken over; the guest that ran here is stopped, its held output dropped"
        );
        log::warn!("{detail}");
        self.host.news.emit("superseded", &detail);
        Ok(())
    }

    pub(super) fn become_standby(&mut self, held: Option<Held>) -> Result<(), DaemonError> {
        let mut discarded = Vec::new();
        self.host.machine.pause(&mut discarded)?;
        self.host.machine.stop_devices();
        let standby = Standby::new(&self.host, held)?;
        if let Some(Role::Primary(mut primary)) = self.role.replace(Role::Standby(Box::new(standby))) {
            primary.forget_lost(&mut self.host)?;
            primary.dismiss_waiters(&mut self.host.news);
            primary.dismiss_handover(&mut self.host.news);
            primary.dismiss_consent(&mut self.host.news);
            let links = primary.link.take().into_iter().chain(primary.rival.take());
            for mut link in links {
                link.close_when_sent();
                self.parting.push((Instant::now() + PARTING_LIMIT, link));
            }
        }
        Ok(())
    }

    fn part(&mut self) {
        let now = Instant::now();
        self.parting.retain_mut(|(limit, link)| {
            link.flush();
            link.closed().is_none() && *limit > now
        });
    }

    /// Somebody asked this process to end.
    pub(super) fn begin_stop(&mut self, ticket: Option<Ticket>) {
        if let Some(stop) = &mut self.stop {
            stop.insist(ticket);
        } else {
            self.stop = Some(Stop::new(ticket));
        }
    }

    /// Somebody asked for the guest to be shut down.
    fn begin_shutdown(&mut self, ticket: Ticket) {
        if self.stop.is_some() {
            self.host.news.refuse(ticket, "this node is being stopped already");
        } else {
            self.stop = Some(Stop::of_guest(ticket));
        }
    }

    /// Sends what is left to say, as far as peers take it at once or soon.
    pub(super) fn farewell(&mut self) {
        let limit = Instant::now() + FAREWELL_LIMIT;
        while Instant::now() < limit && self.links().any(|link| link.flush_farewell()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn continue_stop(&mut self) -> Result<bool, DaemonError> {
        let Some(mut stop) = self.stop.take() else { return Ok(true) };
        if self.booting.is_some() && !stop.is_insisted() {
            // The authority may just be granting a generation, which would then be without a primary.
            self.stop = Some(stop);
            return Ok(true);
        }
        match stop.advance(Instant::now(), &mut self.host, self.role.as_mut())? {
            Next::GoOn => self.stop = Some(stop),
            Next::End => return Ok(false),
            Next::Stay => self.become_standby(None)?,
            Next::GiveUp => {}
        }
        Ok(true)
    }
}

/// Whether a guest may be asked to be booted here without insisting: it never ran, or the handler knows better.
fn may_boot(host: &Host) -> bool {
    host.authority.has_handler() || host.authority.standing() == Some(Standing::Created)
}

/// The authority says no, or does not know.
fn denied(
    host: &mut Host,
    role: &mut Option<Role>,
    booting: &mut Option<Ticket>,
    question: &Question,
    error: &AuthorityError,
) {
    let now = Instant::now();
    match (question, role) {
        (Question::Boot { .. }, _) => {
            if let Some(ticket) = booting.take() {
                host.news.refuse(ticket, format!("not booted: {error}"));
            }
        }
        (Question::Promote { .. }, Some(Role::Standby(standby))) => standby.refuse(now, host, &error.to_string()),
        (Question::Alone { .. } | Question::Protect { .. }, Some(Role::Primary(primary))) => {
            primary.denied(now, host, question, error);
        }
        _ => {}
    }
}
