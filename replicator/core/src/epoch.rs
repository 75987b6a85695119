//! Names for points in the history of a guest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the guest does between two checkpoints. Numbered from 1 and never reused within a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// The first epoch of a generation.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch with this number; `None` for 0, which is before every epoch.
    #[must_use]
    pub fn new(number: u64) -> Option<Epoch> {
        (number > 0).then_some(Epoch(number))
    }

    /// The epoch that follows. At a checkpoint every microsecond a `u64` lasts 500,000 years.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One promotion of the guest, and the history that follows it.
///
/// `number` grows by one at each promotion. Two nodes parted from each other can both count to the same number,
/// so `id` (64 random bits drawn at the promotion) tells their histories apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Grows by one at each promotion.
    pub number: u64,
    /// Random; equal numbers with different ids are different histories.
    pub id: u64,
}

impl Generation {
    /// The generation that follows this one, with an `id` just drawn at random. None follows the last number: what is returned
    /// then is not newer.
    #[must_use]
    pub fn next(self, id: u64) -> Generation {
        Generation { number: self.number.saturating_add(1), id }
    }

    /// Whether this one was promoted later. Two histories with equal numbers are not newer than each other.
    #[must_use]
    pub fn is_newer_than(self, other: Generation) -> bool {
        self.number > other.number
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.number, self.id)
    }
}

/// Text that does not name a generation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no generation; one is written NUMBER-ID, the id in hexadecimal, as `status` shows it")]
pub struct NotAGeneration(String);

impl FromStr for Generation {
    type Err = NotAGeneration;

    fn from_str(text: &str) -> Result<Generation, NotAGeneration> {
        let parse = || {
            let (number, id) = text.split_once('-')?;
            Some(Generation { number: number.parse().ok()?, id: u64::from_str_radix(id, 16).ok()? })
        };
        parse().ok_or_else(|| NotAGeneration(text.to_owned()))
    }
}

/// The guest as it was when one epoch of one generation ended: what a standby can resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The history it belongs to.
    pub generation: Generation,
    /// The last epoch it contains.
    pub epoch: Epoch,
    /// crc32c over the content of the checkpoint that ended `epoch`, as the sender computed it.
    pub checksum: u32,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} of generation {}", self.epoch, self.generation)
    }
}
