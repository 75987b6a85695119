//! What ticks: a timerfd that the event loop polls.
//!
//! Who counts time by it counts one tick each time it looks, however many there were: while the event loop does not come by, the process
//! is stopped or its host stalled, and that is nobody's fault here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that stands still until it is [set](Timer::set) going.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    tick_ms: u32,
    runs: bool,
}

impl Timer {
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn new(tick_ms: u32) -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Timer { fd: timerfd_create(TimerfdClockId::Monotonic, flags)?, tick_ms, runs: false })
    }

    /// To be polled.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Sets it going, or has it stand still; costs nothing if it is so already.
    pub(crate) fn set(&mut self, runs: bool) {
        if std::mem::replace(&mut self.runs, runs) == runs {
            return;
        }
        let (tv_sec, tv_nsec) = (i64::from(self.tick_ms / 1000), i64::from(self.tick_ms % 1000) * 1_000_000);
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let next = if runs { Timespec { tv_sec, tv_nsec } } else { never };
        let spec = Itimerspec { it_interval: next, it_value: next };
        if let Err(error) = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec) {
            log::error!("a timer cannot be set: {error}");
        }
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// Whether there was a tick, or several.
    pub(crate) fn has_ticked(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.fd, &mut count).is_ok()
    }
}
