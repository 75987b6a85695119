//! The handler: a program that asks the cluster on behalf of this node.
//!
//! It is called as `PROGRAM ARGUMENT... VERB --guest G --node N ...` and answers by its exit status: 0 yes, 1 no with the reason
//! as the last line on stderr. Whatever else happens to it, what it did is not known. Its verbs can be repeated: if what is
//! asked for is already so, that is a yes.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use kemari_core::{Epoch, Generation};
use wait_timeout::ChildExt;

use super::{AuthorityError, Parting, Question};

/// How long the handler may take. A command of Pacemaker takes some 10 ms, seconds while the cluster elects.
const LIMIT: Duration = Duration::from_secs(20);
/// What is kept of what it says.
const OUTPUT_BYTES: usize = 4096;
/// How long its last words may be on their way once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The program, and for whom it asks.
#[derive(Clone, Debug)]
pub struct Handler {
    command: Vec<String>,
    guest: String,
    node: String,
}

impl Handler {
    /// A handler from its command line, in which blanks part the words.
    ///
    /// Returns `None` if that is empty.
    #[must_use]
    pub fn new(command: &str, guest: &str, node: &str) -> Option<Handler> {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        (!command.is_empty()).then(|| Handler { command, guest: guest.to_owned(), node: node.to_owned() })
    }

    /// Asks for a generation that is to follow: `from` to `to`, or one with the id of `to` and a higher number.
    ///
    /// # Errors
    /// It says no, or what it did is not known.
    pub(super) fn grant(
        &self,
        question: &Question,
        from: Generation,
        to: Generation,
        first: bool,
    ) -> Result<Generation, AuthorityError> {
        let mut arguments = Vec::new();
        let verb = match question {
            Question::Promote { peer, handed_over, .. } => {
                option(&mut arguments, "--peer", peer.clone());
                flag(&mut arguments, "--handed-over", *handed_over);
                "promote"
            }
            _ => {
                flag(&mut arguments, "--first", first);
                flag(&mut arguments, "--insist", matches!(question, Question::Boot { insist: true }));
                "boot"
            }
        };
        option(&mut arguments, "--from", Some(from.to_string()));
        option(&mut arguments, "--to", Some(to.to_string()));
        let said = self.call(verb, &arguments)?;
        let Some(line) = said.lines().last().filter(|line| !line.is_empty()) else { return Ok(to) };
        match line.parse() {
            Ok(granted) if granted == to || Generation::is_newer_than(granted, to) => Ok(granted),
            _ => Err(AuthorityError::Unknown(format!("the handler grants {line:?}, which is not what was asked for"))),
        }
    }

    /// Asks whether the primary of `generation`, in which `epoch` is in progress, may go on without `peer`.
    ///
    /// # Errors
    /// It says no, or what it did is not known.
    pub(super) fn alone(
        &self,
        generation: Generation,
        epoch: Epoch,
        peer: Option<&str>,
        parting: Parting,
        insist: bool,
    ) -> Result<(), AuthorityError> {
        let mut arguments = Vec::new();
        option(&mut arguments, "--generation", Some(generation.to_string()));
        option(&mut arguments, "--epoch", Some(epoch.to_string()));
        option(&mut arguments, "--peer", peer.map(str::to_owned));
        let how = match parting {
            Parting::Lost => "lost",
            Parting::Left => "left",
        };
        option(&mut arguments, "--how", Some(how.to_owned()));
        flag(&mut arguments, "--insist", insist);
        self.call("alone", &arguments).map(drop)
    }

    /// Has `peer` named beside this node, the primary of `generation`.
    ///
    /// # Errors
    /// It says no, or what it did is not known.
    pub(super) fn protect(&self, generation: Generation, peer: &str) -> Result<(), AuthorityError> {
        let mut arguments = Vec::new();
        option(&mut arguments, "--generation", Some(generation.to_string()));
        option(&mut arguments, "--peer", Some(peer.to_owned()));
        self.call("protect", &arguments).map(drop)
    }

