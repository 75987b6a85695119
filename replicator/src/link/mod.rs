//! The link: TCP between the two nodes, authenticated and encrypted from the first byte.
//!
//! Both ends prove that they have the pre-shared key before anything else happens: Noise `NNpsk0`, whose first message is already
//! sealed with the key. Whoever lacks it gets no byte back, and costs one slot of a bounded table until a deadline. Two
//! ephemeral keys make each link's traffic secret even from somebody who learns the key later.
//!
//! On the wire there are records: a length (u16, big-endian) and that many bytes of a Noise message. The frames of
//! [`kemari_protocol`] are the plaintext, packed densely: a frame may span records, and a record may hold many.

mod inbox;
mod key;
mod listener;
mod noise;
mod outbox;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kemari_protocol::{DecodeError, Decoder, Frame, Message};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Socket, TcpKeepalive};

use self::inbox::Inbox;
pub use self::key::{Key, KeyError};
pub use self::listener::Listener;
use self::noise::{HELLO_BYTES, Handshake, Noise};
use self::outbox::Outbox;

/// How long a peer may take to prove that it has the key.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// Why the link cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nobody can connect to this node.
    #[error("cannot listen at {address}: {source}; link.listen must be an address of this host with a free port")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The event loop does not take the socket.
    #[error("link: {0}")]
    Io(#[from] io::Error),
}

/// Timings of a link, the same for every one of a node.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Silence after which the peer counts as lost: what the kernel has not delivered by then is given up, too.
    pub peer_timeout: Duration,
}

enum Stage {
    /// TCP is connecting.
    Connecting(Handshake),
    /// Waiting for the peer's proof.
    Handshake { handshake: Handshake, hello: [u8; HELLO_BYTES], received: usize },
    /// Everything is encrypted from here on.
    Open(Noise),
    /// It is over.
    Closed(String),
}

/// One connection to the peer.
pub struct Link {
    stream: TcpStream,
    token: Token,
    peer: SocketAddr,
    dialled: bool,
    deadline: Instant,
    stage: Stage,
    inbox: Inbox,
    outbox: Outbox,
    decoder: Decoder,
    /// The other end has proved that it has the key *now*: a recorded handshake alone is no proof.
    proved: bool,
    announced: bool,
    closing: bool,
    /// It takes nothing any more; what it said before is still to be read.
    deaf_peer: bool,
}

impl Link {
    /// Begins to connect to `peer`; [`just_came_up`](Link::just_came_up) or [`closed`](Link::closed) say how that ends.
    ///
    /// # Errors
    /// No socket, or no route.
    pub fn dial(peer: SocketAddr, key: &Key, timings: Timings, registry: &Registry, token: Token) -> io::Result<Link> {
        let stream = TcpStream::connect(peer)?;
        let stage = Stage::Connecting(Handshake::initiator(key));
        Link::new(stream, peer, stage, true, timings, registry, token)
    }

