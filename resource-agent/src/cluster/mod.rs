//! The cluster as its own commands show it.
//!
//! Nothing here decides anything. Reading is parsing of what a command printed (pure, and tested with what Pacemaker 2.1.5
//! printed); each command has a time limit.

mod attributes;
mod cib;
mod command;
mod intention;
mod membership;

use std::time::Duration;

pub(crate) use attributes::Attributes;
pub(crate) use cib::{RecordDoor, Stored, Swap};
pub use command::CommandError;
pub(crate) use command::{run, timespec};
pub(crate) use intention::Intention;
pub(crate) use membership::{Membership, Standing};

/// What a command of Pacemaker may take. Each answers within 30 ms on an idle cluster; an election takes seconds.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Why nothing is known about the cluster, or about what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A command did not come to its end.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A command failed.
    #[error("{command}: {outcome}; `crm_mon -1` shows whether the cluster runs on this node")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        outcome: String,
    },
    /// A command printed what cannot be read.
    #[error("{command} printed what is not understood: {reason}")]
    Unreadable {
        /// What was run.
        command: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Runs a command that must succeed, and returns what it printed.
fn answer_of(program: &str, arguments: &[&str]) -> Result<String, ClusterError> {
    let outcome = run(program, arguments, COMMAND_LIMIT)?;
    if outcome.succeeded() { Ok(outcome.stdout) } else { Err(failed(program, &outcome)) }
}

fn failed(program: &str, outcome: &command::Outcome) -> ClusterError {
    ClusterError::Failed { command: program.to_owned(), outcome: outcome.to_string() }
}

/// Reports that `resource` has failed on `node`, so that Pacemaker need not wait for its next monitor.
pub(crate) fn report_failure(resource: &str, node: &str) -> Result<(), ClusterError> {
    answer_of("crm_resource", &["--fail", "--resource", resource, "--node", node]).map(drop)
}

/// Parses what `command` printed.
fn parse<'a>(command: &'static str, text: &'a str) -> Result<roxmltree::Document<'a>, ClusterError> {
    roxmltree::Document::parse(text).map_err(|error| ClusterError::Unreadable { command, reason: error.to_string() })
}
