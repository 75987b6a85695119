//! The control socket, for root only: a line in, a line out, and the connection ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::control::{Reply, Request};

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Longest request.
const REQUEST_BYTES: usize = 4096;

pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    registry: Registry,
    connections: BTreeMap<usize, Connection>,
    /// Tokens of connections are from here on.
    next: usize,
}

struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    answered: bool,
}

impl Server {
    /// Listens at `path`, mode 0600; a socket that a dead process left there is replaced.
    pub(super) fn bind(path: &Path, registry: Registry, token: Token, connections: usize) -> io::Result<Server> {
        let mut listener = UnixListener::from_std(kemari_control::listen(path)?);
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Server { listener, path: path.to_owned(), registry, connections: BTreeMap::new(), next: connections })
    }

    pub(super) fn accept(&mut self) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return log::warn!("control socket: {error}"),
            };
            if self.connections.len() >= CONNECTIONS {
                // The oldest had the most time to say something.
                self.connections.pop_first();
                log::warn!("control socket: {CONNECTIONS} connections are open; the oldest is closed");
            }
            let token = Token(self.next);
            match self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                Ok(()) => {
                    let connection = Connection { stream, input: Vec::new(), output: Vec::new(), answered: false };
                    self.connections.insert(token.0, connection);
                    self.next += 1;
                }
                Err(error) => log::warn!("control socket: {error}"),
            }
        }
    }

    /// A connection is ready: answers its request if that is whole.
    pub(super) fn ready(&mut self, token: Token, answer: impl FnOnce(Request) -> Reply) {
        let Some(connection) = self.connections.get_mut(&token.0) else { return };
        if connection.serve(answer).unwrap_or(true)
            && let Some(mut connection) = self.connections.remove(&token.0)
            && let Err(error) = self.registry.deregister(&mut connection.stream)
        {
            log::debug!("control socket: {error}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Connection {
    /// Returns whether nothing is left to do.
    fn serve(&mut self, answer: impl FnOnce(Request) -> Reply) -> io::Result<bool> {
        let at_end = !self.answered && self.read()?;
        if !self.answered
            && let Some(line) =
                self.input.split(|byte| *byte == b'\n').next().filter(|line| line.len() < self.input.len())
        {
            let reply = match serde_json::from_slice(line) {
                Ok(request) => answer(request),
                Err(error) => Reply::Refused { reason: format!("not a request: {error}") },
            };
            serde_json::to_writer(&mut self.output, &reply)?;
            self.output.push(b'\n');
            self.answered = true;
        }
        if !self.answered {
            return Ok(at_end || self.input.len() >= REQUEST_BYTES);
        }
        self.write()
    }

    /// Returns whether nothing more will come.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; REQUEST_BYTES];
        while self.input.len() < REQUEST_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Returns whether everything is written.
    fn write(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
