//! What the event loop does: reads what is ready, judges it, and hands on what has changed.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use super::needed::Needed;
use super::{DaemonError, IDLE, Sinks, clock};
use crate::classify::{Host, classify};
use crate::config::Config;
use crate::control::{MissingSource, Reply, Request, SourceView, Status};
use crate::fault::{Class, Fault, Finding};
use crate::health::{Health, Stored, Verdict};
use crate::moment::Moment;
use crate::record::Heard;
use crate::sinks::{Guests, News};
use crate::sources::{Accounted, Counters, Found, Names, Turn};

/// How long the lines of one error may take to come.
const LINES: Duration = Duration::from_millis(200);
/// How often time is looked at while something goes on.
const COUNTING: Duration = Duration::from_secs(1);
/// How often operators see another last fault, and the state file what changed no colour.
const DETAILS: Duration = Duration::from_secs(10);
/// How long the disks that are needed are waited for. Without them every one is.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Faults that are logged in a second.
const LINES_A_SECOND: u32 = 20;

pub(super) struct Watcher {
    node: String,
    boot_id: String,
    found: Found,
    names: Names,
    /// Which disks are needed; none if somebody has named them.
    needed: Option<Needed>,
    counters: Counters,
    reconcile: Duration,
    reconciled: Moment,
    health: Health,
    verdict: Verdict,
    records: u64,
    /// Sources that have more to read.
    unread: BTreeSet<usize>,
    /// When something was read last of a source that waits for more.
    waiting_since: Option<Moment>,
    /// When details were handed on last, and whether there are newer ones.
    detailed: Moment,
    dirty: bool,
    /// Since when so many lines were logged.
    said: (Moment, u32),
    /// Reused from one turn to the next.
    heard: Vec<Heard>,
    sinks: Sinks,
}

impl Watcher {
    pub(super) fn new(config: &Config, found: Found, stored: Option<Stored>, sinks: Sinks) -> Watcher {
        let now = clock::now();
        let boot_id = clock::boot_id();
        let mut health = Health::new(config.thresholds.clone(), config.daemon.parts_max);
        // Of another boot the counters are others.
        let (begun, accounted) = match stored.as_ref().filter(|stored| stored.boot_id == boot_id) {
            Some(stored) => (stored.saved, stored.counters.clone()),
            None => (now, Accounted::new()),
        };
        if let Some(stored) = stored {
            health.restore(stored, &boot_id, now, clock::unix_s());
        }
        Watcher {
            node: config.cluster.node.clone(),
            boot_id,
            names: Names::new(&config.sources.sysfs),
            needed: config.thresholds.disks.is_none().then(|| {
                let (sources, guests) = (&config.sources, Guests::new(&config.guests));
                Needed::look(sources.sysfs.clone(), guests, sources.reconcile)
            }),
            counters: Counters::new(&config.sources.sysfs, &found.events, begun, &accounted),
            unread: (0..found.watched.len()).collect(),
            found,
            reconcile: config.sources.reconcile,
            reconciled: now,
            health,
            verdict: Verdict::default(),
            records: 0,
            waiting_since: None,
            detailed: now,
            dirty: true,
            said: (now, 0),
            heard: Vec::new(),
            sinks,
        }
    }

    /// Says what is watched and what is missing, and tells what is known from before.
    pub(super) fn begin(&mut self) {
        let watched: Vec<&str> = self.found.watched.iter().map(|watched| watched.name.as_str()).collect();
        log::info!("watches {}", watched.join(", "));
        for (name, reason) in &self.found.missing {
            log::info!("{name} is missing: {reason}");
        }
        self.need_disks(FIRST_LOOK);
        self.turn();
        self.hand_on(clock::now());
    }

    /// How long the loop may sleep.
    pub(super) fn patience(&self) -> Duration {
        if !self.unread.is_empty() {
            return Duration::ZERO;
        }
        let now = clock::now();
        let until = |since: Moment, span: Duration| span.saturating_sub(now.since(since));
        let mut patience = IDLE.min(until(self.reconciled, self.reconcile));
        if let Some(since) = self.waiting_since {
            patience = patience.min(until(since, LINES));
        }
        if self.health.is_counting() {
            patience = patience.min(COUNTING);
        }
        if self.dirty {
            patience = patience.min(until(self.detailed, DETAILS));
        }
        // A timeout is rounded down, and would be asked for again and again.
        patience + Duration::from_millis(1)
    }

    /// A source has something to read.
    pub(super) fn ready(&mut self, index: usize) {
        self.unread.insert(index);
    }

    /// Reads, judges, and hands on.
    pub(super) fn turn(&mut self) {
        let now = clock::now();
        for index in std::mem::take(&mut self.unread) {
            self.read(now, index);
        }
        if self.waiting_since.is_some_and(|since| now.since(since) >= LINES) {
            self.waiting_since = None;
            self.found.watched.iter_mut().for_each(|watched| watched.source.flush(&mut self.heard));
        }
        if now.since(self.reconciled) >= self.reconcile {
            self.reconciled = now;
            self.look_around(now);
        }
        self.need_disks(Duration::ZERO);
        self.judge(now);
        self.health.tick(now);
        if self.health.take_changed() {
            self.change(now);
        } else if self.dirty && now.since(self.detailed) >= DETAILS {
            self.hand_on(now);
        }
    }