    /// A link that a peer has opened.
    fn accepted(
        stream: TcpStream,
        peer: SocketAddr,
        key: &Key,
        timings: Timings,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Link> {
        let stage = Stage::Handshake { handshake: Handshake::responder(key), hello: [0; HELLO_BYTES], received: 0 };
        Link::new(stream, peer, stage, false, timings, registry, token)
    }

    fn new(
        mut stream: TcpStream,
        peer: SocketAddr,
        stage: Stage,
        dialled: bool,
        timings: Timings,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Link> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(timings.peer_timeout))?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(5)))?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Link {
            stream,
            token,
            peer,
            dialled,
            deadline: Instant::now() + HANDSHAKE_LIMIT,
            stage,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            decoder: Decoder::new(),
            proved: false,
            announced: false,
            closing: false,
            deaf_peer: false,
        })
    }

    /// The token it is registered with.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The socket is ready for something: goes on with the handshake, or sends what waits.
    pub fn ready(&mut self) {
        self.flush();
    }

    /// Whether the link has come up since the last call. From then on messages can be sent and received.
    pub fn just_came_up(&mut self) -> bool {
        self.advance();
        let up = self.proved && !self.announced;
        self.announced |= up;
        up
    }

    /// Whether it ever came up.
    #[must_use]
    pub fn was_up(&self) -> bool {
        self.announced
    }

    /// Whether both ends have proved themselves.
    fn is_proved(&self) -> bool {
        self.proved
    }

    /// Why the link is over, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        match &self.stage {
            Stage::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// When to look at it even if nothing happens: the end of the time for the handshake.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        (!self.proved && self.closed().is_none()).then_some(self.deadline)
    }

    /// Queues a message. [`flush`](Link::flush) sends it.
    pub fn send(&mut self, message: Message) {
        if self.closed().is_none() && !self.deaf_peer {
            self.outbox.push(Frame::encode(message));
        }
    }

    /// Bytes queued and not yet given to the kernel.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.outbox.queued_bytes()
    }

    /// Closes the link as soon as everything queued is sent.
    pub fn close_when_sent(&mut self) {
        self.closing = true;
        self.flush();
    }

    /// Gives to the kernel what it takes.
    pub fn flush(&mut self) {
        self.advance();
        if self.deaf_peer {
            if self.closing {
                self.close("closed here".to_owned());
            }
            return;
        }
        let Stage::Open(noise) = &mut self.stage else { return };
        match self.outbox.send(&mut self.stream, noise) {
            Ok(()) if self.closing && self.outbox.is_empty() => self.shut("closed here".to_owned()),
            Ok(()) => {}
            // What the peer said before it closed its end is still to be read; with that, the link is over.
            Err(error) => {
                log::debug!("{}: {error}", self.peer);
                self.outbox = Outbox::default();
                self.deaf_peer = true;
            }
        }
    }

    /// Sends more of what is queued. Returns whether anything is left to send.
    pub fn flush_farewell(&mut self) -> bool {
        self.flush();
        matches!(self.stage, Stage::Open(_)) && !self.outbox.is_empty()
    }

    /// The next message that has arrived.
    ///
    /// # Errors
    /// The bytes are authentic and make no sense; they never will again.
    pub fn receive(&mut self) -> Result<Option<Message>, DecodeError> {
        self.advance();
        loop {
            let mut plaintext = self.inbox.plaintext();
            let before = plaintext.len();
            let message = self.decoder.feed(&mut plaintext)?;
            let consumed = before - plaintext.len();
            self.inbox.consume(consumed);
            if message.is_some() {
                return Ok(message);
            }
            let Stage::Open(noise) = &mut self.stage else { return Ok(None) };
            match self.inbox.next_record(&mut self.stream, noise) {
                Ok(true) => self.proved = true,
                Ok(false) => return Ok(None),
                Err(error) => self.close(error.to_string()),
            }
        }
    }

    /// Goes as far with connecting and the handshake as the socket lets it.
    fn advance(&mut self) {
        loop {
            if self.next_timeout().is_some_and(|deadline| deadline <= Instant::now()) {
                let missing = if self.dialled { "no answer" } else { "no proof of having the key" };
                return self.close(format!("{missing} within {} s", HANDSHAKE_LIMIT.as_secs()));
            }
            let progress = match &self.stage {
                Stage::Connecting(_) => self.connect(),
                Stage::Handshake { .. } => self.shake_hands(),
                // The first record proves that the one who shook hands is no replay.
                Stage::Open(_) if !self.proved => self.first_record(),
                Stage::Open(_) | Stage::Closed(_) => return,
            };
            match progress {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.close(error.to_string()),
            }
        }
    }

    fn connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        let Stage::Connecting(handshake) = &mut self.stage else { return Ok(false) };
        let hello = handshake.write()?;
        self.outbox.push_hello(&hello);
        self.outbox.send_raw(&mut self.stream)?;
        let Stage::Connecting(handshake) = std::mem::replace(&mut self.stage, Stage::Closed(String::new())) else {
            return Ok(false);
        };
        self.stage = Stage::Handshake { handshake, hello: [0; HELLO_BYTES], received: 0 };
        Ok(true)
    }

    fn shake_hands(&mut self) -> io::Result<bool> {
        self.outbox.send_raw(&mut self.stream)?;
        let Stage::Handshake { handshake, hello, received } = &mut self.stage else { return Ok(false) };
        while *received < HELLO_BYTES {
            match noise::read(&mut self.stream, &mut hello[*received..]) {
                Ok(Some(count)) => *received += count,
                Ok(None) => return Ok(false),
                Err(error) if self.dialled => {
                    let reason = format!("{error}, during the handshake: it may not have our key (link.key_file)");
                    return Err(io::Error::new(error.kind(), reason));
                }
                Err(error) => return Err(error),
            }
        }
        handshake.read(hello).map_err(|_| {
            let reason = "the other end does not have our key; link.key_file must be the same on both nodes";
            io::Error::new(io::ErrorKind::PermissionDenied, reason)
        })?;
        if !self.dialled {
            let answer = handshake.write()?;
            self.outbox.push_hello(&answer);
            self.outbox.send_raw(&mut self.stream)?;
        }
        let Stage::Handshake { handshake, .. } = std::mem::replace(&mut self.stage, Stage::Closed(String::new()))
        else {
            return Ok(false);
        };
        self.stage = Stage::Open(handshake.finish()?);
        // The dialler's peer has answered to the dialler's own fresh key: that is no replay.
        self.proved = self.dialled;
        Ok(true)
    }

    fn first_record(&mut self) -> io::Result<bool> {
        let Stage::Open(noise) = &mut self.stage else { return Ok(false) };
        self.outbox.send_raw(&mut self.stream)?;
        self.proved = self.inbox.next_record(&mut self.stream, noise)?;
        Ok(self.proved)
    }

    fn close(&mut self, reason: String) {
        if self.closed().is_none() {
            self.stage = Stage::Closed(format!("{}: {reason}", self.peer));
        }
    }

    /// Ends the sending side in order, so that what was sent arrives.
    fn shut(&mut self, reason: String) {
        if let Err(error) = self.stream.shutdown(std::net::Shutdown::Write) {
            log::debug!("{}: {error}", self.peer);
        }
        self.close(reason);
    }
}

/// A listening TCP socket that can be bound again at once after its process has died.
fn listen(address: SocketAddr) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}
