//! The node's ends of the link: where it listens, and how it dials.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::{Registry, Token};

use super::{DaemonError, LINK_TOKENS, LISTENER};
use crate::config::LinkConfig;
use crate::link::{Key, Link, Listener, Timings};

/// What makes links.
pub(super) struct Links {
    listener: Listener,
    peer: SocketAddr,
    key: Key,
    timings: Timings,
    registry: Registry,
    tokens: Tokens,
}

/// Each link has a token of its own, so that readiness of a link that is gone is never taken for another's.
struct Tokens(usize);

impl Tokens {
    fn next(&mut self) -> Token {
        self.0 += 1;
        Token(LINK_TOKENS + self.0)
    }
}

impl Links {
    /// Loads the key and listens.
    ///
    /// # Errors
    /// The key or the address cannot be used.
    pub(super) fn new(config: &LinkConfig, registry: Registry) -> Result<Links, DaemonError> {
        let key = Key::load(&config.key_file).map_err(crate::link::LinkError::from)?;
        let listener = Listener::bind(config.listen, &registry, LISTENER)?;
        let timings = Timings { peer_timeout: config.peer_timeout };
        Ok(Links { listener, peer: config.peer, key, timings, registry, tokens: Tokens(0) })
    }

    /// Begins to connect to the other node.
    ///
    /// # Errors
    /// No socket, or no route.
    pub(super) fn dial(&mut self) -> io::Result<Link> {
        Link::dial(self.peer, &self.key, self.timings, &self.registry, self.tokens.next())
    }

    /// Takes new connections.
    pub(super) fn accept(&mut self) {
        self.listener.accept(&self.key, self.timings, &self.registry, || self.tokens.next());
    }

    /// The link with this token is ready, if it has not proved itself yet.
    pub(super) fn ready(&mut self, token: Token) {
        self.listener.ready(token);
    }

    /// The next link whose other end has proved that it has the key.
    pub(super) fn next_accepted(&mut self) -> Option<Link> {
        self.listener.next_proved()
    }

    /// When those that connected have had their time to prove themselves.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.listener.next_timeout()
    }
}
