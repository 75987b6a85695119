//! How long an epoch may last, so that its checkpoint stays small.
//!
//! Whatever the guest writes in an epoch is in memory twice more, here on its way and at the standby until it is whole. A guest that
//! writes fast therefore has short epochs: it is slowed by its own checkpoints, and memory stays bounded.

use std::time::Duration;

use kemari_core::PAGE_SIZE;

/// No epoch is ended sooner for its size: a checkpoint costs the guest a pause, too.
const SHORTEST: Duration = Duration::from_millis(5);

/// The length of epochs without output.
#[derive(Debug)]
pub(super) struct Pace {
    /// As configured, or as asked for.
    longest: Duration,
    /// In which a guest that goes on writing as it did dirties as much as a checkpoint is to hold.
    fair: Duration,
    /// What a checkpoint is to hold.
    pages: u64,
}

impl Pace {
    /// Epochs of at most `longest`, with checkpoints of about `bytes` at most.
    pub(super) fn new(longest: Duration, bytes: usize) -> Pace {
        Pace { longest, fair: Duration::MAX, pages: (bytes / PAGE_SIZE).max(1) as u64 }
    }

    /// Changes what an epoch may last whatever the guest does.
    pub(super) fn set_longest(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// How long the epoch in progress may last.
    pub(super) fn limit(&self) -> Duration {
        self.fair.max(SHORTEST).min(self.longest)
    }

    /// An epoch has `lasted` so long and left so many dirty pages. Getting shorter is done at once, getting longer step by step:
    /// a guest that writes by fits has rested before.
    pub(super) fn ended(&mut self, lasted: Duration, dirty_pages: u64) {
        let fair = lasted.as_secs_f64() * self.pages as f64 / dirty_pages.max(1) as f64;
        let fair = Duration::try_from_secs_f64(fair).unwrap_or(Duration::MAX);
        self.fair = fair.min(self.limit().saturating_mul(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace() -> Pace {
        Pace::new(1000 * MS, 1000 * PAGE_SIZE)
    }

    #[test]
    fn a_guest_that_writes_little_has_long_epochs() {
        let mut pace = pace();
        assert_eq!(pace.limit(), 1000 * MS);
        for dirty_pages in [0, 1, 10, 999] {
            pace.ended(1000 * MS, dirty_pages);
            assert_eq!(pace.limit(), 1000 * MS);
        }
    }

    #[test]
    fn one_that_writes_fast_has_epochs_that_fit_and_long_ones_again_when_it_rests() {
        let mut pace = pace();
        pace.ended(1000 * MS, 20_000);
        assert_eq!(pace.limit(), 50 * MS);
        pace.ended(50 * MS, 1000);
        assert_eq!(pace.limit(), 50 * MS);
        let mut limits = Vec::new();
        for _ in 0..5 {
            pace.ended(pace.limit(), 0);
            limits.push(pace.limit());
        }
        assert_eq!(limits, [100 * MS, 200 * MS, 400 * MS, 800 * MS, 1000 * MS]);
    }

    #[test]
    fn no_epoch_is_shorter_than_is_worth_a_pause_unless_somebody_wants_it() {
        let mut pace = pace();
        pace.ended(1000 * MS, u64::MAX);
        assert_eq!(pace.limit(), SHORTEST);
        pace.set_longest(2 * MS);
        assert_eq!(pace.limit(), 2 * MS);
        pace.ended(Duration::ZERO, 5);
        assert_eq!(pace.limit(), 2 * MS);
    }
}
