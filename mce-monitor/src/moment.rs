//! Time as the rooms in the middle know it: passed in, never asked for.
//!
//! It is the time since this host booted (CLOCK_BOOTTIME), sleep included: setting the wall clock does not move it, and it goes on
//! over a restart of this program. The wall clock is only shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time of this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment {
    since_boot_us: u64,
}

impl Moment {
    /// That long after the boot.
    #[must_use]
    pub fn after_boot(since: Duration) -> Moment {
        Moment { since_boot_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }

    /// How long after the boot that is.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        Duration::from_micros(self.since_boot_us)
    }

    /// How long after `earlier` this is; nothing if it is before, as with records of several processors that arrive in turn.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.since_boot_us.saturating_sub(earlier.since_boot_us))
    }

    /// That much later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Moment {
        Moment::after_boot(self.since_boot().saturating_add(span))
    }

    /// That much earlier, but not before the boot.
    #[must_use]
    pub fn minus(self, span: Duration) -> Moment {
        Moment::after_boot(self.since_boot().saturating_sub(span))
    }
}
