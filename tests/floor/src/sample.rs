//! The best of three medians.

use std::time::{Duration, Instant};

/// Series of samples, of which the best counts.
pub(crate) const SERIES: usize = 3;

/// How many samples make a median.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Of what takes microseconds.
    pub(crate) short: usize,
    /// Of what takes milliseconds to set up.
    pub(crate) long: usize,
    /// Bytes of a stream.
    pub(crate) stream_bytes: usize,
}

impl Effort {
    /// For figures to be quoted.
    pub(crate) const FULL: Effort = Effort { short: 500, long: 15, stream_bytes: 512 << 20 };
    /// For a look.
    pub(crate) const QUICK: Effort = Effort { short: 100, long: 5, stream_bytes: 128 << 20 };
}

/// The least of the medians of three series of `count` samples, in microseconds.
pub(crate) fn best_median_us<E>(count: usize, mut sample: impl FnMut() -> Result<Duration, E>) -> Result<f64, E> {
    let mut best = f64::INFINITY;
    for _ in 0..SERIES {
        let series = (0..count).map(|_| sample()).collect::<Result<Vec<_>, _>>()?;
        best = best.min(median_us(series));
    }
    Ok(best)
}

/// The same for samples taken already, cut into three series.
pub(crate) fn best_median_of(samples: &[Duration]) -> f64 {
    samples
        .chunks(samples.len().div_ceil(SERIES).max(1))
        .map(|series| median_us(series.to_vec()))
        .fold(f64::INFINITY, f64::min)
}

/// How long `work` takes.
pub(crate) fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// The median of a series, in microseconds.
pub(crate) fn median_us(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).map_or(f64::INFINITY, |median| median.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_series_does_not_count() {
        let us = Duration::from_micros;
        let samples = [us(90), us(5), us(80), us(7), us(1), us(9), us(60), us(50), us(70)];
        assert_eq!(best_median_of(&samples).round() as u64, 7);
        let mut all = samples.into_iter();
        let best = best_median_us(3, || all.next().ok_or(())).expect("nine samples");
        assert_eq!(best.round() as u64, 7);
    }
}
