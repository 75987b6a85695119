//! A timer of the guest's kernel that is armed at one time and seen to expire at another.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::clocks::clock_ns;

/// One expiry, by CLOCK_MONOTONIC.
pub(crate) struct Timer {
    due_ns: u64,
    expired_ns: Arc<OnceLock<u64>>,
}

impl Timer {
    /// To expire after so long.
    pub(crate) fn arm(after: Duration) -> io::Result<Timer> {
        // SAFETY: makes a descriptor.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is ours alone.
        let mut timer = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let due_ns = clock_ns(libc::CLOCK_MONOTONIC) + after.as_nanos() as u64;
        let due = libc::timespec { tv_sec: (due_ns / 1_000_000_000) as i64, tv_nsec: (due_ns % 1_000_000_000) as i64 };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: due };
        // SAFETY: reads `once`; with a null pointer the kernel writes nothing.
        if unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &raw const once, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let expired_ns = Arc::new(OnceLock::new());
        let seen = Arc::clone(&expired_ns);
        thread::spawn(move || {
            if timer.read_exact(&mut [0; 8]).is_ok() {
                let _ = seen.set(clock_ns(libc::CLOCK_MONOTONIC));
            }
        });
        Ok(Timer { due_ns, expired_ns })
    }

    /// How late it was; none while it is pending. Less than 0 if it was early.
    pub(crate) fn late_ns(&self) -> Option<i64> {
        self.expired_ns.get().map(|expired_ns| expired_ns.wrapping_sub(self.due_ns).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_pending_until_it_expires() {
        let timer = Timer::arm(Duration::from_millis(50)).expect("a timer");
        assert_eq!(timer.late_ns(), None);
        thread::sleep(Duration::from_millis(500));
        let late_ns = timer.late_ns().expect("expired");
        assert!((0..450_000_000).contains(&late_ns), "{late_ns}");
    }
}
