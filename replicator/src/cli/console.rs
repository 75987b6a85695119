//! `console`: this terminal as the guest's serial console.
//!
//! A replicator that ends takes its console with it; the terminal stays attached and goes on when there is one again. A standby has a
//! console, too, which is silent until the guest runs there; then the terminal is told where it runs.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use kemari_control::{Client, Role, Status};
use kemari_vmm::Sink;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Failure;
use crate::config::Config;

/// Ctrl-], as telnet(1) has it.
const ESCAPE: u8 = 0x1d;
/// Between two attempts to attach.
const RETRY: Duration = Duration::from_millis(200);
/// After this without a word it is asked where the guest runs.
const SILENCE: Duration = Duration::from_secs(1);
/// A console that goes so soon, and has said nothing, did not take this terminal. A replicator may just be ending then, but not again
/// and again.
const AT_ONCE: Duration = Duration::from_secs(1);
const HANG_UPS_MAX: u32 = 3;
const HUNG_UP_ON: &str = "the replicator hangs up: another terminal is attached, and only one can be at a time";

/// Attaches to the console until the operator leaves it, or input ends.
pub(super) fn attach(config: &Config) -> Result<(), Failure> {
    let sink = &config.console.sink;
    let mut line = Some(Line::open(sink)?);
    let terminal = RawTerminal::enter()?;
    let tell = |what: &str| tell(terminal.is_some(), what);
    // Not through Rust's buffer, of which poll(2) knows nothing.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut place = Place { control: &config.node.control, told: None };
    let mut hang_ups = 0;
    tell("attached; leave with Ctrl-]");
    loop {
        match &mut line {
            Some(open) => {
                let (typed, said) = wait(Some(&open.console), SILENCE)?;
                if typed && !pass_on(&mut input, &mut open.console)? {
                    return Ok(());
                }
                if said && !open.show()? {
                    hang_ups = if open.was_hung_up_on() { hang_ups + 1 } else { 0 };
                    match hang_ups {
                        0 => tell("the console is gone; waiting for it to come back"),
                        HANG_UPS_MAX => return Err(HUNG_UP_ON.into()),
                        _ => {}
                    }
                    line = None;
                } else if !typed
                    && !said
                    && let Some(news) = place.news()
                {
                    tell(&news);
                }
            }
            None => {
                let (typed, _) = wait(None, RETRY)?;
                if typed && !pass_on(&mut input, &mut io::sink())? {
                    return Ok(());
                }
                line = Line::open(sink).ok();
                if line.is_some() && hang_ups == 0 {
                    tell("attached again");
                    place.told = None;
                }
            }
        }
    }
}

/// An open console.
struct Line {
    console: File,
    since: Instant,
    has_spoken: bool,
}

impl Line {
    fn open(sink: &Sink) -> Result<Line, Failure> {
        Ok(Line { console: open(sink)?, since: Instant::now(), has_spoken: false })
    }

    /// Shows what the guest has said. Returns whether the console is still there.
    fn show(&mut self) -> io::Result<bool> {
        let shown = show(&mut self.console)?;
        self.has_spoken |= shown;
        Ok(shown)
    }

    /// Of one that is gone: a replicator that serves another terminal says nothing, and does not wait.
    fn was_hung_up_on(&self) -> bool {
        !self.has_spoken && self.since.elapsed() < AT_ONCE
    }
}

/// Where the guest runs, as far as it was told.
struct Place<'a> {
    control: &'a Path,
    told: Option<String>,
}

impl Place<'_> {
    /// What is new of it. Nothing, while no replicator answers.
    fn news(&mut self) -> Option<String> {
        let status = Client::connect(self.control).and_then(|mut client| client.status()).ok()?;
        let now = where_it_runs(&status);
        let before = self.told.replace(now.clone());
        // That it runs where its console is need not be said, unless it was not so before.
        let is_news = before.as_ref().map_or(status.role == Role::Standby, |before| *before != now);
        is_news.then_some(now)
    }
}

fn where_it_runs(status: &Status) -> String {
    match (status.role, &status.peer) {
        (Role::Primary, _) => "the guest runs here".to_owned(),
        (Role::Standby, Some(peer)) => format!("the guest runs on {peer}; here it is heard from when it runs here"),
        (Role::Standby, None) => "the guest does not run here, and no primary is connected".to_owned(),
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

/// Waits for input, or for the console to have something, and not longer than `limit`. Returns which of them has.
fn wait(console: Option<&File>, limit: Duration) -> io::Result<(bool, bool)> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(&stdin, PollFlags::IN)];
    fds.extend(console.map(|console| PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN)));
    let limit =
        rustix::event::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
    match poll(&mut fds, Some(&limit)) {
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
