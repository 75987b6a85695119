//! How long the host may take for a request that it has begun.

use std::io;
use std::os::fd::RawFd;

use super::DiskFailure;
use super::worker::RequestId;
use crate::timer::Timer;

const TICKS_A_SECOND: u32 = 2;

/// Counts the time that the I/O thread works on one and the same request.
#[derive(Debug)]
pub(super) struct Patience {
    timeout_s: u32,
    timer: Timer,
    /// What the thread worked on at the last tick, and how many went by since the first of them.
    watched: Option<RequestId>,
    ticks: u32,
}

impl Patience {
    pub(super) fn new(timeout_s: u32) -> io::Result<Patience> {
        Ok(Patience { timeout_s, timer: Timer::new(1000 / TICKS_A_SECOND)?, watched: None, ticks: 0 })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.timer.fd()
    }

    /// The thread has something to do.
    pub(super) fn watch(&mut self) {
        self.timer.set(true);
    }

    /// Looks at what the thread works on. Says what is wrong when it has been the same for too long, and again each time that as much
    /// has gone by.
    pub(super) fn look(&mut self, begun: Option<RequestId>) -> Option<DiskFailure> {
        if !self.timer.has_ticked() {
            return None;
        }
        self.timer.set(begun.is_some());
        self.tick(begun).then_some(DiskFailure::Overdue { timeout_s: self.timeout_s })
    }

    fn tick(&mut self, begun: Option<RequestId>) -> bool {
        if begun.is_none() || begun != self.watched {
            (self.watched, self.ticks) = (begun, 0);
            return false;
        }
        self.ticks += 1;
        self.ticks.is_multiple_of(self.timeout_s * TICKS_A_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_may_not_take_for_ever_and_many_may() {
        let mut patience = Patience::new(2).expect("a timer");
        let mut ticks =
            |id: Option<u64>, count| (0..count).map(|_| patience.tick(id.map(RequestId))).collect::<Vec<_>>();
        assert!((0..100).all(|id| !ticks(Some(id), 4).contains(&true)));
        assert!(!ticks(None, 100).contains(&true));
        let overdue = ticks(Some(100), 13);
        let at: Vec<usize> = (0..13).filter(|tick| overdue[*tick]).collect();
        assert_eq!(at, [4, 8, 12], "after two seconds, and every two from then on");
    }
}
