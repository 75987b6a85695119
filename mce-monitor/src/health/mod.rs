//! The health of this host: what is known about each of its parts, and what follows for the whole.
//!
//! Pure: faults and time come in, a verdict comes out. A part is green until it has more faults than a rule allows; yellow goes
//! by itself once the part was quiet, red stays until an operator clears it.

pub mod gate;
mod limits;
mod part;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classify::PAGE_SHIFT;
use crate::deduplicate::{Deduplicator, Judgement};
use crate::fault::{Component, Fault, Finding, Place};
use crate::moment::Moment;

pub use limits::{Limit, Limits, Quiet, Thresholds, Weight, weight};
use part::{Part, Pour};
pub use store::Stored;

/// A verdict, as `#health-mce` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Nothing is known against it.
    #[default]
    Green,
    /// To be watched.
    Yellow,
    /// To be left.
    Red,
}

impl Colour {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Colour::Green => "green",
            Colour::Yellow => "yellow",
            Colour::Red => "red",
        }
    }

    /// By its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Colour> {
        [Colour::Green, Colour::Yellow, Colour::Red].into_iter().find(|colour| colour.word() == word)
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What follows from everything that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How this host is.
    pub colour: Colour,
    /// Why it is not green: the worst parts first.
    pub why: String,
}

/// One part, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// Which.
    pub place: String,
    /// How it is.
    pub colour: Colour,
    /// Why.
    pub why: String,
    /// Faults counted.
    pub faults: u64,
    /// How long ago the last one was, in seconds.
    pub last_s: u64,
}

/// Parts that a verdict names.
const NAMED: usize = 3;
/// How long a storm is taken to be of the memory that had errors just before.
const STORM_MEMORY: Duration = Duration::from_secs(60);
/// Records of one fault come within this: the firmware takes 0.3 s, polled counters longer.
const SAME_FAULT: Duration = Duration::from_secs(5);

/// What is known.
#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    parts_max: usize,
    judge: Deduplicator,
    parts: BTreeMap<Place, Part>,
    last: Option<Fault>,
    /// The memory that had a corrected error last, for a storm that the kernel tells of without saying of what.
    last_memory: Option<(Moment, Place)>,
    last_noise: Option<Moment>,
    changed: bool,
}

impl Health {
    /// Nothing is known. Of `parts_max` parts at most it will be.
    #[must_use]
    pub fn new(thresholds: Thresholds, parts_max: usize) -> Health {
        Health {
            thresholds,
            parts_max,
            judge: Deduplicator::new(SAME_FAULT),
            parts: BTreeMap::new(),
            last: None,
            last_memory: None,
            last_noise: None,
            changed: false,
        }
    }

    /// Takes what was found.
    pub fn take(&mut self, finding: Finding) {
        match finding {
            Finding::Fault(fault) => self.fault(fault),
            Finding::Storm { at, begins: true } => self.storm(at),
            Finding::Storm { begins: false, .. } => {}
            Finding::Throttle { at, place, hot } => self.at(&place, at, |part, limits| part.throttle(limits, at, hot)),
            Finding::Throttled { at, place, span } => {
                self.at(&place, at, |part, limits| part.throttled(limits, at, span))
            }
            Finding::Link { at, interface, up } if self.thresholds.interfaces.contains(&interface) => {
                let place = Place { component: Component::Network, name: interface };
                self.at(&place, at, |part, _| part.carrier(at, up));
            }
            Finding::Link { .. } => {}
        }
    }

    fn fault(&mut self, fault: Fault) {
        let weight = weight(fault.class, fault.place.component);
        if weight == Weight::None {
            if fault.class == crate::fault::Class::Noise {
                self.last_noise = Some(fault.at);
            }
            // What operators read is worth being read.
            if fault.class != crate::fault::Class::Noise {
                self.last = Some(fault);
            }
            return;
        }
        let Judgement { fresh, moved } = self.judge.judge(&fault);
        if fresh == 0 && moved.is_none() {
            return;
        }
        if fault.place.component == Component::Memory && weight == Weight::Corrected {
            self.last_memory = Some((fault.at, fault.place.clone()));
        }
        let count = fresh + moved.as_ref().map_or(0, |(_, count)| *count);
        let page = fault.address.map(|address| address >> PAGE_SHIFT);
        let pour = Pour { now: fault.at, class: fault.class, weight, count, page, leftover: fault.leftover };
        // First to the part that is known better: the host must not be green in between.
        self.at(&fault.place, fault.at, |part, limits| part.pour(limits, &pour));
        if let Some((place, count)) = moved {
            self.withdraw(&place, weight, count);
        }
        self.last = Some(fault);
    }

