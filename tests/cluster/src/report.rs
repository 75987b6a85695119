//! How long things took.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Samples by event; those of Stateful are the floor.
#[derive(Default)]
pub(crate) struct Timings {
    guest: BTreeMap<&'static str, Vec<Duration>>,
    floor: BTreeMap<&'static str, Vec<Duration>>,
}

/// How many times as long as it is to take an event may take on a machine that others use, too, before the run fails.
pub(crate) const HEADROOM: u32 = 2;

/// What is to be reached for an event.
enum Target {
    /// At most so much over the floor.
    Over(Duration),
    /// At most so much.
    AtMost(Duration),
}

/// The events, in the order of the table.
const EVENTS: [(&str, Target); 6] = [
    (KILLED, Target::Over(Duration::from_millis(300))),
    (MOVED, Target::AtMost(Duration::from_millis(500))),
    (NODE_LOST, Target::Over(Duration::from_millis(500))),
    (MEMORY_FAILED, Target::Over(Duration::from_millis(300))),
    (STANDBY_LOST, Target::AtMost(Duration::from_secs(1))),
    (PROTECTED_AGAIN, Target::AtMost(Duration::from_secs(10))),
];

pub(crate) const KILLED: &str = "kill -9 of the primary replicator";
pub(crate) const MOVED: &str = "crm_resource --move";
pub(crate) const NODE_LOST: &str = "node killed, fencing on, token 1000";
pub(crate) const MEMORY_FAILED: &str = "uncorrected memory error of the node";
pub(crate) const STANDBY_LOST: &str = "standby killed";
pub(crate) const PROTECTED_AGAIN: &str = "protected again after the standby's return";

impl Timings {
    /// A silence of the guest, as its client heard it, or what else the event is about.
    pub(crate) fn guest(&mut self, event: &'static str, took: Duration) {
        self.guest.entry(event).or_default().push(took);
    }

    /// The same event with ocf:pacemaker:Stateful, until the other one is promoted.
    pub(crate) fn floor(&mut self, event: &'static str, took: Duration) {
        self.floor.entry(event).or_default().push(took);
    }

    /// The events that took much longer than they are to take; a machine that was busy with something else does not explain it.
    pub(crate) fn far_missed(&self) -> Vec<&'static str> {
        let is_far = |(event, target): &&(&'static str, Target)| {
            let took = self.guest.get(event).and_then(|samples| median(samples));
            let floor = self.floor.get(event).and_then(|samples| median(samples));
            let limit = match target {
                Target::Over(over) => floor.map(|floor| floor + *over),
                Target::AtMost(limit) => Some(*limit),
            };
            took.zip(limit).is_some_and(|(took, limit)| took > limit * HEADROOM)
        };
        EVENTS.iter().filter(is_far).map(|(event, _)| *event).collect()
    }

    /// The table; empty if nothing was measured.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        if self.guest.is_empty() && self.floor.is_empty() {
            return text;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n{:<44} {:>9} {:>9} {:>9}  {:<16}",
            "median, from the event to the guest's answer", "guest", "longest", "Stateful", "target"
        );
        for (event, target) in &EVENTS {
            let (guest, floor) = (self.guest.get(event), self.floor.get(event).and_then(|samples| median(samples)));
            let Some(samples) = guest.filter(|samples| !samples.is_empty()) else { continue };
            let took = median(samples).unwrap_or_default();
            let longest = samples.iter().max().copied().unwrap_or_default();
            let (wanted, limit) = match target {
                Target::Over(over) => {
                    (format!("<= Stateful + {:.1} s", over.as_secs_f64()), floor.map(|floor| floor + *over))
                }
                Target::AtMost(limit) => (format!("<= {:.1} s", limit.as_secs_f64()), Some(*limit)),
            };
            let verdict = limit.map_or("", |limit| match took {
                took if took <= limit => "met",
                took if took <= limit * HEADROOM => "MISSED",
                _ => "MISSED BY FAR",
            });
            let floor = floor.map_or("-".to_owned(), |floor| format!("{:.3} s", floor.as_secs_f64()));
            let _ = writeln!(
                text,
                "{event:<44} {:>7.3} s {:>7.3} s {floor:>9}  {wanted:<20} {verdict}",
                took.as_secs_f64(),
                longest.as_secs_f64()
            );
        }
        text
    }
}

fn median(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied()?;
    // Of two samples neither is the median.
    let lower = if sorted.len().is_multiple_of(2) { sorted.get(middle - 1).copied()? } else { upper };
    Some((lower + upper) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_median_of_two_is_neither() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[ms(5)]), Some(ms(5)));
        assert_eq!(median(&[ms(30), ms(10)]), Some(ms(20)));
        assert_eq!(median(&[ms(30), ms(10), ms(11)]), Some(ms(11)));
    }

    #[test]
    fn what_is_missed_is_said_and_what_is_missed_by_far_fails() {
        let mut timings = Timings::default();
        timings.floor(KILLED, ms(200));
        timings.guest(KILLED, ms(501));
        timings.guest(MOVED, ms(1001));
        timings.guest(STANDBY_LOST, ms(999));
        let table = timings.table();
        let verdict = |event: &str| table.lines().find(|line| line.starts_with(event)).map(str::to_owned);
        assert!(verdict(KILLED).is_some_and(|line| line.ends_with("MISSED")));
        assert!(verdict(MOVED).is_some_and(|line| line.ends_with("MISSED BY FAR")));
        assert!(verdict(STANDBY_LOST).is_some_and(|line| line.ends_with("met")));
        assert_eq!(timings.far_missed(), [MOVED]);
    }
}
