//! Pacemaker's commands as child processes, each with a time limit.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

/// Most of a command's output that is kept, on either stream. A CIB of a large cluster is below this.
const OUTPUT_BYTES: usize = 16 << 20;

/// Why a command has no answer. None of these says anything about whether it took effect.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started.
    #[error("{program}: {source}; is Pacemaker installed, and is this run as root?")]
    Start {
        /// The command.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program}: no answer in {} s", limit.as_secs_f32())]
    Late {
        /// The command.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// It cannot be waited for.
    #[error("{program}: {source}")]
    Wait {
        /// The command.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a command left behind.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Its exit status; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for Outcome {
    /// How it ended, and its last words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "exit status {code}")?,
            None => write!(f, "ended by a signal")?,
        }
        match last_line(&self.stderr) {
            "" => Ok(()),
            line => write!(f, " ({line})"),
        }
    }
}

/// The last line of `text` that says something.
pub(crate) fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Runs a command to its end, or to the end of its time.
pub(crate) fn run(program: &str, arguments: &[&str], limit: Duration) -> Result<Outcome, CommandError> {
    let start = |source| CommandError::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    // SAFETY: the closure makes one system call and allocates nothing, as it must between fork and exec.
    unsafe { command.pre_exec(die_with_parent) };
    let mut child = command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let followed = follow(&mut child, Instant::now() + limit);
    if !matches!(followed, Ok(Some(_))) {
        // It may have ended since: then there is nothing to kill, and the wait below takes it away all the same.
        let _ = child.kill();
    }
    let wait = |source| CommandError::Wait { program: program.to_owned(), source };
    let code = child.wait().map_err(wait)?.code();
    match followed.map_err(wait)? {
        Some((stdout, stderr)) => Ok(Outcome { code, stdout, stderr }),
        None => Err(CommandError::Late { program: program.to_owned(), limit }),
    }
}

/// A change that nobody waits for any more must not be made: whoever asked for it takes it for not made, and does otherwise.
fn die_with_parent() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into)
}

/// Collects what `child` says until it has ended; none if it has not by the deadline.
///
/// Its end is told by its pidfd, not by the end of its output, which a process it left behind may keep open.
fn follow(child: &mut Child, deadline: Instant) -> io::Result<Option<(String, String)>> {
    let pidfd = pidfd_open(pid_of(child), PidfdFlags::empty())?;
    let mut stdout = Stream::new(child.stdout.take())?;
    let mut stderr = Stream::new(child.stderr.take())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stdout.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(stderr.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        stdout.drain()?;
        stderr.drain()?;
        if ended {
            return Ok(Some((stdout.text(), stderr.text())));
        }
    }
}

/// The pid of a child that has not been waited for.
pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// `duration` as poll(2) wants it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// One of a child's output streams.
struct Stream<P> {
    /// None once it has ended.
    pipe: Option<P>,
    bytes: Vec<u8>,
}

trait Pipe: Read + rustix::fd::AsFd {}
impl Pipe for ChildStdout {}
impl Pipe for ChildStderr {}

impl<P: Pipe> Stream<P> {
    fn new(pipe: Option<P>) -> io::Result<Stream<P>> {
        if let Some(pipe) = &pipe {
            fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(Stream { pipe, bytes: Vec::new() })
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = OUTPUT_BYTES - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let outcome = run("sh", &["-c", "echo out; echo one >&2; echo two >&2; exit 7"], Duration::from_secs(5))
            .expect("sh is there");
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(7), "out\n"));
        assert_eq!(outcome.to_string(), "exit status 7 (two)");
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let outcome = run("sh", &["-c", "seq 100000"], Duration::from_secs(10)).expect("sh is there");
        assert!(outcome.succeeded());
        assert_eq!(last_line(&outcome.stdout), "100000");
    }

    #[test]
    fn a_command_that_hangs_is_killed_in_time() {
        let begun = Instant::now();
        let error = run("sleep", &["60"], Duration::from_millis(100)).expect_err("a minute is too long");
        assert!(matches!(error, CommandError::Late { .. }));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_a_command_left_running_is_not_waited_for() {
        let begun = Instant::now();
        let outcome = run("sh", &["-c", "sleep 5 & echo done"], Duration::from_secs(4)).expect("sh is there");
        assert_eq!(outcome.stdout, "done\n");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = run("/nonexistent/cibadmin", &[], Duration::from_secs(1)).expect_err("not there");
        assert!(error.to_string().starts_with("/nonexistent/cibadmin: "));
    }
}
