//! One fault, told several times.
//!
//! A corrected error of memory may come as the bank's registers, as EDAC's decoding of them, from the firmware, as registers made up
//! from what the firmware told, and each of these again in the kernel's log. So records with the same address (or, without
//! one, the same part) that come close together count as many faults as their most talkative witness has told: two records of
//! one witness are two faults, records of two witnesses may be one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::classify::PAGE_SHIFT;
use crate::fault::{Fault, Place, Precision, Witness};
use crate::moment::Moment;

/// What is remembered at most. The oldest goes first: what it hears again of that is counted twice.
const ENTRIES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uncorrected: bool,
    /// None if there is an address: a page may be told of by a cache that wanted to read it, and by its memory.
    place: Option<Place>,
    page: Option<u64>,
}

impl Key {
    fn of(fault: &Fault) -> Key {
        let page = fault.address.map(|address| address >> PAGE_SHIFT);
        let place = page.is_none().then(|| fault.place.clone());
        Key { uncorrected: fault.class.is_uncorrected(), place, page }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    last: Moment,
    /// How many faults each witness has told.
    told: Vec<(Witness, u64)>,
    /// How many were counted.
    counted: u64,
    /// Where they were counted so far as no witness knew better.
    vague: Option<(Place, Precision, u64)>,
}

/// What a record adds to what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Faults that no other record has told.
    pub fresh: u64,
    /// Faults that were counted at a place known less well than this record's, and belong to this one's.
    pub moved: Option<(Place, u64)>,
}

/// Remembers what was told lately.
#[derive(Clone, Debug)]
pub struct Deduplicator {
    window: Duration,
    entries: HashMap<Key, Entry>,
    /// By when they were made, or looked at last.
    order: VecDeque<(Moment, Key)>,
}

