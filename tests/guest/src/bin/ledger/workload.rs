//! The memory workload: rewrites the pages of a working set in turn, at a set rate, and checks before each rewrite that
//! the page still holds what it wrote the last time.

use crate::memory::PAGE;
use core::ops::Range;
use core::slice;
use core::time::Duration;

const WORDS: usize = PAGE / 8;
/// Pages are written in bursts this far apart, or one at a time if the rate is lower than that: wake-ups cost more than
/// pages.
const BURST: Duration = Duration::from_millis(10);
/// After a pause (a checkpoint, a move to another host) at most this many bursts are made up for.
const MOST_LATE: u32 = 4;

/// The memory workload.
pub(crate) struct Workload {
    pages: &'static mut [[u64; WORDS]],
    /// Between two bursts.
    period: Duration,
    /// Pages in a burst, times 2^16.
    pages_per_burst: u64,
    /// Pages owed, times 2^16.
    owed: u64,
    due: Duration,
    dirtied: u64,
    corrupt: bool,
}

impl Workload {
    /// A workload on the first `pages` pages of `ram`, which nothing else uses and whose content does not matter, at
    /// `rate` pages per second.
    pub(crate) fn new(ram: Range<u64>, pages: u64, rate: u64) -> Self {
        let start = ram.start.next_multiple_of(PAGE as u64);
        let most = ram.end.saturating_sub(start) / PAGE as u64;
        assert!(pages <= most, "dirty_pages={pages} is more than the {most} pages there are");
        // SAFETY: RAM that is mapped and nobody else's, for ever; any bytes are valid.
        let pages = unsafe { slice::from_raw_parts_mut(start as *mut [u64; WORDS], pages as usize) };
        let period = match rate {
            0 => Duration::MAX,
            _ => BURST.max(Duration::from_micros(1_000_000 / rate)),
        };
        let pages_per_burst = ((u128::from(rate) * period.as_micros()) << 16) / 1_000_000;
        let pages_per_burst = if rate == 0 { 0 } else { u64::try_from(pages_per_burst).unwrap_or(u64::MAX) };
        Self { pages, period, pages_per_burst, owed: 0, due: Duration::ZERO, dirtied: 0, corrupt: false }
    }

    fn is_on(&self) -> bool {
        !self.pages.is_empty() && self.pages_per_burst > 0
    }

    /// Writes what is due by `now`.
    pub(crate) fn run(&mut self, now: Duration) {
        if !self.is_on() || now < self.due {
            return;
        }
        for _ in 0..MOST_LATE {
            self.owed += self.pages_per_burst;
            self.due += self.period;
            if now < self.due {
                break;
            }
        }
        if self.due <= now {
            self.due = now + self.period;
        }
        for _ in 0..self.owed >> 16 {
            self.rewrite();
        }
        self.owed &= 0xffff;
    }

    /// How long until the next burst is due.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        self.is_on().then(|| self.due.saturating_sub(now))
    }

    /// Pages written since boot.
    pub(crate) fn dirtied(&self) -> u64 {
        self.dirtied
    }

    /// Whether a page ever held something else than was written there.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    fn rewrite(&mut self) {
        let count = self.pages.len() as u64;
        let (pass, number) = (self.dirtied / count, self.dirtied % count);
        let page = &mut self.pages[number as usize];
        if let Some(last) = pass.checked_sub(1) {
            let mut word = seed(number, last);
            for held in page.iter() {
                self.corrupt |= *held != word;
                word = next(word);
            }
        }
        let mut word = seed(number, pass);
        for held in page.iter_mut() {
            *held = word;
            word = next(word);
        }
        self.dirtied += 1;
    }
}

/// Different for each page and each pass, and never 0.
fn seed(page: u64, pass: u64) -> u64 {
    (page << 32 ^ pass).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A step of Marsaglia's xorshift64.
fn next(mut word: u64) -> u64 {
    word ^= word << 13;
    word ^= word >> 7;
    word ^ word << 17
}
