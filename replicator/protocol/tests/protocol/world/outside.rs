//! What is outside of both nodes: time, the link, the authority's record, and the people who see the guest's output.

use std::collections::HashMap;
use std::time::Instant;

use kemari_core::{Epoch, Generation, Image};

use super::link::Link;

/// The one record of who may speak, changed only by compare-and-swap.
pub(crate) struct Record {
    pub(crate) generation: Generation,
    /// Which nodes hold all that this generation has shown.
    pub(crate) named: [bool; 2],
}

/// The guest as it was when a checkpoint was cut.
pub(crate) struct Cut {
    pub(crate) counter: u64,
    pub(crate) memory: Vec<u64>,
}

pub(crate) struct Outside {
    pub(crate) now: Instant,
    pub(crate) link: Link,
    pub(crate) record: Record,
    /// The greatest counter that anybody was shown.
    pub(crate) shown: u64,
    /// The greatest counter in a checkpoint that its primary knew to be committed.
    pub(crate) acknowledged: u64,
    /// What was shown when the standby that is connected lost what it held, until it can go on again.
    pub(crate) exposed: Option<u64>,
    /// Whether both nodes keep to the protocol, so that neither may accuse the other.
    pub(crate) honest: bool,
    cuts: HashMap<(Generation, Epoch), Cut>,
    /// What each generation showed last.
    last_shown: HashMap<Generation, u64>,
    /// Where its successor went on, for each generation that has one.
    ended: HashMap<Generation, u64>,
}

impl Outside {
    pub(crate) fn new(generation: Generation) -> Outside {
        Outside {
            now: Instant::now(),
            link: Link::new(),
            record: Record { generation, named: [true; 2] },
            shown: 0,
            acknowledged: 0,
            exposed: None,
            honest: true,
            cuts: HashMap::new(),
            last_shown: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    pub(crate) fn remember(&mut self, generation: Generation, epoch: Epoch, cut: Cut) {
        let earlier = self.cuts.insert((generation, epoch), cut);
        assert!(earlier.is_none(), "epoch {epoch} of generation {generation} was cut twice");
    }

    pub(crate) fn cut(&self, image: Image) -> &Cut {
        self.cuts.get(&(image.generation, image.epoch)).expect("an image that was cut")
    }

    /// A node has given up a link that was up.
    pub(crate) fn hear_accusation(&self, reason: &str) {
        let no_fault = ["was silent for", "the gate was opened"];
        let innocent = ["closed", "cut"].contains(&reason) || no_fault.iter().any(|words| reason.contains(words));
        assert!(innocent || !self.honest, "an honest peer was accused: {reason}");
    }

    /// Somebody sees output of the guest.
    pub(crate) fn show(&mut self, generation: Generation, counter: u64) {
        let last = self.last_shown.insert(generation, counter);
        assert!(last.is_none_or(|last| last < counter), "{counter} was shown after {last:?}");
        // What was acknowledged before the standby was frozen may come out late; anything more would be a fork.
        if let Some(end) = self.ended.get(&generation) {
            assert!(counter <= *end, "{generation} ended at {end}, and showed {counter}");
        }
        self.shown = self.shown.max(counter);
    }

    /// A primary has learned that a checkpoint is committed.
    pub(crate) fn acknowledge(&mut self, image: Image) {
        let counter = self.cut(image).counter;
        if let Some(end) = self.ended.get(&image.generation) {
            assert!(counter <= *end, "{image} was acknowledged, but the guest goes on from {end}");
        }
        self.acknowledged = self.acknowledged.max(counter);
    }

    /// A node that holds `image` asks to be primary.
    pub(crate) fn grant(&mut self, node: usize, image: Image) -> Option<Generation> {
        if image.generation != self.record.generation || !self.record.named[node] {
            return None;
        }
        let counter = self.cut(image).counter;
        assert!(self.shown <= counter, "{} was shown, the guest goes on from {counter}", self.shown);
        assert!(self.acknowledged <= counter, "{} was acknowledged, {counter} is held", self.acknowledged);
        let id = self.record.generation.id + 11;
        self.ended.insert(image.generation, counter);
        self.record.generation = image.generation.next(id);
        self.name_alone(self.record.generation, node);
        Some(self.record.generation)
    }

    /// The primary of `generation` asks to be the only one that can go on. Returns whether it is.
    pub(crate) fn name_alone(&mut self, generation: Generation, node: usize) -> bool {
        let current = self.record.generation == generation;
        if current {
            self.record.named = std::array::from_fn(|other| other == node);
        }
        current
    }

    /// The primary of `generation` says that its standby can go on as well.
    pub(crate) fn name_both(&mut self, generation: Generation) {
        if self.record.generation == generation {
            self.record.named = [true; 2];
        }
    }
}