impl Deduplicator {
    /// Records that are further apart than `window` are about different faults.
    #[must_use]
    pub fn new(window: Duration) -> Deduplicator {
        Deduplicator { window, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// Judges a record.
    pub fn judge(&mut self, fault: &Fault) -> Judgement {
        self.forget(fault.at);
        let key = Key::of(fault);
        if !self.entries.contains_key(&key) {
            self.order.push_back((fault.at, key.clone()));
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry::new(fault.at));
        if fault.at.since(entry.last) > self.window {
            *entry = Entry::new(fault.at);
        }
        entry.judge(fault)
    }

    fn forget(&mut self, now: Moment) {
        while let Some((at, _)) = self.order.front() {
            if now.since(*at) <= self.window && self.entries.len() < ENTRIES {
                return;
            }
            let Some((_, key)) = self.order.pop_front() else { return };
            match self.entries.get(&key) {
                Some(entry) if now.since(entry.last) <= self.window && self.entries.len() < ENTRIES => {
                    self.order.push_back((entry.last, key));
                }
                _ => {
                    self.entries.remove(&key);
                }
            }
        }
    }
}

impl Entry {
    fn new(at: Moment) -> Entry {
        Entry { last: at, told: Vec::new(), counted: 0, vague: None }
    }

    fn judge(&mut self, fault: &Fault) -> Judgement {
        self.last = self.last.max(fault.at);
        let told = match self.told.iter().position(|(witness, _)| *witness == fault.witness) {
            Some(index) => index,
            None => {
                self.told.push((fault.witness, 0));
                self.told.len() - 1
            }
        };
        self.told[told].1 += fault.count;
        let total = self.counted.max(self.told[told].1);
        let fresh = total - self.counted;
        self.counted = total;
        let moved = self.take_vague(fault, fault.count - fresh);
        if fresh > 0 && fault.precision < Precision::Part {
            let before = self.vague.take().filter(|(place, ..)| *place == fault.place).map_or(0, |(.., count)| count);
            self.vague = Some((fault.place.clone(), fault.precision, before + fresh));
        }
        Judgement { fresh, moved }
    }

    /// Takes up to `most` faults away from a place that is known less well than that of `fault`.
    fn take_vague(&mut self, fault: &Fault, most: u64) -> Option<(Place, u64)> {
        let (place, precision, count) = self.vague.as_mut()?;
        if fault.precision <= *precision || *place == fault.place {
            return None;
        }
        let moved = most.min(*count);
        *count -= moved;
        let place = place.clone();
        if fault.precision < Precision::Part && moved > 0 {
            self.vague = Some((fault.place.clone(), fault.precision, moved));
        }
        (moved > 0).then_some((place, moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Class, Component, Kind};
    use crate::record::Channel;

    fn fault(kind: Kind, ms: u64, address: Option<u64>) -> Fault {
        let (name, precision) = match kind {
            Kind::Edac => ("DIMM_A1", Precision::Part),
            Kind::MemoryFailure => ("of an unknown DIMM", Precision::Nothing),
            _ => ("socket0 bank7", Precision::Unit),
        };
        Fault {
            at: Moment::after_boot(Duration::from_millis(ms)),
            class: Class::Corrected,
            place: Place { component: Component::Memory, name: name.to_owned() },
            precision,
            address,
            count: 1,
            leftover: false,
            witness: Witness { kind, channel: Channel::Trace },
            detail: String::new(),
        }
    }

    fn fresh(judge: &mut Deduplicator, kind: Kind, ms: u64, address: Option<u64>) -> u64 {
        judge.judge(&fault(kind, ms, address)).fresh
    }

    fn five_seconds() -> Deduplicator {
        Deduplicator::new(Duration::from_secs(5))
    }

    #[test]
    fn four_records_of_one_fault() {
        let mut judge = five_seconds();
        let address = Some(0x1_2345_0000);
        assert_eq!(fresh(&mut judge, Kind::MachineCheck, 0, address), 1);
        assert_eq!(fresh(&mut judge, Kind::MadeUp, 310, address), 0);
        assert_eq!(fresh(&mut judge, Kind::Edac, 311, address), 0);
        assert_eq!(fresh(&mut judge, Kind::Firmware, 312, address), 0);
    }

    #[test]
    fn two_records_of_one_witness_are_two_faults() {
        let mut judge = five_seconds();
        let address = Some(0x1000);
        assert_eq!(fresh(&mut judge, Kind::MachineCheck, 0, address), 1);
        assert_eq!(fresh(&mut judge, Kind::MachineCheck, 1, address), 1);
        assert_eq!(fresh(&mut judge, Kind::Edac, 2, address), 0);
        assert_eq!(fresh(&mut judge, Kind::Edac, 3, address), 0);
        assert_eq!(fresh(&mut judge, Kind::Edac, 4, address), 1);
    }

    #[test]
    fn another_page_another_class_or_a_later_time_is_another_fault() {
        let mut judge = five_seconds();
        assert_eq!(fresh(&mut judge, Kind::MachineCheck, 0, Some(0x1000)), 1);
        assert_eq!(fresh(&mut judge, Kind::Edac, 1, Some(0x2000)), 1);
        let worse = Fault { class: Class::Srao, ..fault(Kind::Edac, 2, Some(0x1000)) };
        assert_eq!(judge.judge(&worse).fresh, 1);
        assert_eq!(fresh(&mut judge, Kind::Edac, 9000, Some(0x1000)), 1);
    }

    #[test]
    fn the_part_is_learned_from_a_later_record() {
        let mut judge = five_seconds();
        judge.judge(&fault(Kind::MemoryFailure, 0, Some(0x1000)));
        let unit = judge.judge(&fault(Kind::MachineCheck, 1, Some(0x1000)));
        assert_eq!(unit.moved.expect("known better").0.name, "of an unknown DIMM");
        let part = judge.judge(&fault(Kind::Edac, 2, Some(0x1000)));
        assert_eq!((part.fresh, part.moved.expect("known better").0.name.as_str()), (0, "socket0 bank7"));
        assert_eq!(judge.judge(&fault(Kind::Firmware, 3, Some(0x1000))), Judgement { fresh: 0, moved: None });
    }

    #[test]
    fn a_record_that_counts_is_that_many() {
        let mut judge = five_seconds();
        let many = |kind| Fault { count: 262, ..fault(kind, 0, Some(0x1000)) };
        assert_eq!(judge.judge(&many(Kind::MachineCheck)).fresh, 262);
        let edac = judge.judge(&many(Kind::Edac));
        assert_eq!((edac.fresh, edac.moved.map(|(_, count)| count)), (0, Some(262)));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut judge = five_seconds();
        for page in 0..100_000 {
            judge.judge(&fault(Kind::MachineCheck, page / 100, Some(page << PAGE_SHIFT)));
        }
        assert!(judge.entries.len() <= ENTRIES && judge.order.len() <= ENTRIES + 1);
        assert_eq!(fresh(&mut judge, Kind::Edac, 1001, Some(99_999 << PAGE_SHIFT)), 0);
    }
}
