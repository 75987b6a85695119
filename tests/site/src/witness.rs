//! What all clients of one guest have seen, together.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Violation;

/// An entry that the guest said is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Whose.
    pub client: u32,
    /// Its number.
    pub seq: u64,
    /// Its place in the ledger.
    pub index: u64,
}

/// The memory of everyone who talks to the guest. What any of them has seen holds for all of them.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    counter: u64,
    counters: HashSet<u64>,
    acknowledged: Vec<Acknowledged>,
    violations: Vec<Violation>,
}

impl Witness {
    /// The highest counter anyone was answered. To be asked before a request is sent, and given to
    /// [`saw_counter`](Witness::saw_counter) with its answer.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.seen().counter
    }

    /// Takes note of a counter that `who` was answered, having asked when the highest was `before`.
    ///
    /// # Errors
    /// No guest that remembers what it answered gives this one.
    pub fn saw_counter(&self, who: &str, before: u64, counter: u64) -> Result<(), Violation> {
        let mut seen = self.seen();
        if counter <= before {
            return Err(Violation::RolledBack { who: who.to_owned(), counter, seen: before });
        }
        if !seen.counters.insert(counter) {
            return Err(Violation::CounterTwice { who: who.to_owned(), counter });
        }
        seen.counter = seen.counter.max(counter);
        Ok(())
    }

    /// Takes note of an entry that was acknowledged.
    pub fn saw_entry(&self, entry: Acknowledged) {
        self.seen().acknowledged.push(entry);
    }

    /// Takes note of something that must never be.
    pub fn report(&self, violation: Violation) {
        self.seen().violations.push(violation);
    }

    /// How many entries were acknowledged.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.seen().acknowledged.len()
    }

    /// The entries acknowledged, from the `first` on, in the order in which the answers came.
    #[must_use]
    pub fn acknowledged(&self, first: usize) -> Vec<Acknowledged> {
        self.seen().acknowledged.get(first..).unwrap_or_default().to_vec()
    }

    /// Whether something was reported.
    #[must_use]
    pub fn has_violations(&self) -> bool {
        !self.seen().violations.is_empty()
    }

    /// Hands out what was reported.
    #[must_use]
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.seen().violations)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change is one push or one store: after a panic elsewhere what is there is whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_must_exceed_what_was_seen_before_it_was_asked_for() {
        let witness = Witness::default();
        let before = witness.counter();
        witness.saw_counter("a", before, 5).expect("the first");
        // Asked before 5 was seen: any number not given out is right, even a lower one.
        witness.saw_counter("b", before, 4).expect("overtaken on the way");
        assert!(matches!(witness.saw_counter("b", before, 5), Err(Violation::CounterTwice { counter: 5, .. })));
        assert!(matches!(
            witness.saw_counter("a", witness.counter(), 3),
            Err(Violation::RolledBack { counter: 3, seen: 5, .. })
        ));
    }
}
