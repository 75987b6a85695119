//! The replicator's process, for when it does not answer.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::environment::Environment;
use crate::cluster::timespec;

/// Why a replicator that is there is of no use.
pub(super) const DEAF: &str = "the replicator runs, but does not answer";

/// A process that cannot become another one while this is held.
pub(super) struct Process(OwnedFd);

/// Finds the replicator of this guest among all processes: by its program's arguments, since it may not answer, and a number in
/// a file may be another process's by now. In a container, or beside one, the same arguments may be another host's.
pub(super) fn find(environment: &Environment) -> Option<Process> {
    let config = environment.guest.config.to_string_lossy();
    let host = fs::read_link("/proc/self/ns/mnt").ok()?;
    // Not by its program's place: that is a parameter, which may have been changed since.
    let wanted =
        |words: &[&str]| words.get(1) == Some(&"run") && words.windows(2).any(|pair| pair == ["--config", &*config]);
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let is_it = || {
            let bytes = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let words: Vec<&str> = text.split('\0').collect();
            fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|of| of == host) && wanted(&words)
        };
        // Looked at again with the pidfd in hand: from there on it is this process or none.
        if is_it()
            && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && is_it()
        {
            return Some(Process(pidfd));
        }
    }
    None
}

impl Process {
    /// Sends a signal. That the process has ended meanwhile is no failure.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.0, signal)
            && error != rustix::io::Errno::SRCH
        {
            eprintln!("cannot signal the replicator: {error}");
        }
    }

    /// Waits for its end. Returns whether it has ended.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        matches!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timespec(limit))), Ok(1..))
    }
}
