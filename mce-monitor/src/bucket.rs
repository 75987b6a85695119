//! Leaky buckets: how many faults in how much time are too many.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// So many in so much time, written `10 / 24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// From which number on it is too many.
    pub threshold: u32,
    /// The time in which a bucket that is full to the threshold drains.
    pub window: Duration,
}

/// Units of time, longest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        let wrong =
            || format!("{text:?} is no threshold; write it as \"10 / 24h\", with the units s, m, h, d, or \"off\"");
        let (threshold, window) = text.split_once('/').ok_or_else(wrong)?;
        let threshold = threshold.trim().parse().ok().filter(|threshold| *threshold > 0).ok_or_else(wrong)?;
        let window = span(window).ok_or_else(wrong)?;
        Ok(Rule { threshold, window })
    }
}

/// `24h`.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: u64 = text.strip_suffix(unit)?.trim().parse().ok().filter(|number| *number > 0)?;
    number.checked_mul(*seconds).map(Duration::from_secs)
}

/// A span of time as it is written; a day as 24 hours.
fn written(span: Duration) -> String {
    let seconds = span.as_secs();
    let fits = |name, unit| seconds.is_multiple_of(unit) && (seconds > unit || seconds == unit && name != "d");
    let (name, unit) = UNITS.into_iter().find(|(name, unit)| fits(*name, *unit)).unwrap_or(("s", 1));
    format!("{}{name}", seconds / unit)
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Rule, String> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}", self.threshold, written(self.window))
    }
}

/// What has come and not drained yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    level: f64,
    at: Moment,
}

/// Less than any drop of what comes, more than what is lost in rounding.
const GRAIN: f64 = 1e-6;

impl Bucket {
    /// Pours `count` in. Returns whether it is too many: whether the bucket is full, a part of a fault counting as a whole.
    pub fn add(&mut self, rule: Rule, now: Moment, count: f64) -> bool {
        self.drain(rule, now);
        let threshold = f64::from(rule.threshold);
        self.level += count;
        let full = (self.level - GRAIN).ceil() >= threshold;
        // What is above the brim is lost, or a storm would be remembered for as long as it was strong.
        self.level = self.level.min(threshold);
        full
    }

    /// Takes `count` out again: it belongs elsewhere.
    pub fn withdraw(&mut self, count: f64) {
        self.level = (self.level - count).max(0.0);
    }

    /// What has not drained yet.
    #[must_use]
    pub fn level(mut self, rule: Rule, now: Moment) -> f64 {
        self.drain(rule, now);
        self.level
    }

    /// The same as it will be `away` later, on the clock of another boot at `now`.
    #[must_use]
    pub fn carried(self, rule: Rule, saved: Moment, away: Duration, now: Moment) -> Bucket {
        let later = Bucket { level: self.level(rule, saved), at: Moment::default() };
        Bucket { level: later.level(rule, Moment::after_boot(away)), at: now }
    }

    fn drain(&mut self, rule: Rule, now: Moment) {
        let drained = f64::from(rule.threshold) * now.since(self.at).as_secs_f64() / rule.window.as_secs_f64();
        self.level = (self.level - drained).max(0.0);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect("a rule")
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in ["10 / 24h", "100 / 1m", "5 / 5m", "1 / 3s", "8 / 7d", "1 / 90s"] {
            assert_eq!(rule(text).to_string(), text);
        }
        assert_eq!(rule("10/1h"), Rule { threshold: 10, window: Duration::from_secs(3600) });
        for text in [
            "",
            "10",
            "0 / 1h",
            "10 / 0h",
            "10 / 24",
            "-1 / 1h",
            "10 / h",
            "99999999999 / 1h",
            "1 / 99999999999999999999d",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_tenth_is_one_too_many() {
        let mut bucket = Bucket::default();
        let full: Vec<bool> = (0..11).map(|second| bucket.add(rule("10 / 24h"), at(second * 60), 1.0)).collect();
        assert_eq!(full.iter().position(|full| *full), Some(9));
    }

    #[test]
    fn what_comes_slower_than_it_drains_is_never_too_many() {
        let mut bucket = Bucket::default();
        assert!(!(0..1000).any(|number| bucket.add(rule("10 / 24h"), at(number * 9000), 1.0)));
    }

    #[test]
    fn a_storm_has_drained_after_the_window() {
        let mut bucket = Bucket::default();
        let rule = rule("100 / 1h");
        assert!(bucket.add(rule, at(0), 1e9));
        assert!((bucket.level(rule, at(1800)) - 50.0).abs() < 0.01);
        assert!(bucket.level(rule, at(3600)) < 0.01);
    }

    #[test]
    fn time_that_runs_backwards_drains_nothing() {
        let mut bucket = Bucket::default();
        let rule = rule("10 / 10s");
        bucket.add(rule, at(100), 9.0);
        assert!(bucket.add(rule, at(50), 1.0));
        assert!(!bucket.add(rule, at(105), 0.0));
    }
}
