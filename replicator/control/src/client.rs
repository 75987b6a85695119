//! A blocking client.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Event, LINE_BYTES, Reply, Request, Status};

/// How long a replicator may take to answer what it answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to carry out what takes time: a handover, or a guest's shutdown.
const WORK_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("{}: {source}; is the replicator running? `kemari-replicator run --config …` starts it", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{}: {source}; the replicator ended, or is stuck: its log says more", path.display())]
    Io {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("{}: not an answer ({reason}); client and replicator must be of the same release", path.display())]
    Malformed {
        /// The control socket.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A connection to a replicator's control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the replicator that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it is not for this user.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let connect = |source| ClientError::Connect { path: path.to_owned(), source };
        let stream = crate::socket::connect(path, ANSWER_LIMIT).map_err(connect)?;
        Ok(Client { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The connection broke, or the answer took too long: 5 s, or 60 s for what changes a role or ends the process.
    pub fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let limit = match request {
            Request::Status | Request::Events | Request::RunUnprotected | Request::Pace { .. } => ANSWER_LIMIT,
            _ => WORK_LIMIT,
        };
        self.request_within(request, limit)
    }

    /// Asks, and waits so long for the answer.
    ///
    /// # Errors
    /// As [`request`](Client::request). What was asked for may still be done after the time is over.
    pub fn request_within(&mut self, request: &Request, limit: Duration) -> Result<Reply, ClientError> {
        // The kernel takes no time at all for all the time there is.
        let limit = limit.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(limit)).map_err(|source| self.io(source))?;
        let mut line = serde_json::to_vec(request).map_err(|error| self.io(error.into()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|source| self.io(source))?;
        let answer = self.line()?;
        self.parse(&answer)
    }

    /// Asks for the status.
    ///
    /// # Errors
    /// As [`request`](Client::request); an answer to something else is malformed.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.request(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(self.malformed(format!("{other:?} to a request for status"))),
        }
    }

    /// Subscribes to events. They come for as long as the replicator lives.
    ///
    /// # Errors
    /// As [`request`](Client::request).
    pub fn events(mut self) -> Result<Events, ClientError> {
        match self.request(&Request::Events)? {
            Reply::Done { .. } => {
                self.stream.get_ref().set_read_timeout(None).map_err(|source| self.io(source))?;
                Ok(Events { client: self })
            }
            other => Err(self.malformed(format!("{other:?} to a request for events"))),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_BYTES as u64);
        limited.read_until(b'\n', &mut line).map_err(|source| self.io(source))?;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if line.len() >= LINE_BYTES => Err(self.malformed("a line over the limit".to_owned())),
            _ => Err(self.io(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|error| self.malformed(error.to_string()))
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }

    fn malformed(&self, reason: String) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), reason }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Events {
    client: Client,
}

impl Iterator for Events {
    type Item = Result<Event, ClientError>;

    /// Waits for the next event. `None` once the replicator has ended.
    fn next(&mut self) -> Option<Self::Item> {
        match self.client.line() {
            Ok(line) => Some(self.client.parse(&line)),
            Err(ClientError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error)),
        }
    }
}
