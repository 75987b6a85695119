//! The thread that tells the cluster how this node stands.
//!
//! It always tells how things are now: what has changed again before it could be told is never told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kemari_control::{Client, ImageName, Replication, Role, Status};

use super::{Options, death, score};
use crate::attributes::{self, Wish};
use crate::authority::{Facts, Policy, held_elsewhere, parse_generation, reassert};
use crate::cluster::{Attributes, ClusterError, Membership, RecordDoor, Standing, Stored};
use crate::guest::Guest;

/// Between two looks while there is something to wait for that comes from elsewhere: the record, or the other node's wish.
const UNSETTLED: Duration = Duration::from_millis(150);
/// The same for what a standby without primary waits for besides a wish: the record, and how the other node stands. To ask for
/// these takes four processes, and nobody waits for the answer so urgently.
const FORLORN: Duration = Duration::from_secs(1);
/// How long a guest that was handed over may take to be promoted before it is looked around again. Meanwhile Pacemaker is at it:
/// what the two nodes have told holds, and to ask anything costs time that the guest stands still for.
const MOVE: Duration = Duration::from_secs(1);
/// Otherwise: how old the epoch that operators see may be.
const SETTLED: Duration = Duration::from_secs(10);
/// What only operators look at is told once nothing has happened for so long. Each change of an attribute makes Pacemaker think
/// again about what it is doing, and while it moves a guest it is not to be disturbed.
const CALM: Duration = Duration::from_secs(2);
/// The same while the other node is being fenced: Pacemaker (2.1.5) answers a change meanwhile by thinking again a whole second
/// after the fencing, and the guest stands still for so much longer.
const CALM_WHILE_FENCING: Duration = Duration::from_secs(20);

/// What has happened since the teller looked.
#[derive(Default)]
pub(super) struct News {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    Something,
    Died,
}

impl News {
    /// Something has happened.
    pub(super) fn happened(&self) {
        self.set(State::Something);
    }

    /// The replicator has ended.
    pub(super) fn died(&self) {
        self.set(State::Died);
    }

    fn set(&self, to: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != State::Died {
            *state = to;
        }
        self.changed.notify_one();
    }

    /// Waits for news, or for the time to be over.
    fn wait(&self, limit: Duration) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, limit, |state| *state == State::Nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match *state {
            State::Something => std::mem::take(&mut *state),
            other => other,
        }
    }
}

pub(super) struct Teller {
    guest: Guest,
    resource: String,
    binary: PathBuf,
    stopping: PathBuf,
    policy_file: PathBuf,
    news: Arc<News>,
    door: RecordDoor,
    own: Attributes,
    /// What the cluster was told last.
    told: BTreeMap<String, String>,
    /// When it was last looked whether the cluster still knows it.
    checked: Instant,
    last: Option<Status>,
    /// When it was looked around last, if nothing has happened since.
    looked_at: Option<Instant>,
    /// Since when this node holds the guest's final image, and does not run it.
    handed_over_at: Option<Instant>,
    /// When something happened last.
    disturbed_at: Instant,
    /// When operators were shown something last.
    shown_at: Option<Instant>,
    /// The other node's wish that was carried out last.
    outdated: Option<String>,
}

impl Teller {
    pub(super) fn new(options: &Options, guest: &Guest, news: Arc<News>) -> Teller {
        Teller {
            guest: guest.clone(),
            resource: options.resource.clone(),
            binary: options.binary.clone(),
            stopping: options.stopping.clone(),
            policy_file: options.policy_file.clone(),
            news,
            door: RecordDoor::new(&guest.name),
            own: Attributes::of(&guest.node),
            told: BTreeMap::new(),
            checked: Instant::now(),
            last: None,
            looked_at: None,
            handed_over_at: None,
            disturbed_at: Instant::now(),
            shown_at: None,
            outdated: None,
        }
    }

    /// Tells until the replicator has ended, and then that.
    pub(super) fn serve(mut self) {
        loop {
            let wait = self.look().unwrap_or_else(|error| {
                eprintln!("kemari-agent: {error}");
                UNSETTLED
            });
            match self.news.wait(wait) {
                State::Nothing => {}
                State::Something => {
                    self.disturbed_at = Instant::now();
                    self.looked_at = None;
                }
                State::Died => return self.end(),
            }
        }
    }

