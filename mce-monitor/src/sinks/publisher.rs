//! The thread that tells Pacemaker.
//!
//! A colour is told at once. Red is told by what is known of the cluster, and the others' colours are looked at as soon as it is
//! told: the other node may have told the same. What operators read follows, and changes every ten seconds at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cluster::{HEALTH, View, publish};
use super::command::CommandError;
use super::guests::Guests;
use super::mailbox::{Mail, Mailbox};
use crate::config::ClusterConfig;
use crate::control::Published;
use crate::health::gate::{Cluster, Decision, Gate};
use crate::health::{Colour, Verdict};
use crate::moment::Moment;

/// Between two looks at the cluster.
const CALM: Duration = Duration::from_secs(10);
/// The same while guests are to leave this host: until red is told, and for a while after.
const ALERT: Duration = Duration::from_secs(1);
const ALERT_FOR: Duration = Duration::from_secs(60);
/// How long what operators read waits after a colour was told. Each change of an attribute makes Pacemaker think again about what
/// it is doing, and while it moves a guest it is not to be disturbed.
const DETAILS_AFTER: Duration = Duration::from_secs(2);

/// What operators read in `crm_mon -A`.
const WHY: &str = "kemari-mce-why";
const LAST: &str = "kemari-mce-last";

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) verdict: Verdict,
    /// The fault that was told last, as one line.
    pub(crate) last: String,
}

pub(crate) struct Publisher {
    config: ClusterConfig,
    guests: Guests,
    gate: Gate,
    news: News,
    /// What the cluster knows, and when it was asked.
    view: Option<(View, Instant)>,
    looked_at: Option<Instant>,
    told: BTreeMap<&'static str, String>,
    details_at: Option<Instant>,
    /// When it was decided to tell another colour.
    turned_at: Option<Instant>,
    decision: Decision,
    shared: Arc<Mutex<Published>>,
}

impl Publisher {
    pub(crate) fn new(config: &ClusterConfig, guests: Guests, shared: Arc<Mutex<Published>>) -> Publisher {
        Publisher {
            config: config.clone(),
            guests,
            gate: Gate::default(),
            news: News::default(),
            view: None,
            looked_at: None,
            told: BTreeMap::new(),
            details_at: None,
            turned_at: None,
            decision: Decision::default(),
            shared,
        }
    }

    /// Tells until no more news come, and then takes back what was told: nobody watches this host any more. Red stays: a host does
    /// not get well because nobody watches it.
    pub(crate) fn serve(mut self, mailbox: &Arc<Mailbox<News>>, now: impl Fn() -> Moment) {
        // Before the first news nothing is known: the host may have been red before a restart.
        let mut patience = Duration::MAX;
        loop {
            match mailbox.take(patience) {
                Mail::New(news) => self.news = news,
                Mail::Nothing => {}
                Mail::Closed => return self.take_back(),
            }
            let told = self.tell(now());
            let looked = self.patience().is_zero().then(|| self.look());
            match told.and(looked.transpose()) {
                Ok(None) => self.show(None),
                Ok(Some(())) => self.show(Some(None)),
                Err(error) => self.show(Some(Some(error.to_string()))),
            }
            patience = self.patience();
        }
    }

    /// How long the cluster need not be looked at.
    fn patience(&self) -> Duration {
        let look = self.looked_at.map_or(Duration::ZERO, |at| self.interval().saturating_sub(at.elapsed()));
        let details = self.turned_at.and_then(|at| DETAILS_AFTER.checked_sub(at.elapsed()));
        // Those that are overdue could not be told; they wait for the next look.
        details.filter(|_| self.owes_details()).map_or(look, |details| look.min(details))
    }

    /// Between two looks at the cluster.
    fn interval(&self) -> Duration {
        let recently = self.turned_at.is_some_and(|at| at.elapsed() < ALERT_FOR);
        let alert = self.news.verdict.colour == Colour::Red && (self.decision.colour < Colour::Red || recently);
        if alert { ALERT } else { CALM }
    }

    fn tell(&mut self, now: Moment) -> Result<(), CommandError> {
        let before = self.decision.colour;
        self.decide(now)?;
        if before != self.decision.colour {
            self.turned_at = Some(Instant::now());
        }
        if !self.config.enabled {
            return Ok(());
        }
        self.publish(HEALTH, self.decision.colour.word().to_owned())?;
        if self.decision.colour == Colour::Red && before != Colour::Red {
            self.look_at_colours()?;
            self.decide(now)?;
            self.publish(HEALTH, self.decision.colour.word().to_owned())?;
        }
        let calm = self.turned_at.is_none_or(|at| at.elapsed() >= DETAILS_AFTER);
        let due = self.owes_details() || self.details_at.is_none_or(|at| at.elapsed() >= CALM);
        if calm && due { self.tell_details() } else { Ok(()) }
    }

