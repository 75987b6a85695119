//! Why a scenario failed.

use std::io;

use kemari_control::ClientError;
use kemari_site::{SiteError, Violation};

/// Why a scenario failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Something of the site.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A file or a process.
    #[error("cannot {step}: {source}")]
    Io {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command on a node.
    #[error("on {node}, `{command}` ended with {status}: {output}")]
    Command {
        /// Where; "the host" for one outside.
        node: String,
        /// What.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// A replicator does not answer.
    #[error("the replicator of {node}: {source}")]
    Control {
        /// Whose.
        node: String,
        /// Why.
        source: ClientError,
    },
    /// It took too long.
    #[error("{seconds} s were not enough {what}")]
    TooLong {
        /// For what.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// What must be is not so.
    #[error("{0}")]
    Wrong(String),
    /// What a client saw.
    #[error("{}", list(.0))]
    Violated(Vec<Violation>),
    /// What was found on the disk.
    #[error("on the disk: {0}")]
    Disk(#[from] Violation),
    /// ^C.
    #[error("interrupted")]
    Interrupted,
}

fn list(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// For `map_err`: what was tried.
pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let step = step.into();
    move |source| ClusterError::Io { step, source }
}