    /// The kernel does not say what a storm is of. If there were errors of memory just before, it is of that; if there was noise,
    /// it is that; else something is wrong, and nobody knows with what.
    fn storm(&mut self, at: Moment) {
        let recent = |then: Moment| at.since(then) <= STORM_MEMORY;
        let memory = self.last_memory.as_ref().filter(|(then, _)| recent(*then)).map(|(_, place)| place.clone());
        match memory {
            Some(place) => self.at(&place, at, |part, _| part.storm(at, Colour::Red)),
            None if self.last_noise.is_some_and(recent) => {}
            None => {
                let place = Place { component: Component::Processor, name: "of an unknown bank".to_owned() };
                self.at(&place, at, |part, _| part.storm(at, Colour::Yellow));
            }
        }
    }

    fn withdraw(&mut self, place: &Place, weight: Weight, count: u64) {
        if let Some(part) = self.parts.get_mut(place)
            && part.withdraw(weight, count)
        {
            self.parts.remove(place);
            self.changed = true;
        }
    }

    fn at(&mut self, place: &Place, now: Moment, act: impl FnOnce(&mut Part, &Limits)) {
        let limits = self.thresholds.limits(place);
        if !self.parts.contains_key(place) {
            let place = self.room_for(place);
            self.parts.entry(place).or_insert_with(|| Part::new(now));
        }
        let overflow = overflow(place.component);
        let Some(part) =
            (if self.parts.contains_key(place) { self.parts.get_mut(place) } else { self.parts.get_mut(&overflow) })
        else {
            return;
        };
        let (colour, why) = (part.colour, part.why.len());
        act(part, &limits);
        self.changed |= (colour, why) != (part.colour, part.why.len());
    }

    /// Where a new part is kept: under its name if there is room, or if a green one can be forgotten for it; else with others.
    fn room_for(&mut self, place: &Place) -> Place {
        // Those that are counted together are beside the others, and stay: or each that goes would leave room for one more.
        let told_apart = || self.parts.iter().filter(|(place, _)| **place != overflow(place.component));
        if told_apart().count() < self.parts_max {
            return place.clone();
        }
        let green = told_apart().filter(|(_, part)| part.colour == Colour::Green);
        match green.min_by_key(|(_, part)| part.last).map(|(place, _)| place.clone()) {
            Some(oldest) => {
                self.parts.remove(&oldest);
                place.clone()
            }
            None => overflow(place.component),
        }
    }

    /// From here on these disks may make the host red, and no others.
    pub fn need_disks(&mut self, disks: BTreeSet<String>) {
        self.thresholds.disks = Some(disks);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        for (place, part) in &mut self.parts {
            let limits = self.thresholds.limits(place);
            self.changed |= part.count_throttling(&limits, now);
            self.changed |= part.tick(&limits, now);
        }
    }

    /// Whether something is going on that must be looked at again soon, without anything being told.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        self.parts.values().any(Part::is_throttled)
    }

    /// Whether the verdict may be another one than when this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What was told last.
    #[must_use]
    pub fn last(&self) -> Option<&Fault> {
        self.last.as_ref()
    }

    /// An operator knows better: the part of that name, or every one, is as if it never had a fault. Returns how many were.
    pub fn clear(&mut self, name: Option<&str>) -> usize {
        let before = self.parts.len();
        self.parts.retain(|place, _| name.is_some_and(|name| place.name != name && place.to_string() != name));
        self.changed = true;
        before - self.parts.len()
    }

    /// What follows.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut bad: Vec<_> = self.parts.iter().filter(|(_, part)| part.colour > Colour::Green).collect();
        bad.sort_by_key(|(_, part)| std::cmp::Reverse((part.colour, part.tripped)));
        let colour = bad.first().map_or(Colour::Green, |(_, part)| part.colour);
        let mut why: Vec<String> =
            bad.iter().take(NAMED).map(|(place, part)| format!("{}: {place}: {}", part.colour, part.why)).collect();
        if bad.len() > NAMED {
            why.push(format!("{} more", bad.len() - NAMED));
        }
        Verdict { colour, why: why.join("; ") }
    }

    /// Every part, the worst first.
    #[must_use]
    pub fn parts(&self, now: Moment) -> Vec<PartView> {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|(_, part)| std::cmp::Reverse((part.colour, part.last)));
        parts
            .into_iter()
            .map(|(place, part)| PartView {
                place: place.to_string(),
                colour: part.colour,
                why: part.why.clone(),
                faults: part.faults,
                last_s: now.since(part.last).as_secs(),
            })
            .collect()
    }
}

/// Where parts are counted together when there are too many.
fn overflow(component: Component) -> Place {
    Place { component, name: "others, too many to be told apart".to_owned() }
}
