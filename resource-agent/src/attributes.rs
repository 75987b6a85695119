//! The names of a guest's node attributes, as `crm_mon -A` shows them.

use std::fmt;
use std::str::FromStr;

use kemari_core::Generation;

use crate::authority::parse_generation;

/// What a primary asks of a standby that it has lost: to mark itself outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// In this generation.
    pub(crate) generation: Generation,
    /// The epoch in progress when it was asked. A standby that holds it was in sync since, and the wish is about an earlier loss.
    pub(crate) epoch: u64,
}

impl Wish {
    /// Whether a node's word is the answer to it, and not to another one that was about an earlier loss: a cluster that was in two
    /// parts may remember what was withdrawn in one of them.
    pub(crate) fn is_answered_by(self, word: &str) -> bool {
        word == self.to_string() || word == gone(self.generation)
    }

    /// Whether it is about the loss of a standby that holds `epoch` of `generation`.
    pub(crate) fn is_about(self, generation: &str, epoch: u64) -> bool {
        self.generation.to_string() != generation || epoch < self.epoch
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.generation, self.epoch)
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Wish, String> {
        let wrong = || format!("{text:?} is not a wish: not GENERATION@EPOCH");
        let (generation, epoch) = text.split_once('@').ok_or_else(wrong)?;
        let generation = parse_generation(generation).map_err(|_| wrong())?;
        Ok(Wish { generation, epoch: epoch.parse().map_err(|_| wrong())? })
    }
}

/// Asks the node to mark itself outdated; the value is a [`Wish`].
pub(crate) fn outdate(guest: &str) -> String {
    format!("kemari-{guest}-outdate")
}

/// The word of a node whose replicator has ended, and with it all that it held of `generation`. The next one takes it back.
pub(crate) fn gone(generation: Generation) -> String {
    format!("{generation}@gone")
}

/// The wish for which the node has marked itself outdated, durably; or [`gone`].
pub(crate) fn outdated(guest: &str) -> String {
    format!("kemari-{guest}-outdated")
}

/// The generation of the image that the node could resume.
pub(crate) fn holds(guest: &str) -> String {
    format!("kemari-{guest}-holds")
}

/// The promotion score of a resource, as Pacemaker 2.1 calls it.
pub(crate) fn score(resource: &str) -> String {
    format!("master-{resource}")
}

/// One of those that operators look at: `role`, `state`, `generation`, `epoch`, `commit-age`, `crashes`.
pub(crate) fn shown(guest: &str, name: &str) -> String {
    format!("kemari-{guest}-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_about_an_earlier_loss_is_told_from_one_about_this() {
        let wish = Wish { generation: Generation { number: 7, id: 0x9f3 }, epoch: 5 };
        assert_eq!(wish.to_string().parse(), Ok(wish));
        let generation = wish.generation.to_string();
        assert!(wish.is_about(&generation, 4) && !wish.is_about(&generation, 5) && !wish.is_about(&generation, 6));
        assert!(wish.is_about("6-0000000000000001", 9));
        let earlier = Wish { epoch: 4, ..wish };
        assert!(wish.is_answered_by(&wish.to_string()) && !wish.is_answered_by(&earlier.to_string()));
        assert!(wish.is_answered_by(&gone(wish.generation)) && !wish.is_answered_by(&generation));
        assert!(!wish.is_answered_by(&gone(Generation { number: 6, id: 1 })));
        for text in ["", "7-9f3", "7-9f3@", "7-9f3@x", "@5", "7@5"] {
            assert!(text.parse::<Wish>().is_err(), "{text:?}");
        }
    }
}