    /// Looks at the replicator and tells the cluster what is new. Returns when to look again if nothing happens.
    fn look(&mut self) -> Result<Duration, ClusterError> {
        let Some(status) = self.ask() else { return Ok(SETTLED) };
        if self.is_on_the_move(&status) {
            return Ok(UNSETTLED);
        }
        if is_forlorn(&status) {
            self.serve_wish(&status)?;
            if self.looked_at.is_some_and(|at| at.elapsed() < FORLORN) {
                return Ok(UNSETTLED);
            }
        } else {
            // The next wish is a new one, even if it is about the same generation.
            self.outdated = None;
        }
        self.looked_at = Some(Instant::now());
        self.look_around()
    }

    /// The replicator's status; none if it has just ended, or hangs. Both are seen by others.
    fn ask(&mut self) -> Option<Status> {
        let status = Client::connect(&self.guest.control).and_then(|mut client| client.status()).ok()?;
        // Even if the cluster cannot be talked to from here on: it is told at the end what this was.
        self.last = Some(status.clone());
        Some(status)
    }

    /// Whether Pacemaker moves the guest at this moment. It has decided, and nothing that is said now could help it.
    fn is_on_the_move(&mut self, status: &Status) -> bool {
        if status.replication == Replication::Frozen {
            return true;
        }
        if !is_handed_over(status) {
            self.handed_over_at = None;
            return false;
        }
        self.handed_over_at.get_or_insert_with(Instant::now).elapsed() < MOVE
    }

    fn look_around(&mut self) -> Result<Duration, ClusterError> {
        // Before the status: a promotion changes the record first, and a status older than its record would look like that of a
        // standby whose image is outdated.
        let stored = self.door.read()?;
        let Some(status) = self.ask() else { return Ok(SETTLED) };
        if self.is_on_the_move(&status) {
            return Ok(UNSETTLED);
        }
        let alone = is_forlorn(&status);
        let record = stored.as_ref().map(|stored| &stored.record);
        let (other, other_holds) = match record.and_then(|record| record.other_than(&status.node)) {
            // They matter only to a node that may have to run the guest.
            Some(other) if alone => {
                (Membership::read()?.standing_of(other)?, held_elsewhere(&status.guest, &status.node, stored.as_ref())?)
            }
            _ => (Standing::Lost, None),
        };
        self.notice_oblivion()?;
        let facts = Facts { node: &status.node, record, other, other_holds, policy: self.policy() };
        self.reassert(&status, &facts, stored.as_ref())?;
        let own_score = score::score(&status, &facts);
        // Before the score: who sees that one must see this.
        let holds = status.image.as_ref().filter(|_| status.role == Role::Standby && status.not_promotable.is_none());
        self.tell(&attributes::holds(&status.guest), holds.map_or("", |image| &image.generation))?;
        self.tell(&self.score_name(), &score::text(own_score))?;
        let calm_after = if facts.other == Standing::Unclean { CALM_WHILE_FENCING } else { CALM };
        let calm = self.disturbed_at.elapsed() >= calm_after;
        if calm && self.shown_at.is_none_or(|at| at < self.disturbed_at || at.elapsed() >= SETTLED) {
            self.shown_at = Some(Instant::now());
            for (name, value) in describe(&status, score::obstacle(&status, &facts)) {
                self.tell(&attributes::shown(&status.guest, name), &value)?;
            }
        }
        let waits = status.role == Role::Standby && own_score.is_none_or(|own| alone || own < score::STANDBY);
        Ok(match (waits, calm) {
            (true, _) => UNSETTLED,
            (false, false) => CALM,
            (false, true) => SETTLED,
        })
    }