    /// Whether a colour was told without what operators read about it.
    fn owes_details(&self) -> bool {
        self.turned_at.is_some_and(|turned_at| self.details_at.is_none_or(|at| at < turned_at))
    }

    fn tell_details(&mut self) -> Result<(), CommandError> {
        self.details_at = Some(Instant::now());
        let why = match &self.decision.held_back {
            Some(obstacle) => format!("would be red, but {obstacle}; {}", self.news.verdict.why),
            None => self.news.verdict.why.clone(),
        };
        self.publish(WHY, why)?;
        self.publish(LAST, self.news.last.clone())
    }

    fn decide(&mut self, now: Moment) -> Result<(), CommandError> {
        let verdict = self.news.verdict.colour;
        let before = self.decision.held_back.clone();
        self.decision = if verdict == Colour::Red && self.config.enabled {
            if self.recent_cluster().is_none() {
                self.look()?;
            }
            let cluster = self.recent_cluster().cloned().unwrap_or_default();
            self.gate.decide(now, verdict, &self.guests.ask(), &cluster)
        } else {
            Decision { colour: verdict, held_back: None }
        };
        if let Some(obstacle) = self.decision.held_back.as_ref().filter(|obstacle| before.as_ref() != Some(obstacle)) {
            log::error!("this host should be left, and cannot be: {obstacle}; {}", self.news.verdict.why);
        }
        Ok(())
    }

    /// What is known of the cluster, unless that is too old to send guests away by.
    fn recent_cluster(&self) -> Option<&Cluster> {
        self.view.as_ref().filter(|(_, at)| at.elapsed() <= 2 * CALM).map(|(view, _)| &view.cluster)
    }

    /// Looks at the cluster. What it has forgotten, as it does when Pacemaker is restarted, is told again.
    fn look(&mut self) -> Result<(), CommandError> {
        self.looked_at = Some(Instant::now());
        if !self.config.enabled {
            return Ok(());
        }
        let view = View::read(&self.config.node)?;
        if view.own.as_ref() != self.told.get(HEALTH) {
            self.told.clear();
            self.details_at = None;
        }
        self.view = Some((view, Instant::now()));
        Ok(())
    }

    /// Looks at what the others have published, which takes a part of the time of a whole look.
    fn look_at_colours(&mut self) -> Result<(), CommandError> {
        match &mut self.view {
            Some((view, _)) => view.update_colours(&self.config.node),
            None => self.look(),
        }
    }

    fn publish(&mut self, name: &'static str, value: String) -> Result<(), CommandError> {
        let unknown = value.is_empty() && !self.told.contains_key(name);
        if unknown || self.told.get(name) == Some(&value) {
            return Ok(());
        }
        publish(&self.config.node, name, &value)?;
        if name == HEALTH {
            log::info!("the cluster is told: {value}");
        }
        self.told.insert(name, value);
        Ok(())
    }

    /// Notes how it stands, with the trouble or its absence if that is known anew; it is logged when it begins and when it is over.
    fn show(&self, news: Option<Option<String>>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = news.unwrap_or_else(|| shared.trouble.clone());
        match (&shared.trouble, &trouble) {
            (None, Some(trouble)) => log::warn!("the cluster cannot be told: {trouble}; it is tried again"),
            (Some(_), None) => log::info!("the cluster can be told again"),
            _ => {}
        }
        *shared = Published {
            colour: self.told.get(HEALTH).and_then(|word| Colour::from_word(word)),
            held_back: self.decision.held_back.clone(),
            trouble,
        };
    }

    fn take_back(mut self) {
        if self.told.get(HEALTH).is_some_and(|colour| colour == Colour::Red.word()) {
            log::warn!("this host is left red; `attrd_updater --name {HEALTH} --delete` takes it back");
            if let Err(error) = self.tell_details() {
                log::warn!("{error}");
            }
            return;
        }
        for (name, value) in &self.told {
            if !value.is_empty()
                && let Err(error) = publish(&self.config.node, name, "")
            {
                log::warn!("{error}");
            }
        }
    }
}
