//! The handler: a program that asks the cluster on behalf of this node.
//!
//! It is called as `PROGRAM ARGUMENT... VERB --guest G --node N ...` and answers by its exit status: 0 yes, 1 no with the reason
//! as the last line on stderr. Whatever else happens to it, what it did is not known. Its verbs can be repeated: if what is
//! asked for is already so, that is a yes.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kemari_core::{Epoch, Generation};
use wait_timeout::ChildExt;

use super::{AuthorityError, Parting, Question};

/// How long the handler may take. A command of Pacemaker takes some 10 ms, seconds while the cluster elects.
const LIMIT: Duration = Duration::from_secs(20);
/// What is read of what it says.
const OUTPUT_BYTES: u64 = 4096;

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
            .spawn()
            .map_err(|error| AuthorityError::Denied(format!("the handler cannot be run: {program}: {error}")))?;
        let status = match child.wait_timeout(LIMIT).map_err(failed)? {
            Some(status) => status,
            None => {
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                return Err(AuthorityError::Unknown(format!(
                    "{program} {verb} took longer than {} s",
                    LIMIT.as_secs()
                )));
            }
        };
        let (said, complaint) = output(&mut child).map_err(failed)?;
        match status.code() {
            Some(0) => Ok(said),
            Some(1) => Err(AuthorityError::Denied(complaint)),
            _ => Err(AuthorityError::Unknown(format!("{program} {verb} ended with {status}: {complaint}"))),
        }
    }
}

/// What a child that has ended wrote to stdout, and its last line on stderr.
fn output(child: &mut Child) -> io::Result<(String, String)> {
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES).read_to_end(&mut said)?;
    }
    if let Some(stderr) = child.stderr.take() {
        stderr.take(OUTPUT_BYTES).read_to_end(&mut complaint)?;
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
    Ok((String::from_utf8_lossy(&said).trim().to_owned(), last.to_owned()))
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
