//! What is known about one part.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Colour;
use super::limits::{Limit, Limits, Weight};
use crate::bucket::{Bucket, Rule};
use crate::fault::Class;
use crate::moment::Moment;

/// Pages that are remembered of a part; more tell nothing new.
const PAGES: usize = 64;
/// Times that it turned red for an uncorrected fault, after which red stays red over a reboot.
const CONVICTIONS: u32 = 2;
/// Throttling of which no end is told is taken to have ended after this; the kernel tells again what goes on.
const THROTTLE_LIMIT: Duration = Duration::from_secs(600);

/// A part that had faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) colour: Colour,
    /// Why it is not green.
    pub(super) why: String,
    /// Faults counted, of any class.
    pub(super) faults: u64,
    pub(super) last: Moment,
    /// When it last had too much; single faults that are too few for a rule do not keep it yellow.
    pub(super) tripped: Moment,
    /// Whether what made it what it is was not corrected.
    by_uncorrected: bool,
    /// Whether corrected errors alone would have made it red.
    #[serde(default)]
    red_by_corrected: bool,
    /// How often it has turned red for what was not corrected.
    convictions: u32,
    /// Whether what the boot before has left is known already.
    #[serde(default)]
    leftover_known: bool,
    buckets: Buckets,
    pages: Vec<(u64, Moment)>,
    #[serde(default)]
    throttling: Option<Throttling>,
    /// Whether it is a network card that has no carrier, and is missed.
    #[serde(default)]
    down: bool,
}

/// A throttling that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Throttling {
    told: Moment,
    /// Up to when its seconds were counted.
    counted: Moment,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Buckets {
    corrected_yellow: Bucket,
    corrected_red: Bucket,
    storm_red: Bucket,
    uncorrected_yellow: Bucket,
    uncorrected_red: Bucket,
}

/// Faults that are to be counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pour {
    pub(super) now: Moment,
    pub(super) class: Class,
    pub(super) weight: Weight,
    pub(super) count: u64,
    pub(super) page: Option<u64>,
    /// Whether it happened before this boot.
    pub(super) leftover: bool,
}

impl Part {
    /// A part of which nothing is known.
    pub(super) fn new(now: Moment) -> Part {
        Part { last: now, ..Part::default() }
    }

    /// Counts faults.
    pub(super) fn pour(&mut self, limits: &Limits, pour: &Pour) {
        self.last = self.last.max(pour.now);
        self.faults += pour.count;
        match pour.weight {
            Weight::None => {}
            Weight::Corrected => {
                self.corrected(limits, pour.now, pour.count as f64, "corrected errors");
                if let Some(page) = pour.page {
                    self.page(limits, pour.now, page);
                }
            }
            Weight::Uncorrected => self.uncorrected(limits, pour),
            Weight::Severe => self.severe(limits, pour),
        }
    }

    fn corrected(&mut self, limits: &Limits, now: Moment, count: f64, what: &str) {
        let buckets = &mut self.buckets;
        let rules = [
            (&mut buckets.corrected_yellow, limits.corrected_yellow, Colour::Yellow, ""),
            (&mut buckets.corrected_red, limits.corrected_red, Colour::Red, ""),
            (&mut buckets.storm_red, limits.storm_red, Colour::Red, ", a storm"),
        ];
        let mut tripped = Vec::new();
        for (bucket, limit, colour, addition) in rules {
            if let Some(rule) = over(bucket, limit, now, count) {
                tripped.push((colour, format!("{what}: {rule}{addition}")));
            }
        }
        for (colour, why) in tripped {
            self.raise(now, colour, why, false);
        }
    }

    /// Counts the pages that had corrected errors lately.
    fn page(&mut self, limits: &Limits, now: Moment, page: u64) {
        let recent =
            |window: Duration, pages: &[(u64, Moment)]| pages.iter().filter(|(_, at)| now.since(*at) <= window).count();
        match self.pages.iter_mut().find(|(known, _)| *known == page) {
            Some((_, at)) => *at = now,
            None => {
                if self.pages.len() >= PAGES {
                    let oldest = self.pages.iter().enumerate().min_by_key(|(_, (_, at))| *at).map(|(index, _)| index);
                    self.pages.swap_remove(oldest.unwrap_or(0));
                }
                self.pages.push((page, now));
            }
        }
        for (limit, colour) in [(limits.pages_yellow, Colour::Yellow), (limits.pages_red, Colour::Red)] {
            if let Some(rule) = limit.0.filter(|rule| recent(rule.window, &self.pages) >= rule.threshold as usize) {
                self.raise(now, colour, format!("pages with corrected errors: {rule}"), false);
            }
        }
    }

    fn uncorrected(&mut self, limits: &Limits, pour: &Pour) {
        let Pour { now, class, count, .. } = *pour;
        if let Some(rule) = over(&mut self.buckets.uncorrected_yellow, limits.uncorrected_yellow, now, count as f64) {
            self.raise(now, Colour::Yellow, format!("{class}: {rule}"), true);
        }
        if let Some(rule) = over(&mut self.buckets.uncorrected_red, limits.uncorrected_red, now, count as f64) {
            self.convict(now, format!("{class}: {rule}"));
        }
    }

    /// Red at once, unless it is what the boot before has left: that is yellow the first time, or a host that was fenced for
    /// it would be left by its guests again and again. All records of one boot before count as one.
    fn severe(&mut self, limits: &Limits, pour: &Pour) {
        let Pour { now, class, .. } = *pour;
        if !limits.severe_is_red {
            return self.raise(now, Colour::Yellow, class.to_string(), true);
        }
        if !pour.leftover {
            return self.convict(now, class.to_string());
        }
        if !std::mem::replace(&mut self.leftover_known, true) {
            self.convictions = self.convictions.saturating_add(1);
        }
        let colour = if self.convictions < CONVICTIONS { Colour::Yellow } else { Colour::Red };
        self.raise(now, colour, format!("{class} before this boot"), true);
    }

