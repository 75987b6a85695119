//! What the checkpoints of this primary cost, over a sliding window.

use std::time::{Duration, Instant};

use kemari_control::Figure;

/// Samples kept per figure: at a thousand checkpoints a second, the last two seconds.
const WINDOW: usize = 2048;

/// The newest samples of one figure.
#[derive(Debug, Default)]
pub(crate) struct Window {
    samples: Vec<u64>,
    next: usize,
}

impl Window {
    /// Adds a sample, forgetting the oldest when the window is full.
    pub(crate) fn record(&mut self, sample: u64) {
        if self.samples.len() < WINDOW {
            self.samples.push(sample);
        } else {
            self.samples[self.next] = sample;
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// The newest sample; zero if there is none.
    pub(crate) fn last(&self) -> u64 {
        match self.samples.len() {
            0 => 0,
            length => self.samples[(self.next + WINDOW - 1) % WINDOW % length],
        }
    }

    /// The newest sample, and the 50th and 99th percentile; zeros if there is none.
    pub(crate) fn summary(&self) -> Figure {
        let Some(end) = self.samples.len().checked_sub(1) else { return Figure::default() };
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        Figure { last: self.last(), p50: sorted[end / 2], p99: sorted[end * 99 / 100] }
    }
}

/// Per checkpoint: how long the guest stood still, what was sent, and how long until it was committed.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Checkpoints cut since this node became primary.
    pub(crate) checkpoints: u64,
    /// Guest paused, µs.
    pub(crate) pause_us: Window,
    /// Of that, until every vCPU had stopped and saved its registers, µs.
    pub(crate) stop_us: Window,
    /// To encrypt the checkpoint and give it to the kernel, as far as that took it at once, µs.
    pub(crate) encode_us: Window,
    /// Pages in the checkpoint.
    pub(crate) dirty_pages: Window,
    /// Bytes sent for it, before encryption.
    pub(crate) sent_bytes: Window,
    /// From the end of the cut to the acknowledgement, µs.
    pub(crate) commit_us: Window,
    /// How long the oldest output of the checkpoint had been held when it was released, µs.
    pub(crate) hold_us: Window,
    rate: Rate,
}

impl Metrics {
    /// Counts a checkpoint cut at `now`.
    pub(crate) fn count(&mut self, now: Instant) {
        self.checkpoints += 1;
        self.rate.count(now);
    }

    /// Checkpoints a second, over the last full second.
    pub(crate) fn rate_per_second(&self, now: Instant) -> f64 {
        self.rate.per_second(now)
    }
}

/// Counts events in whole seconds.
#[derive(Debug, Default)]
struct Rate {
    second: Option<Instant>,
    count: u64,
    previous: f64,
}

impl Rate {
    fn count(&mut self, now: Instant) {
        let begun = *self.second.get_or_insert(now);
        let elapsed = now.saturating_duration_since(begun);
        if elapsed >= Duration::from_secs(1) {
            self.previous = self.count as f64 / elapsed.as_secs_f64();
            self.second = Some(now);
            self.count = 0;
        }
        self.count += 1;
    }

    fn per_second(&self, now: Instant) -> f64 {
        let Some(begun) = self.second else { return 0.0 };
        let elapsed = now.saturating_duration_since(begun);
        if elapsed >= Duration::from_secs(1) { self.count as f64 / elapsed.as_secs_f64() } else { self.previous }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_the_oldest() {
        let mut window = Window::default();
        assert_eq!(window.summary(), Figure::default());
        for sample in 0..100 {
            window.record(sample);
        }
        assert_eq!(window.summary(), Figure { last: 99, p50: 49, p99: 98 });
        for _ in 0..WINDOW {
            window.record(7);
        }
        assert_eq!(window.summary(), Figure { last: 7, p50: 7, p99: 7 });
    }

    #[test]
    fn the_rate_is_of_whole_seconds() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for tick in 0..=100 {
            rate.count(start + Duration::from_millis(tick * 10));
        }
        assert!((rate.per_second(start + Duration::from_millis(1500)) - 100.0).abs() < 1.0);
        assert!(rate.per_second(start + Duration::from_secs(1000)) < 1.0);
    }
}
