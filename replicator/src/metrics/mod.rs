//! The figures of this host's replicators for Prometheus, in its text format.
//!
//! A process of its own asks the control sockets, as an operator would: a scrape costs no replicator more than a `status`, and
//! nothing that speaks HTTP is in the process that holds a guest.

mod families;
mod serve;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kemari_control::{Client, ClientError, Status};

use self::families::Families;

/// Where control sockets are by default.
const SOCKETS: &str = "/run/kemari";
/// A socket there that is no replicator's.
const MONITOR_SOCKET: &str = "mce-monitor.sock";

/// What to measure and how to hand it out.
#[derive(clap::Args)]
pub struct Options {
    /// Control sockets [default: every *.sock in /run/kemari]
    sockets: Vec<PathBuf>,
    /// Answer GET /metrics over HTTP here until ended, rather than print once; without access control, so best on loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The directory of the control sockets cannot be read.
    #[error("{}: {source}; name the control sockets if they are elsewhere", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody can be answered.
    #[error("{address}: {reason}; choose another --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// Nobody reads what is printed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the metrics once, or answers for as long as this process lives.
///
/// # Errors
/// There is nothing to measure, or nobody to tell.
pub fn run(options: &Options) -> Result<(), MetricsError> {
    match options.listen {
        Some(address) => serve::serve(address, || collect(&options.sockets)),
        None => Ok(io::stdout().write_all(collect(&options.sockets)?.as_bytes())?),
    }
}

/// One reading of every replicator.
fn collect(named: &[PathBuf]) -> Result<String, MetricsError> {
    let found;
    let sockets = if named.is_empty() {
        found = sockets_in(Path::new(SOCKETS))?;
        &found
    } else {
        named
    };
    let mut families = Families::default();
    for socket in sockets {
        match ask(socket) {
            Ok(status) => families.add(socket, &status),
            Err(error) => {
                log::warn!("{error}");
                families.add_silent(socket);
            }
        }
    }
    Ok(families.text())
}

fn ask(socket: &Path) -> Result<Status, ClientError> {
    Client::connect(socket)?.status()
}

/// The replicators' control sockets, in the order of their names. None if there is no such directory: no guest was ever here.
fn sockets_in(directory: &Path) -> Result<Vec<PathBuf>, MetricsError> {
    let failed = |source| MetricsError::Directory { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let is_replicator = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "sock")
            && path.file_name().is_some_and(|name| name != MONITOR_SOCKET)
    };
    let mut sockets: Vec<PathBuf> = paths.into_iter().filter(is_replicator).collect();
    sockets.sort_unstable();
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicator_that_is_gone_is_down_and_the_monitor_is_none() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for name in ["web.sock", MONITOR_SOCKET, "web.console", "db.sock"] {
            fs::write(directory.path().join(name), "").expect("writable");
        }
        let sockets = sockets_in(directory.path()).expect("readable");
        let names: Vec<_> = sockets.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["db.sock", "web.sock"]);
        let text = collect(&sockets).expect("text");
        assert!(text.contains("kemari_up{socket=\"") && text.contains("web.sock\"} 0"), "{text}");
        assert_eq!(sockets_in(&directory.path().join("none")).expect("no guest here"), Vec::<PathBuf>::new());
    }
}