    /// What is not told is looked at now and then: counters, and sources that had nothing to be read.
    fn look_around(&mut self, now: Moment) {
        self.heard.extend(self.counters.reconcile(now));
        self.unread.extend(0..self.found.watched.len());
    }

    /// Takes note of the disks that are needed, if they are known anew within `limit`.
    fn need_disks(&mut self, limit: Duration) {
        if let Some(disks) = self.needed.as_ref().and_then(|needed| needed.found(limit)) {
            self.health.need_disks(disks);
        }
    }

    fn read(&mut self, now: Moment, index: usize) {
        let Some(watched) = self.found.watched.get_mut(index).filter(|watched| watched.trouble.is_none()) else {
            return;
        };
        let before = self.heard.len();
        match watched.source.read(now, &mut self.heard) {
            Ok(Turn { more, lost }) => {
                if lost > 0 {
                    if watched.lost == 0 {
                        log::warn!(
                            "{}: records were lost; `status` says how many, and counters are compared",
                            watched.name
                        );
                    }
                    watched.lost += lost;
                    // Soon, and not when it is their time; but a flood that loses much must not be about counters only.
                    let overdue = now.minus(self.reconcile.saturating_sub(COUNTING));
                    self.reconciled = self.reconciled.min(overdue);
                }
                if more {
                    self.unread.insert(index);
                }
            }
            Err(error) => {
                log::error!("{}: {error}; it is not read any more", watched.name);
                watched.trouble = Some(error.to_string());
            }
        }
        watched.records += (self.heard.len() - before) as u64;
        if watched.source.is_waiting() {
            self.waiting_since = Some(now);
        }
    }

    fn judge(&mut self, now: Moment) {
        // By the wall clock as it is now: somebody may have set it.
        let host = Host { booted_unix_s: clock::unix_s().checked_sub(now.since_boot().as_secs()) };
        let mut heard = std::mem::take(&mut self.heard);
        for mut heard in heard.drain(..) {
            self.names.name(&mut heard);
            self.counters.heard(&heard);
            let finding = classify(&heard, &host);
            if let Finding::Fault(fault) = &finding {
                self.say(fault);
            }
            self.health.take(finding);
            self.records += 1;
            self.dirty = true;
        }
        self.heard = heard;
    }

    /// Into the log goes what was not corrected, unless that, too, is a flood; corrected errors may be many, and change the colour
    /// if they are too many.
    fn say(&mut self, fault: &Fault) {
        if fault.at.since(self.said.0) >= COUNTING {
            self.said = (fault.at, 0);
        }
        if fault.is_harmless() || fault.class == Class::Corrected || self.said.1 >= LINES_A_SECOND {
            return log::debug!("{fault}");
        }
        self.said.1 += 1;
        log::warn!("{fault}");
    }

    /// The verdict may be another one.
    fn change(&mut self, now: Moment) {
        let verdict = self.health.verdict();
        if verdict == self.verdict {
            self.dirty = true;
            return;
        }
        if verdict.colour != self.verdict.colour {
            let level = if verdict.colour > self.verdict.colour { log::Level::Error } else { log::Level::Info };
            log::log!(level, "this host was {} and is {}; {}", self.verdict.colour, verdict.colour, verdict.why);
            self.sinks.colours.put(verdict.colour);
        }
        self.verdict = verdict;
        self.hand_on(now);
    }

    fn hand_on(&mut self, now: Moment) {
        let last = self.health.last().map(ToString::to_string).unwrap_or_default();
        self.sinks.news.put(News { verdict: self.verdict.clone(), last });
        self.sinks.states.put(self.stored(now));
        self.detailed = now;
        self.dirty = false;
    }

    fn stored(&self, now: Moment) -> Stored {
        let sequence = self.found.watched.iter().find_map(|watched| watched.source.sequence());
        let mut stored = self.health.stored(&self.boot_id, now, clock::unix_s(), sequence);
        stored.counters = self.counters.accounted();
        stored
    }

    /// Answers an operator.
    pub(super) fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Clear { part } => match (self.health.clear(part.as_deref()), part) {
                (0, Some(part)) => Reply::Refused {
                    reason: format!("{part}: no such part has had a fault; `status` names those that had"),
                },
                (count, _) => {
                    log::warn!("an operator has cleared {count} parts");
                    Reply::Done { detail: format!("{count} parts are as if they never had a fault") }
                }
            },
        }
    }

    fn status(&self) -> Status {
        let source = |watched: &crate::sources::Watched| SourceView {
            name: watched.name.clone(),
            records: watched.records,
            lost: watched.lost,
            trouble: watched.trouble.clone(),
        };
        let missing = self.found.missing.iter();
        Status {
            node: self.node.clone(),
            pid: std::process::id(),
            colour: self.verdict.colour,
            why: self.verdict.why.clone(),
            last: self.health.last().map(ToString::to_string),
            published: self.sinks.published.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            records: self.records,
            sources: self.found.watched.iter().map(source).collect(),
            missing: missing
                .map(|(name, reason)| MissingSource { name: name.clone(), reason: reason.clone() })
                .collect(),
            parts: self.health.parts(clock::now()),
        }
    }

    /// Ends: what is known is kept, guests are paced as before, and the cluster is not told anything any more.
    pub(super) fn end(self) -> Result<(), DaemonError> {
        self.sinks.states.put(self.stored(clock::now()));
        self.sinks.end()
    }
}
