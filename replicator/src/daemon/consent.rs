//! Going on without a standby, and with one again: what the primary asks its authority.
//!
//! With a handler for authority the primary asks by itself: for consent as long as its output is held and no standby
//! acknowledges it, and to have the standby named as soon as one does. The operator says so by command.

use std::time::{Duration, Instant};

use kemari_core::{Consent, Epoch};
use kemari_protocol::primary::Phase;

use super::DaemonError;
use super::host::Host;
use super::news::{News, Ticket};
use super::primary::Primary;
use crate::authority::{AuthorityError, Parting, Question};

/// Why an operator's consent is not taken.
const COVERED: &str = "a standby is in sync by now, and gates the output";
/// Before the same is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Whom the record names, as far as the primary knows, and what it has asked.
pub(super) struct Naming {
    /// The standby of this generation, as long as it may be named beside this node.
    standby: Option<String>,
    /// Whether it is named for certain, and was since it came in sync last.
    named: bool,
    /// The epoch in which it came in sync last.
    in_sync_since: Epoch,
    /// How it was lost.
    parting: Parting,
    /// A question is with the authority, asked in this epoch.
    asking: Option<Epoch>,
    retry_at: Option<Instant>,
    /// Operators who wait for consent, and whether one of them is not yet asked for.
    waiters: Vec<Ticket>,
    insist: bool,
}

impl Naming {
    /// A generation was granted: its primary is named alone.
    pub(super) fn alone() -> Naming {
        Naming {
            standby: None,
            named: false,
            in_sync_since: Epoch::FIRST,
            parting: Parting::Lost,
            asking: None,
            retry_at: None,
            waiters: Vec::new(),
            insist: false,
        }
    }

    /// A standby came in sync. Even if it is named already it is named anew: that withdraws what was wished and said about it
    /// before, and whatever is still on its way to the record loses against it.
    pub(super) fn in_sync(&mut self, epoch: Epoch) {
        self.named = false;
        self.in_sync_since = epoch;
        self.retry_at = None;
    }

    pub(super) fn parted(&mut self, parting: Parting) {
        self.parting = parting;
        self.retry_at = None;
    }

    /// Whether the standby is named for certain, so that it can be promoted.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    /// When to ask again.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.asking.is_none())
    }
}

impl Primary {
    /// The operator's word that the guest may go on alone.
    pub(super) fn run_unprotected(&mut self, host: &mut Host, ticket: Ticket) {
        if self.is_covered() {
            let reason = "the standby is in sync and gates the output; stop it first if the guest is to run alone";
            host.news.refuse(ticket, reason);
        } else if self.handover.is_some() {
            host.news.refuse(ticket, "a handover is on its way");
        } else {
            self.naming.waiters.push(ticket);
            self.naming.insist = true;
            self.naming.retry_at = None;
        }
    }

    /// Asks the authority what there is to ask.
    ///
    /// # Errors
    /// It cannot be asked any more.
    pub(super) fn ask_authority(&mut self, now: Instant, host: &mut Host) -> Result<(), DaemonError> {
        if self.naming.asking.is_some() || self.naming.retry_at.is_some_and(|at| at > now) {
            return Ok(());
        }
        if self.naming.insist && self.is_covered() {
            self.naming.insist = false;
            for ticket in self.naming.waiters.drain(..) {
                host.news.refuse(ticket, COVERED);
            }
        }
        let Some(question) = self.question(host) else {
            self.naming.retry_at = None;
            return Ok(());
        };
        match &question {
            // From here on it may be named, whatever is answered.
            Question::Protect { peer, .. } => self.naming.standby = Some(peer.clone()),
            // From here on it may not be, and it may have been asked to mark itself outdated: both are put right by naming it.
            Question::Alone { .. } => self.naming.named = false,
            _ => {}
        }
        host.authority.ask(question)?;
        self.naming.asking = Some(self.gate.epoch());
        self.naming.insist = false;
        Ok(())
    }

    fn question(&self, host: &Host) -> Option<Question> {
        let generation = self.generation;
        let stalled = !self.is_covered() && self.handover.is_none() && self.gate.consent().is_none();
        if self.naming.insist || (stalled && host.authority.has_handler()) {
            let Naming { standby, parting, insist, .. } = &self.naming;
            let (peer, epoch) = (standby.clone(), self.gate.epoch());
            return Some(Question::Alone { generation, epoch, peer, parting: *parting, insist: *insist });
        }
        let peer = self.protocol.status().peer?;
        let name_it = self.is_protected() && !(self.naming.named && self.naming.standby.as_ref() == Some(&peer));
        name_it.then_some(Question::Protect { generation, peer })
    }

    /// Whether a standby is in sync: its acknowledgements release the output now, or will before anything else does.
    fn is_covered(&self) -> bool {
        matches!(self.protocol.phase(), Phase::Covering | Phase::Protected | Phase::Yielded | Phase::Superseded)
    }

    /// The record names this node alone.
    pub(super) fn consented(&mut self, host: &mut Host, consent: Consent) -> Result<(), DaemonError> {
        let asked_in = self.naming.asking.take();
        self.naming.standby = None;
        self.naming.named = false;
        if asked_in != Some(self.gate.epoch()) && !self.is_covered() {
            // A standby has come and gone since. What it promised before it came back holds no more: it is asked anew.
            self.naming.retry_at = None;
            self.naming.insist = !self.naming.waiters.is_empty();
            return Ok(());
        }
        let waiters = std::mem::take(&mut self.naming.waiters);
        if self.is_covered() || self.handover.is_some() {
            // A standby is in sync by now. It will be named anew.
            for ticket in waiters {
                host.news.refuse(ticket, COVERED);
            }
            return Ok(());
        }
        self.gate.open(consent)?;
        self.protocol.gate_opened(Instant::now());
        if self.awaiting.take().is_some() {
            self.go_on(host);
        }
        self.held_since = None;
        self.held_in_flight.clear();
        host.news.emit("unprotected", "the guest runs unprotected, by consent");
        for ticket in waiters {
            host.news.grant(ticket, "the guest runs unprotected until a standby is in sync");
        }
        host.authority_says = None;
        Ok(())
    }

    /// Operators who wait for consent will not get it here.
    pub(super) fn dismiss_consent(&mut self, news: &mut News) {
        for ticket in self.naming.waiters.drain(..) {
            news.refuse(ticket, "no consent: this node is not the primary any more");
        }
    }

    /// The record names the standby, too.
    pub(super) fn named(&mut self, host: &mut Host) {
        let asked_in = self.naming.asking.take();
        // If the standby has come and gone and come again since, this is about the time before.
        self.naming.named = asked_in.is_some_and(|epoch| epoch >= self.naming.in_sync_since);
        host.authority_says = None;
        host.news.emit("named", "the record names the standby, too: it may be promoted");
    }

    /// The authority says no, or does not know.
    pub(super) fn denied(&mut self, now: Instant, host: &mut Host, question: &Question, error: &AuthorityError) {
        self.naming.asking = None;
        self.naming.retry_at = Some(now + RETRY);
        let what = match question {
            Question::Protect { .. } => "the standby is not named in the record",
            _ => "no consent to run unprotected",
        };
        host.authority_answered(format!("{what}: {error}"));
        if self.naming.insist {
            // That was not the operator's question, which is asked next.
            self.naming.retry_at = None;
            return;
        }
        for ticket in self.naming.waiters.drain(..) {
            host.news.refuse(ticket, format!("{what}: {error}"));
        }
    }
}
