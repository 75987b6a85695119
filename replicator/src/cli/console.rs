//! `console`: this terminal as the guest's serial console.
//!
//! A replicator that ends takes its console with it; the terminal stays attached and goes on when there is one again.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kemari_vmm::Sink;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Failure;
use crate::config::Config;

/// Ctrl-], as telnet(1) has it.
const ESCAPE: u8 = 0x1d;
/// Between two attempts to attach.
const RETRY: Duration = Duration::from_millis(200);

/// Attaches to the console until the operator leaves it, or input ends.
pub(super) fn attach(config: &Config) -> Result<(), Failure> {
    let sink = &config.console.sink;
    let mut console = Some(open(sink)?);
    let terminal = RawTerminal::enter()?;
    // Not through Rust's buffer, of which poll(2) knows nothing.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    tell(terminal.is_some(), "attached; leave with Ctrl-]");
    loop {
        match &mut console {
            Some(open) => {
                let (typed, shown) = wait(Some(open), None)?;
                if typed && !pass_on(&mut input, open)? {
                    return Ok(());
                }
                if shown && !show(open)? {
                    console = None;
                    tell(terminal.is_some(), "the console is gone; waiting for it to come back");
                }
            }
            None => {
                let (typed, _) = wait(None, Some(RETRY))?;
                if typed && !pass_on(&mut input, &mut io::sink())? {
                    return Ok(());
                }
                console = open(sink).ok();
                if console.is_some() {
                    tell(terminal.is_some(), "attached again");
                }
            }
        }
    }
}

fn open(sink: &Sink) -> Result<File, Failure> {
    let cannot = |path: &Path, error: io::Error| {
        format!("{}: {error}; is the replicator running? Only one can be attached at a time", path.display())
    };
    match sink {
        Sink::Socket(path) => {
            let stream = UnixStream::connect(path).map_err(|error| cannot(path, error))?;
            Ok(File::from(OwnedFd::from(stream)))
        }
        Sink::Pty(path) => {
            let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
            Ok(file.map_err(|error| cannot(path, error))?)
        }
        Sink::File(path) => Err(format!(
            "console.output = \"file:{}\": a file is read, not attached to; \"socket:PATH\" or \"pty:PATH\" is",
            path.display()
        )
        .into()),
        Sink::None => {
            Err("console.output = \"none\": there is nothing to attach to; set it to \"socket:PATH\" or \"pty:PATH\""
                .into())
        }
    }
}

/// Waits for input, or for the console to have something. Returns which of them has.
fn wait(console: Option<&File>, limit: Option<Duration>) -> io::Result<(bool, bool)> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(&stdin, PollFlags::IN)];
    fds.extend(console.map(|console| PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN)));
    let limit = limit.map(|limit| rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) });
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let has = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
    Ok((has(0), has(1)))
}

/// Passes on what was typed. Returns whether there can be more.
fn pass_on(mut input: impl Read, console: &mut impl Write) -> io::Result<bool> {
    let mut bytes = [0; 256];
    let count = input.read(&mut bytes)?;
    let typed = &bytes[..count];
    let end = typed.iter().position(|byte| *byte == ESCAPE);
    // A console that is just going takes nothing; that it is gone is seen by reading it.
    let _ = console.write_all(&typed[..end.unwrap_or(count)]);
    Ok(count > 0 && end.is_none())
}

/// Shows what the guest has said. Returns whether the console is still there.
fn show(console: &mut impl Read) -> io::Result<bool> {
    let mut bytes = [0; 4096];
    // A pseudo-terminal whose other end is closed says EIO.
    let count = console.read(&mut bytes).unwrap_or(0);
    let mut out = io::stdout().lock();
    out.write_all(&bytes[..count])?;
    out.flush()?;
    Ok(count > 0)
}

/// What is said to a person is not part of what the guest says.
fn tell(is_terminal: bool, what: &str) {
    let end = if is_terminal { "\r\n" } else { "\n" };
    eprint!("[{what}]{end}");
}

/// A terminal that passes on every key as it is, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if input is no terminal.
    fn enter() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(RawTerminal(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.0) {
            eprintln!("kemari-replicator: the terminal cannot be put back ({error}); `reset` does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_up_to_the_escape_is_passed_on() {
        let mut console = Vec::new();
        assert!(pass_on(&b"ls\r\x03"[..], &mut console).expect("bytes"));
        assert!(!pass_on(&b"exit\x1drest"[..], &mut console).expect("bytes"));
        assert!(!pass_on(&b""[..], &mut console).expect("bytes"));
        assert_eq!(console, b"ls\r\x03exit");
    }
}