    /// Counts faults out again that belong to another part. Returns whether nothing is left.
    pub(super) fn withdraw(&mut self, weight: Weight, count: u64) -> bool {
        self.faults = self.faults.saturating_sub(count);
        if weight == Weight::Corrected {
            for bucket in
                [&mut self.buckets.corrected_yellow, &mut self.buckets.corrected_red, &mut self.buckets.storm_red]
            {
                bucket.withdraw(count as f64);
            }
        }
        self.faults == 0
    }

    /// The kernel says that corrected errors of this part come faster than it can read them.
    pub(super) fn storm(&mut self, now: Moment, colour: Colour) {
        self.last = self.last.max(now);
        self.raise(now, colour, "the kernel tells of a storm of corrected errors".to_owned(), false);
    }

    /// Throttling begins, is told again, or ends.
    pub(super) fn throttle(&mut self, limits: &Limits, now: Moment, hot: bool) {
        self.count_throttling(limits, now);
        self.last = self.last.max(now);
        self.faults += u64::from(hot && self.throttling.is_none());
        self.throttling = hot.then_some(Throttling { told: now, counted: now });
    }

    /// It was throttled for that long, and nobody has told of it.
    pub(super) fn throttled(&mut self, limits: &Limits, now: Moment, span: Duration) {
        self.last = self.last.max(now);
        self.faults += 1;
        self.corrected(limits, now, span.as_secs_f64(), "seconds of throttling");
    }

    /// An interface that is missed has lost its carrier, or has it back.
    pub(super) fn carrier(&mut self, now: Moment, up: bool) {
        self.last = self.last.max(now);
        if !up {
            self.faults += u64::from(!self.down);
            self.raise(now, Colour::Yellow, "no carrier".to_owned(), false);
        }
        self.down = !up;
    }

    /// Red for what was not corrected. More of it while it is red for that tells nothing new.
    fn convict(&mut self, now: Moment, why: String) {
        if self.colour < Colour::Red || !self.by_uncorrected {
            self.convictions = self.convictions.saturating_add(1);
        }
        self.raise(now, Colour::Red, why, true);
    }

    fn raise(&mut self, now: Moment, colour: Colour, why: String, uncorrected: bool) {
        self.tripped = self.tripped.max(now);
        self.red_by_corrected |= colour == Colour::Red && !uncorrected;
        if colour > self.colour || colour == self.colour && uncorrected && !self.by_uncorrected {
            self.colour = colour;
            self.why = why;
            self.by_uncorrected = uncorrected;
        }
    }

    /// Time has passed. Returns whether the colour has changed.
    pub(super) fn tick(&mut self, limits: &Limits, now: Moment) -> bool {
        let before = self.colour;
        if self.down {
            self.tripped = now;
        }
        let passes = self.colour == Colour::Yellow || self.colour == Colour::Red && limits.red_passes;
        if passes && self.throttling.is_none() && now.since(self.tripped) >= limits.quiet.0 {
            self.colour = Colour::Green;
            self.why.clear();
            (self.by_uncorrected, self.red_by_corrected) = (false, false);
        }
        self.colour != before
    }

    /// Counts the seconds of a throttling that goes on. Returns whether the colour has changed.
    pub(super) fn count_throttling(&mut self, limits: &Limits, now: Moment) -> bool {
        let before = self.colour;
        if let Some(Throttling { told, counted }) = self.throttling {
            self.corrected(limits, now, now.since(counted).as_secs_f64(), "seconds of throttling");
            self.throttling = (now.since(told) <= THROTTLE_LIMIT).then_some(Throttling { told, counted: now });
        }
        self.colour != before
    }

    pub(super) fn is_throttled(&self) -> bool {
        self.throttling.is_some()
    }

    /// The same on another boot, at `now`. Red for what was not corrected comes back yellow once: the reboot may have mended it,
    /// and a host that was fenced for it must not be left by its guests for what they have left it for already.
    pub(super) fn rebooted(mut self, limits: &Limits, saved: Moment, away: Duration, now: Moment) -> Part {
        let carry = |bucket: &mut Bucket, limit: Limit| {
            *bucket = limit.0.map_or_else(Bucket::default, |rule| bucket.carried(rule, saved, away, now));
        };
        carry(&mut self.buckets.corrected_yellow, limits.corrected_yellow);
        carry(&mut self.buckets.corrected_red, limits.corrected_red);
        carry(&mut self.buckets.storm_red, limits.storm_red);
        carry(&mut self.buckets.uncorrected_yellow, limits.uncorrected_yellow);
        carry(&mut self.buckets.uncorrected_red, limits.uncorrected_red);
        let window = limits.pages_red.0.map_or(Duration::ZERO, |rule| rule.window);
        self.pages.retain(|(_, at)| saved.since(*at) + away <= window);
        self.pages.iter_mut().for_each(|(_, at)| *at = now);
        (self.last, self.tripped, self.throttling, self.down) = (now, now, None, false);
        // What made it red may be in the registers still.
        self.leftover_known = self.colour == Colour::Red && self.by_uncorrected;
        if self.leftover_known && !self.red_by_corrected && self.convictions < CONVICTIONS {
            self.colour = Colour::Yellow;
            self.why = format!("{} before the reboot", self.why);
        }
        self
    }
}

/// Pours into a bucket; the rule if that is too much.
fn over(bucket: &mut Bucket, limit: Limit, now: Moment, count: f64) -> Option<Rule> {
    limit.0.filter(|rule| bucket.add(*rule, now, count))
}
