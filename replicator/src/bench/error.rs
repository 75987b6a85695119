//! Why there is no benchmark.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use kemari_site::{SiteError, Violation};

/// Why there is no benchmark.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The program that measures the floors is not there, or not to be run.
    #[error("{}: {source}; `cargo build --release --bin kemari-floor` builds it beside this program", path.display())]
    NoFloor {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It failed.
    #[error("{} failed ({status}): {output}", path.display())]
    Floor {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// What it printed is not what it should.
    #[error("{}: not its output ({source}); build it anew, from the same source as this program", path.display())]
    FloorOutput {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A site cannot be made here, or a node failed.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A process cannot be looked at.
    #[error("cannot read {}: {source}", path.display())]
    Process {
        /// The file under `/proc`.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A figure that cannot be had.
    #[error("cannot measure {what}: {why}")]
    Unmeasured {
        /// The figure.
        what: &'static str,
        /// What was in the way.
        why: String,
    },
    /// The guest answered wrongly: worse than any figure.
    #[error("something was lost: {0}")]
    Lost(#[from] Violation),
    /// ^C or SIGTERM.
    #[error("interrupted; nothing is left behind")]
    Interrupted,
    /// Signals cannot be caught, or this program not be found.
    #[error("cannot begin: {0}")]
    Begin(io::Error),
    /// Nobody reads.
    #[error("cannot print: {0}")]
    Print(io::Error),
}
