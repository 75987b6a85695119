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
            let verdict = limit.map_or("", |limit| if took <= limit { "met" } else { "MISSED" });
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
    sorted.get(sorted.len() / 2).copied()
}
