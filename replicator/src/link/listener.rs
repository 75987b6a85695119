//! Where the peer connects.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

use super::{Key, Link, LinkError, Timings, listen};

/// Connections that may be proving themselves at a time. When one more comes, the oldest goes: whoever has the key needs a
/// few milliseconds, so filling the table keeps nobody out who tries again.
const UNPROVED: usize = 16;

/// The listening socket, and those who have connected and not yet proved that they have the key.
pub struct Listener {
    socket: TcpListener,
    unproved: VecDeque<Link>,
}

impl Listener {
    /// Listens at `address`.
    ///
    /// # Errors
    /// The address is not ours, or the port is taken.
    pub fn bind(address: SocketAddr, registry: &Registry, token: Token) -> Result<Listener, LinkError> {
        let mut socket = listen(address).map_err(|source| LinkError::Listen { address, source })?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener { socket, unproved: VecDeque::new() })
    }

    /// Whether it could listen at `address`.
    ///
    /// # Errors
    /// The address is not ours, or the port is taken.
    pub fn check(address: SocketAddr) -> io::Result<()> {
        listen(address).map(drop)
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes new connections; `token` gives each its own.
    pub fn accept(&mut self, key: &Key, timings: Timings, registry: &Registry, mut token: impl FnMut() -> Token) {
        loop {
            match self.socket.accept() {
                Ok((stream, peer)) => match Link::accepted(stream, peer, key, timings, registry, token()) {
                    Ok(link) => self.unproved.push_back(link),
                    Err(error) => log::debug!("{peer}: {error}"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Gone before we took it, or out of descriptors: those that are left are taken next time.
                Err(error) => {
                    log::warn!("link: {error}");
                    break;
                }
            }
            if self.unproved.len() > UNPROVED {
                self.unproved.pop_front();
            }
        }
    }

    /// The link with this token is ready, if it is one of these.
    pub fn ready(&mut self, token: Token) {
        if let Some(link) = self.unproved.iter_mut().find(|link| link.token() == token) {
            link.ready();
        }
    }

    /// The next link that has proved itself. Those that failed are dropped.
    pub fn next_proved(&mut self) -> Option<Link> {
        for link in &mut self.unproved {
            link.advance();
        }
        self.unproved.retain(|link| match link.closed() {
            Some(reason) => {
                log::warn!("refused: {reason}");
                false
            }
            None => true,
        });
        let index = self.unproved.iter().position(Link::is_proved)?;
        self.unproved.remove(index)
    }

    /// When the first of them has had its time.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.unproved.iter().filter_map(Link::next_timeout).min()
    }
}
