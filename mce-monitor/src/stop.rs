//! Ends the monitor that runs, even if it is stuck.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long it may take to connect to a process that may be stuck.
const CONNECT: Duration = Duration::from_secs(1);

/// Why it is not known to have ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StopError {
    /// Nobody knows who listens.
    #[error("{}: {source}; find out who listens there with `ss -lxp`", path.display())]
    Find {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be ended.
    #[error("process {pid}: {source}")]
    Signal {
        /// Who listens.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// It does not end.
    #[error("process {pid} was killed, and is still there after {} s; the kernel must be waiting for a device", limit.as_secs())]
    Stuck {
        /// Who listens.
        pid: i32,
        /// How long it was waited for.
        limit: Duration,
    },
}

/// Ends who listens at `path`: in order if it does that within half of `limit`, else by SIGKILL. Returns whether there was anybody;
/// there is nobody any more.
pub(crate) fn stop(path: &Path, limit: Duration) -> Result<bool, StopError> {
    let began = Instant::now();
    let find = |source| StopError::Find { path: path.to_owned(), source };
    let Some((pid, process)) = listener(path).map_err(find)? else { return Ok(false) };
    let signal = |source: Errno| StopError::Signal { pid: pid.as_raw_nonzero().get(), source: source.into() };
    for (name, by) in [(Signal::TERM, limit / 2), (Signal::KILL, limit)] {
        match pidfd_send_signal(&process, name) {
            Ok(()) => {}
            // It is gone already.
            Err(Errno::SRCH) => return Ok(true),
            Err(error) => return Err(signal(error)),
        }
        if has_ended(&process, by.saturating_sub(began.elapsed())).map_err(signal)? {
            return Ok(true);
        }
    }
    Err(StopError::Stuck { pid: pid.as_raw_nonzero().get(), limit })
}

/// Who listens at `path`, held so that no other process can take its number.
fn listener(path: &Path) -> io::Result<Option<(Pid, OwnedFd)>> {
    let Some(pid) = number_of_listener(path)? else { return Ok(None) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // If it still listens now that it is held, it is the one.
    Ok((number_of_listener(path)? == Some(pid)).then_some((pid, process)))
}

/// The number of the process that listens at `path`, which need not be able to answer (SO_PEERCRED in unix(7)).
fn number_of_listener(path: &Path) -> io::Result<Option<Pid>> {
    match kemari_control::connect(path, CONNECT) {
        Ok(stream) => Ok(Some(socket_peercred(&stream)?.pid)),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until a process has ended.
fn has_ended(process: &OwnedFd, limit: Duration) -> Result<bool, Errno> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut ready = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