    /// Puts a record in order that is older than the guest which runs here. One whose output waits for a standby has that named,
    /// which puts it in order, too.
    fn reassert(&self, status: &Status, facts: &Facts<'_>, stored: Option<&Stored>) -> Result<(), ClusterError> {
        let unprotected = status.role == Role::Primary && status.gate.as_ref().is_some_and(|gate| gate.open.is_some());
        let generation = status.generation.as_deref().and_then(|generation| parse_generation(generation).ok());
        let (true, Some(generation), Some(stored)) = (unprotected, generation, stored) else { return Ok(()) };
        if let Some(record) = reassert(facts, generation) {
            eprintln!("kemari-agent: the record is `{}`, older than the guest that runs here: replaced", stored.record);
            // If it is another one by now, that is seen at the next look. The status is newer than what was read, so a promotion
            // meanwhile is no more than a swap that fails.
            self.door.swap(stored, &record)?;
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy::from_file(&self.policy_file).unwrap_or_else(|error| {
            eprintln!("kemari-agent: {}: {error}; taken for the default", self.policy_file.display());
            Policy::default()
        })
    }

    /// What the cluster was told it forgets if Pacemaker is restarted while this resource is left alone.
    fn notice_oblivion(&mut self) -> Result<(), ClusterError> {
        if self.checked.elapsed() < SETTLED {
            return Ok(());
        }
        self.checked = Instant::now();
        let name = self.score_name();
        if self.own.get(&name)?.as_ref() != self.told.get(&name) {
            self.told.clear();
        }
        Ok(())
    }

    fn score_name(&self) -> String {
        attributes::score(&self.resource)
    }

    fn tell(&mut self, name: &str, value: &str) -> Result<(), ClusterError> {
        if self.told.get(name).is_some_and(|told| told == value) {
            return Ok(());
        }
        self.own.set(name, value)?;
        self.told.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// The primary wishes to go on without this standby.
    fn serve_wish(&mut self, status: &Status) -> Result<(), ClusterError> {
        let Some(wish) = self.own.get(&attributes::outdate(&status.guest))? else { return Ok(()) };
        if self.outdated.as_ref() == Some(&wish) {
            return Ok(());
        }
        let asked: Wish =
            wish.parse().map_err(|reason| ClusterError::Unreadable { command: "attrd_updater", reason })?;
        let is_earlier = |image: &ImageName| !asked.is_about(&image.generation, image.epoch);
        if status.image.as_ref().is_some_and(is_earlier) {
            // It was in sync since; its primary will withdraw the wish, or has died before it could.
            return Ok(());
        }
        if death::fulfil(&self.binary, &self.guest.config, status, asked)? {
            self.outdated = Some(wish);
        }
        Ok(())
    }

    fn end(mut self) {
        let Some(last) = self.last.take() else { return };
        death::silence(&self.binary, &self.guest.config, &last);
        if !self.stopping.exists() {
            death::report(&self.resource, &last);
            std::thread::sleep(CALM);
        }
        for name in self.told.keys() {
            if let Err(error) = self.own.delete(name) {
                eprintln!("kemari-agent: {error}");
            }
        }
    }
}

/// A standby that no primary is connected to.
pub(super) fn is_forlorn(status: &Status) -> bool {
    status.role == Role::Standby && status.replication == Replication::Alone
}

/// Whether this node holds the final image of a guest that runs nowhere just now.
pub(super) fn is_handed_over(status: &Status) -> bool {
    let holds_final = status.image.as_ref().is_some_and(|image| image.is_final);
    status.role == Role::Standby && holds_final && status.not_promotable.is_none()
}

/// What operators see in `crm_mon -A`.
pub(super) fn describe(status: &Status, obstacle: Option<String>) -> Vec<(&'static str, String)> {
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let mut state = word(serde_json::to_value(status.replication));
    // What keeps the guest waiting: the first thing that an operator wants to know. What once did is not.
    let waits = !matches!(status.replication, Replication::Protected | Replication::InSync);
    if let Some(answer) = status.authority.clone().or(obstacle).filter(|_| waits) {
        state = format!("{state}; {answer}");
    }
    let mut shown = vec![
        ("role", word(serde_json::to_value(status.role))),
        ("state", state),
        ("generation", status.generation.clone().unwrap_or_else(|| "none".to_owned())),
    ];
    if let Some(image) = &status.image {
        shown.push(("epoch", image.epoch.to_string()));
    }
    if let Some(age_ms) = status.commit_age_ms {
        shown.push(("commit-age", format!("{:.1}s", age_ms as f64 / 1000.0)));
    }
    // Also that there are none: what was shown of an earlier role must go.
    let crashes = status.crashes.as_ref();
    shown.push((
        "crashes",
        crashes.map_or("none".to_owned(), |crashes| format!("{} ({})", crashes.count, crashes.last)),
    ));
    shown
}
