//! What is said at the daemon's control socket, and a small client. A request is one line of JSON, and so is its answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::{Colour, PartView};

/// How long the daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer.
const ANSWER_BYTES: u64 = 16 << 20;

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What do you know?
    Status,
    /// Forget what a part has done.
    Clear {
        /// Its name; without it, every part.
        part: Option<String>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It is done.
    Done {
        /// What was done.
        detail: String,
    },
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Everything about this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The daemon.
    pub pid: u32,
    /// The health of the host.
    pub colour: Colour,
    /// Why it is not green.
    pub why: String,
    /// The fault that was told last.
    pub last: Option<String>,
    /// What the cluster was told.
    pub published: Published,
    /// Records heard since the daemon started.
    pub records: u64,
    /// What is listened to.
    pub sources: Vec<SourceView>,
    /// Sources that this host does not have.
    pub missing: Vec<MissingSource>,
    /// Parts that had faults, the worst first.
    pub parts: Vec<PartView>,
}

/// What was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The colour; none if nothing was told yet.
    pub colour: Option<Colour>,
    /// What keeps a red host from saying so.
    pub held_back: Option<String>,
    /// Why the cluster cannot be told.
    pub trouble: Option<String>,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name.
    pub name: String,
    /// Records that came from it.
    pub records: u64,
    /// Records that were lost on the way, as far as is known.
    pub lost: u64,
    /// Why it is not read any more.
    pub trouble: Option<String>,
}

/// A source that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingSource {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("{}: {source}; is the monitor running? `kemari-mce-monitor run` starts it", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke, or the answer makes no sense.
    #[error("{}: {source}; the monitor ended, or is of another release", path.display())]
    Io {
        /// The control socket.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// Nobody listens there, or there is no answer within 5 s.
pub fn ask(path: &Path, request: &Request) -> Result<Reply, ControlError> {
    let connect = |source| ControlError::Connect { path: path.to_owned(), source };
    let mut stream = kemari_control::connect(path, LIMIT).map_err(connect)?;
    let io = |source| ControlError::Io { path: path.to_owned(), source };
    stream.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let mut line = serde_json::to_vec(request).map_err(|error| io(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(io)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES)).read_line(&mut answer).map_err(io)?;
    serde_json::from_str(&answer).map_err(|error| io(error.into()))
}
