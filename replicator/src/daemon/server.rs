//! The control socket: one JSON request and one JSON reply per line, for root only.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kemari_control::{Event, LINE_BYTES, Reply, Request};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use serde::Serialize;

use super::news::{News, Ticket};
use super::{CONTROL_TOKENS, DaemonError};

/// Connections at a time; an operator has a few, a monitor one.
const CONNECTIONS: usize = 64;
/// What a subscriber may leave unread before it is dropped.
const BACKLOG_BYTES: usize = 1 << 20;

/// The listening socket and who is connected.
pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    registry: Registry,
    connections: BTreeMap<usize, Connection>,
    next: usize,
}

struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A request is being carried out; the next one is read after its answer.
    busy: bool,
    subscribed: bool,
    /// Nothing more will come: it goes once everything is answered.
    at_end: bool,
}

impl Server {
    /// Listens at `path`, mode 0600; a socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// Another process listens there, or the path cannot be used.
    pub(super) fn bind(path: &Path, registry: Registry, token: Token) -> Result<Server, DaemonError> {
        let listener = kemari_control::listen(path);
        let listener = listener.map_err(|source| DaemonError::Control { path: path.to_owned(), source })?;
        let mut listener = UnixListener::from_std(listener);
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Server { listener, path: path.to_owned(), registry, connections: BTreeMap::new(), next: 0 })
    }

    /// Takes new connections.
    pub(super) fn accept(&mut self) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("control socket: {error}");
                    return;
                }
            };
            if self.connections.len() >= CONNECTIONS {
                log::warn!("control socket: {CONNECTIONS} connections are open; another one is refused");
                continue;
            }
            let token = Token(CONTROL_TOKENS + self.next);
            if let Err(error) = self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                log::warn!("control socket: {error}");
                continue;
            }
            self.connections.insert(token.0, Connection::new(stream));
            self.next += 1;
        }
    }

    /// A connection is ready: its requests that can be carried out now.
    pub(super) fn ready(&mut self, token: Token) -> Vec<(Ticket, Request)> {
        let Some(connection) = self.connections.get_mut(&token.0) else { return Vec::new() };
        connection.read();
        let requests = connection.next_request().map(|request| (Ticket(token.0), request));
        self.tidy(token.0);
        requests.into_iter().collect()
    }

    /// Sends answers and events. Returns requests that waited behind what was answered.
    pub(super) fn deliver(&mut self, news: &mut News) -> Vec<(Ticket, Request)> {
        let mut requests = Vec::new();
        while let Some((ticket, reply)) = news.next_answer() {
            if let Some(connection) = self.connections.get_mut(&ticket.0) {
                connection.answer(&reply);
                requests.extend(connection.next_request().map(|request| (ticket, request)));
            }
            self.tidy(ticket.0);
        }
        while let Some(event) = news.next_event() {
            self.publish(&event);
        }
        requests
    }

    fn publish(&mut self, event: &Event) {
        let subscribers: Vec<usize> =
            self.connections.iter().filter(|(_, connection)| connection.subscribed).map(|(token, _)| *token).collect();
        for token in subscribers {
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.push(event);
            }
            self.tidy(token);
        }
    }

    fn tidy(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.write();
        if connection.is_done()
            && let Some(mut connection) = self.connections.remove(&token)
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
    fn new(stream: UnixStream) -> Connection {
        Connection { stream, input: Vec::new(), output: Vec::new(), busy: false, subscribed: false, at_end: false }
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while self.input.len() < LINE_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.at_end = true;
                    return;
                }
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.give_up();
                    return;
                }
            }
        }
    }

    /// The next whole request. One that makes no sense is answered at once.
    fn next_request(&mut self) -> Option<Request> {
        while !self.busy && !self.subscribed {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                if self.input.len() >= LINE_BYTES {
                    self.answer(&Reply::Refused { reason: format!("a request has at most {LINE_BYTES} bytes") });
                    self.at_end = true;
                    self.input.clear();
                }
                return None;
            };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match serde_json::from_slice::<Request>(&line) {
                Ok(Request::Events) => {
                    self.push(&Reply::Done { detail: "events follow".to_owned() });
                    self.subscribed = true;
                }
                Ok(request) => {
                    self.busy = true;
                    return Some(request);
                }
                Err(error) => self.answer(&Reply::Refused { reason: format!("not a request: {error}") }),
            }
            // There may be more than a buffer holds.
            self.read();
        }
        None
    }

    fn answer(&mut self, reply: &Reply) {
        self.busy = false;
        self.push(reply);
        self.read();
    }

    fn push(&mut self, line: &impl Serialize) {
        match serde_json::to_writer(&mut self.output, line) {
            Ok(()) => self.output.push(b'\n'),
            Err(error) => log::error!("control socket: {error}"),
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.give_up(),
            }
        }
        if self.output.len() > BACKLOG_BYTES {
            log::warn!("control socket: a subscriber does not read; it is dropped");
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.at_end = true;
        self.busy = false;
        self.input.clear();
        self.output.clear();
    }

    fn is_done(&self) -> bool {
        self.at_end && !self.busy && self.output.is_empty()
    }
}