    /// Calls it. Returns what it has written to stdout.
    fn call(&self, verb: &str, arguments: &[String]) -> Result<String, AuthorityError> {
        let Some((program, first_arguments)) = self.command.split_first() else {
            return Err(AuthorityError::Denied("there is no handler".to_owned()));
        };
        let failed = |error: io::Error| AuthorityError::Unknown(format!("{program}: {error}"));
        let mut child = Command::new(program)
            .args(first_arguments)
            .args([verb, "--guest", &self.guest, "--node", &self.node])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With all that it starts, so that nothing it has begun goes on when it is given up.
            .process_group(0)
            .spawn()
            .map_err(|error| AuthorityError::Denied(format!("the handler cannot be run: {program}: {error}")))?;
        let said = child.stdout.take().map(listen);
        let complaint = child.stderr.take().map(listen);
        let status = match child.wait_timeout(LIMIT).map_err(failed)? {
            Some(status) => status,
            None => {
                end_group(&child);
                child.wait().map_err(failed)?;
                return Err(AuthorityError::Unknown(format!(
                    "{program} {verb} took longer than {} s",
                    LIMIT.as_secs()
                )));
            }
        };
        let said = heard(said).trim().to_owned();
        let complaint = heard(complaint);
        let complaint = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
        let complaint = complaint.to_owned();
        match status.code() {
            Some(0) => Ok(said),
            Some(1) => Err(AuthorityError::Denied(complaint)),
            _ => Err(AuthorityError::Unknown(format!("{program} {verb} ended with {status}: {complaint}"))),
        }
    }
}

/// Reads to the end, in a thread: a child that says more than a pipe holds must not stand still, and its end is told by its exit
/// and not by that of its output, which a process that it left behind may keep open.
fn listen(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; OUTPUT_BYTES];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    heard
}

/// The last of what was said.
fn heard(pieces: Option<Receiver<Vec<u8>>>) -> String {
    let mut text = Vec::new();
    while let Some(piece) = pieces.as_ref().and_then(|pieces| pieces.recv_timeout(LAST_WORDS).ok()) {
        text.extend(piece);
        text.drain(..text.len().saturating_sub(OUTPUT_BYTES));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Kills a child that leads a process group of its own, and all that are in it.
fn end_group(child: &Child) {
    let Ok(group) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: kill(2) touches no memory. The child was not waited for, so the number is its own. That it has ended is no failure.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn option(arguments: &mut Vec<String>, name: &str, value: Option<String>) {
    if let Some(value) = value {
        arguments.extend([name.to_owned(), value]);
    }
}

fn flag(arguments: &mut Vec<String>, name: &str, set: bool) {
    if set {
        arguments.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// What a handler that is this shell script answers.
    fn answer(script: &str) -> Result<String, AuthorityError> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("handler");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("writable");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its own file");
        let handler = Handler::new(&program.to_string_lossy(), "web", "alpha").expect("a command");
        handler.call("boot", &[])
    }

    #[test]
    fn the_last_line_is_the_reason_and_anything_but_yes_and_no_is_not_known() {
        assert_eq!(answer("echo 7-1").expect("yes"), "7-1");
        let no = answer("echo first >&2; echo last >&2; exit 1").expect_err("no");
        assert!(matches!(no, AuthorityError::Denied(reason) if reason == "last"));
        for script in ["exit 3", "kill -9 $$"] {
            assert!(matches!(answer(script), Err(AuthorityError::Unknown(_))), "{script}");
        }
    }

    #[test]
    fn what_it_left_running_is_not_waited_for() {
        let begun = Instant::now();
        answer("sleep 30 & echo yes").expect("yes");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let no = answer("seq 100000 >&2; exit 1").expect_err("no");
        assert!(matches!(no, AuthorityError::Denied(reason) if reason == "100000"));
    }
}
