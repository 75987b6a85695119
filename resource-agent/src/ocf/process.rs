//! The replicator's process, for when it does not answer.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
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
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let is_it = || is_replicator(&entry.path(), &config, &host);
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

/// Whether the process, by its directory in `/proc`, runs with that configuration in the mount namespace `host`.
///
/// Each of its threads is asked. One that has ended by itself or was killed, but has a thread with a disk request that the kernel does
/// not finish, is there, and may still write; but its first thread has no arguments any more.
fn is_replicator(process: &Path, config: &str, host: &Path) -> bool {
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path()).any(|thread| {
        let bytes = fs::read(thread.join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<&str> = text.split('\0').collect();
        // Not by its program's place: that is a parameter, which may have been changed since.
        words.get(1) == Some(&"run")
            && words.windows(2).any(|pair| pair == ["--config", config])
            && fs::read_link(thread.join("ns/mnt")).is_ok_and(|of| of == host)
    })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A thread as `/proc` shows it.
    fn thread(process: &Path, id: u32, arguments: &[&str], namespace: Option<&str>) {
        let path = process.join(format!("task/{id}"));
        fs::create_dir_all(path.join("ns")).expect("writable");
        fs::write(path.join("cmdline"), arguments.iter().map(|word| format!("{word}\0")).collect::<String>())
            .expect("writable");
        if let Some(target) = namespace {
            symlink(target, path.join("ns/mnt")).expect("writable");
        }
    }

    #[test]
    fn a_process_is_known_by_its_arguments_for_as_long_as_a_thread_of_it_is_left() {
        let config = "/etc/kemari/web.toml";
        let arguments = ["/usr/sbin/kemari-replicator", "run", "--config", config];
        let found = |threads: &[(&[&str], Option<&str>)]| {
            let process = tempfile::tempdir().expect("temporary directory");
            (1..)
                .zip(threads)
                .for_each(|(id, (arguments, namespace))| thread(process.path(), id, arguments, *namespace));
            is_replicator(process.path(), config, Path::new("mnt:[1]"))
        };
        assert!(found(&[(&arguments, Some("mnt:[1]"))]));
        // As the kernel shows one whose first thread has ended.
        assert!(found(&[(&[], None), (&arguments, Some("mnt:[1]"))]));
        assert!(!found(&[(&[], None)]), "none is left");
        assert!(!found(&[(&arguments, Some("mnt:[2]"))]), "another host's");
        assert!(!found(&[(&["kemari-replicator", "status", "--config", config], Some("mnt:[1]"))]));
        assert!(!found(&[(&["kemari-replicator", "run", "--config", "/etc/kemari/db.toml"], Some("mnt:[1]"))]));
    }
}
