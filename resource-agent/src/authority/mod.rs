//! Who may speak: the handler that the replicator asks.
//!
//! One record in the CIB says which history of the guest is current and which nodes hold its data; it is changed only by
//! compare-and-swap. A node speaks only after the swap that lets it speak was won.

mod decide;
mod record;
mod refusal;
mod verbs;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kemari_core::Generation;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

pub(crate) use decide::{Boot, Decision, Facts, Promotion, boot, promote, reassert};
pub use record::{Record, RecordError};
pub(crate) use record::{name, parse_generation};
pub(crate) use verbs::held_elsewhere;

use crate::cluster::ClusterError;

/// Whether a primary that has lost its standby may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unprotected {
    /// Never: it waits for a standby.
    Never,
    /// Once the standby is known to be silent: outdated by its own word, fenced, or gone with a goodbye.
    Fenced,
    /// Also if nothing is known about it. May fork.
    Always,
}

/// What the operator has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(crate) struct Policy {
    /// Whether a primary that has lost its standby may go on; `always` may fork
    #[arg(long, value_enum, default_value = "fenced")]
    pub(crate) unprotected: Unprotected,
    /// Whether a disk of the guest is the same storage on both nodes
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value = "true")]
    pub(crate) shared_disk: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { unprotected: Unprotected::Fenced, shared_disk: true }
    }
}

/// A file with a policy in it, an argument a line. An action of the agent may replace it while the replicator runs.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct PolicyFile {
    #[command(flatten)]
    policy: Policy,
}

impl Policy {
    /// Reads one.
    ///
    /// # Errors
    /// It is not there, or not a policy.
    pub(crate) fn from_file(path: &Path) -> io::Result<Policy> {
        let text = std::fs::read_to_string(path)?;
        PolicyFile::try_parse_from(text.lines()).map(|file| file.policy).map_err(io::Error::other)
    }

    /// The same on a command line.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        let unprotected =
            self.unprotected.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        ["--unprotected".to_owned(), unprotected, "--shared-disk".to_owned(), self.shared_disk.to_string()].into()
    }
}

/// `kemari-agent authority`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    policy: Policy,
    /// A file with the two, an argument a line, which counts instead
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

/// What is asked.
#[derive(Debug, Subcommand)]
enum Verb {
    /// May this standby, which holds the newest image of a generation, become the primary of the next?
    Promote {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        step: Step,
        /// The other node
        #[arg(long, value_parser = name)]
        peer: Option<String>,
        /// It has demoted itself, and has said so
        #[arg(long, requires = "peer")]
        handed_over: bool,
    },
    /// May this node, which holds no image, boot the guest from its disk?
    Boot {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        step: Step,
        /// The guest was created here and never ran
        #[arg(long)]
        first: bool,
        /// By the operator's explicit command
        #[arg(long)]
        insist: bool,
    },
    /// May this primary go on without its standby?
    Alone {
        #[command(flatten)]
        who: Who,
        /// The standby, if there was one
        #[arg(long, value_parser = name)]
        peer: Option<String>,
        /// The generation of which this node is the primary
        #[arg(long, value_parser = parse_generation)]
        generation: Generation,
        /// The epoch in progress there, which no standby holds
        #[arg(long)]
        epoch: u64,
        /// How the standby was lost
        #[arg(long, value_enum)]
        how: Loss,
        /// By the operator's explicit command
        #[arg(long)]
        insist: bool,
    },
    /// Is it recorded that the standby holds everything and may be promoted?
    Protect {
        #[command(flatten)]
        who: Who,
        /// The standby
        #[arg(long, value_parser = name)]
        peer: String,
        /// The generation of which this node is the primary
        #[arg(long, value_parser = parse_generation)]
        generation: Generation,
    },
}

#[derive(Debug, Args)]
struct Who {
    /// The guest
    #[arg(long, value_parser = name)]
    guest: String,
    /// This node
    #[arg(long, value_parser = name)]
    node: String,
}

#[derive(Debug, Args)]
struct Step {
    /// The newest generation that this node knows
    #[arg(long, value_parser = parse_generation)]
    from: Generation,
    /// The generation that is to follow
    #[arg(long, value_parser = parse_generation)]
    to: Generation,
}

/// How a standby was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// It fell silent.
    Lost,
    /// It said goodbye.
    Left,
}

/// A certain answer.
#[derive(Debug)]
enum Answer {
    Yes,
    No(refusal::Refusal),
}

/// Exit status of an answer that is not certain.
const UNKNOWN: u8 = 3;

/// A replicator that is killed asks no more: whatever was granted to it then would be lost with it, and the guest that the other
/// node could still resume.
fn die_with_who_asks() {
    let parent = getppid();
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before that.
    if bound.is_err() || getppid() != parent {
        std::process::exit(UNKNOWN.into());
    }
}

/// Answers, with 0 for yes, 1 for no and 3 if it is not known; the reason is the last line on stderr.
pub(crate) fn run(options: &Options) -> ExitCode {
    die_with_who_asks();
    let policy = match options.policy_file.as_deref().map(Policy::from_file) {
        None => options.policy,
        Some(Ok(policy)) => policy,
        Some(Err(error)) => {
            eprintln!("the policy cannot be read: {error}");
            return ExitCode::from(UNKNOWN);
        }
    };
    match verbs::answer(&options.verb, policy) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No(refusal)) => {
            eprintln!("{refusal}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}", one_line(&error));
            ExitCode::from(UNKNOWN)
        }
    }
}

fn one_line(error: &ClusterError) -> String {
    error.to_string().replace('\n', " ")
}
