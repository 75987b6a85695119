//! What is known, as it is kept over a restart and over a reboot.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Health;
use super::part::Part;
use crate::fault::Place;
use crate::moment::Moment;

/// The only form so far.
const VERSION: u32 = 1;
/// No host is away for longer; a wall clock that says so is wrong.
const AWAY_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Parts beside those that are told apart: one of each kind, for all that are not.
const OVERFLOWS: usize = 6;

/// What is known, when it was known, and on which boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    version: u32,
    /// Of the boot on whose clock the times are.
    pub boot_id: String,
    /// When, on that clock.
    pub saved: Moment,
    saved_unix_s: u64,
    parts: Vec<(Place, Part)>,
    /// The record of the kernel's log that was read last.
    pub log_sequence: Option<u64>,
    /// How much of each counter in sysfs is accounted for, by its name.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

impl Stored {
    /// Whether this program can read it.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        self.version == VERSION
    }
}

impl Health {
    /// What is to be kept.
    #[must_use]
    pub fn stored(&self, boot_id: &str, now: Moment, unix_s: u64, log_sequence: Option<u64>) -> Stored {
        let parts = self.parts.iter().map(|(place, part)| (place.clone(), part.clone())).collect();
        Stored {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            saved: now,
            saved_unix_s: unix_s,
            parts,
            log_sequence,
            counters: BTreeMap::new(),
        }
    }

    /// Goes on with what was kept. On the same boot its times hold; on another one the wall clock says how long the host was
    /// away, and if that went backwards it was not away at all: what is known drains late rather than early.
    pub fn restore(&mut self, stored: Stored, boot_id: &str, now: Moment, unix_s: u64) {
        let away = Duration::from_secs(unix_s.saturating_sub(stored.saved_unix_s)).min(AWAY_MAX);
        let same_boot = stored.boot_id == boot_id;
        let mut parts = stored.parts;
        // If there is room for fewer than there was: the worst.
        parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.colour));
        for (place, part) in parts.into_iter().take(self.parts_max + OVERFLOWS) {
            let limits = self.thresholds.limits(&place);
            let part = if same_boot { part } else { part.rebooted(&limits, stored.saved, away, now) };
            self.parts.insert(place, part);
        }
        self.changed = true;
    }
}
