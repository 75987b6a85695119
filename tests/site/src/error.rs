//! What keeps a site from being made or from working. What the guest does wrong is a [`Violation`](crate::Violation).

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a site cannot be made, or a node not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not started by root.
    #[error("this needs root, to make a network namespace and taps and to use /dev/kvm; run it with sudo")]
    NotRoot,
    /// A device file that is missing or closed to us.
    #[error("{device}: {source}; {remedy}")]
    Device {
        /// Its path.
        device: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A step of building the network.
    #[error("cannot {step}: {source}")]
    Network {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No directory for the site's files.
    #[error(
        "no directory whose filesystem takes O_DIRECT, which shared disks are opened with (tried {tried}); name one with TMPDIR"
    )]
    NoDirectory {
        /// The directories and what was wrong with each.
        tried: String,
    },
    /// A file of the site.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The replicator's program could not be started.
    #[error("cannot start {}: {source}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command of the replicator failed.
    #[error("`kemari-replicator {command}` failed ({status}): {output}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// A node's process ended by itself.
    #[error("node {node} ended ({status}); its log ends with:\n{log}")]
    Ended {
        /// Which.
        node: String,
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// A node did not answer on its control socket.
    #[error("node {node}: {source}")]
    Control {
        /// Which.
        node: String,
        /// What the client said.
        source: kemari_control::ClientError,
    },
    /// A node's process cannot be signalled: it is gone.
    #[error("node {node} is gone: {source}")]
    Gone {
        /// Which.
        node: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A node refused a command.
    #[error("node {node} refused to {command}: {reason}")]
    Refused {
        /// Which.
        node: String,
        /// What was asked of it.
        command: String,
        /// Its answer.
        reason: String,
    },
    /// A node is not what it was waited for to become.
    #[error("node {node} is not {wanted} after {seconds} s; it says: {state}; its log ends with:\n{log}")]
    Timeout {
        /// Which.
        node: String,
        /// What was waited for.
        wanted: String,
        /// For how long.
        seconds: u64,
        /// What it is.
        state: String,
        /// The last lines of its log.
        log: String,
    },
    /// The guest's service does not answer.
    #[error("the guest's ledger does not answer within {seconds} s: {source}")]
    NoGuest {
        /// How long was waited.
        seconds: u64,
        /// The last try's error.
        source: io::Error,
    },
}
