//! The service: TCP connections with requests answered in order, the UDP counter, and smoltcp around them.

use crate::cpu::{self, Doorbells};
use crate::ledger::{Append, Ledger};
use crate::net::Net;
use crate::workload::Workload;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use kemari_guest::cmdline::Cmdline;
use kemari_guest::wire::{MESSAGE, PORT, Refusal, Reply, Request, Stat, UDP_PORT};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

const CONNECTIONS: usize = 8;
/// Requests of one connection taken and not yet answered; more wait in TCP's window.
const UNANSWERED: usize = 32;
/// Bytes of each TCP buffer: a page, a multiple of the message.
const BUFFER_BYTES: usize = 4096;
/// When a quiet client is asked whether it is still there: if its host is and it is not, its slot becomes free. There is
/// no timeout: a guest may be paused for any time and must then find its connections alive.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(30);
/// While no frame can be sent, smoltcp wants to be polled at once, which is of no use before the device interrupts.
const BLOCKED: Duration = Duration::from_millis(50);

/// The service.
pub(crate) struct Service {
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: [Connection; CONNECTIONS],
    /// Who is served first this time.
    first: usize,
    udp: SocketHandle,
    counter: u64,
}

struct Connection {
    socket: SocketHandle,
    unanswered: VecDeque<(u64, State)>,
    /// A request made no sense: no more are read, and the connection is closed after the answers.
    closing: bool,
}

/// How far a request is.
#[derive(Clone, Copy)]
enum State {
    /// Not begun. Appends begin as early as the disk takes them, others when all before them are answered.
    Waiting(Request),
    /// Has its place, and is answered when that is durable.
    Appending { client: u32, seq: u64, index: u64, repeated: bool },
    /// Will be refused.
    Refused(Refusal),
}

/// What the answers to requests are made of, apart from the request.
struct Sources<'a> {
    ledger: &'a mut Ledger,
    workload: &'a Workload,
    counter: &'a mut u64,
    now: Duration,
}

impl Service {
    /// Listens on all connections.
    pub(crate) fn new(net: &mut Net, cmdline: &Cmdline, now: Duration) -> Self {
        let mut config = Config::new(EthernetAddress(net.mac()).into());
        config.random_seed = cpu::seed();
        let mut interface = Interface::new(config, net, instant(now));
        let [a, b, c, d] = cmdline.ip;
        interface.update_ip_addrs(|addresses| {
            // One of at least one.
            let _ = addresses.push(IpCidr::new(IpAddress::v4(a, b, c, d), cmdline.prefix));
        });
        if let Some([a, b, c, d]) = cmdline.gateway {
            let route = interface.routes_mut().add_default_ipv4_route(Ipv4Address::new(a, b, c, d));
            route.unwrap_or_else(|e| panic!("gateway: {e}"));
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(CONNECTIONS + 1));
        let connections = core::array::from_fn(|_| Connection::new(&mut sockets));
        let udp = sockets.add(udp_socket());
        Self { interface, sockets, connections, first: 0, udp, counter: 0 }
    }

    /// Takes what has arrived, does it, answers what is done. Returns how long until it has to be called again even if
    /// no device interrupts.
    pub(crate) fn run(
        &mut self,
        now: Duration,
        net: &mut Net,
        ledger: &mut Ledger,
        workload: &Workload,
        bells: &mut Doorbells,
    ) -> Option<Duration> {
        self.interface.poll(instant(now), net, &mut self.sockets);
        ledger.advance();
        let mut sources = Sources { ledger, workload, counter: &mut self.counter, now };
        for turn in 0..CONNECTIONS {
            self.connections[(self.first + turn) % CONNECTIONS].serve(&mut self.sockets, &mut sources);
        }
        self.first = (self.first + 1) % CONNECTIONS;
        serve_udp(self.sockets.get_mut(self.udp), &mut self.counter);
        ledger.ring(bells);
        self.interface.poll_egress(instant(now), net, &mut self.sockets);
        let delay = self.interface.poll_delay(instant(now), &self.sockets)?;
        let delay = Duration::from_micros(delay.total_micros());
        Some(if net.can_send() { delay } else { delay.max(BLOCKED) })
    }
}

impl Connection {
    fn new(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        Self { socket: sockets.add(socket), unanswered: VecDeque::with_capacity(UNANSWERED), closing: false }
    }

    fn serve(&mut self, sockets: &mut SocketSet<'static>, sources: &mut Sources) {
        let socket = sockets.get_mut::<tcp::Socket>(self.socket);
        if !socket.is_open() {
            self.unanswered.clear();
            self.closing = false;
            // The port is not 0 and the socket is closed, so it listens.
            let _ = socket.listen(PORT);
            return;
        }
        // Twice, because answering makes room for requests that have already come.
        for _ in 0..2 {
            self.take(socket);
            self.begin_appends(sources);
            self.answer(socket, sources);
        }
        // Part of a message may be left: nobody will send the rest.
        let ended = socket.state() == tcp::State::CloseWait && socket.recv_queue() < MESSAGE;
        if self.unanswered.is_empty() && (self.closing || ended) {
            socket.close();
        }
    }

    /// Takes the requests that have arrived whole.
    fn take(&mut self, socket: &mut tcp::Socket) {
        let mut message = [0; MESSAGE];
        while !self.closing && self.unanswered.len() < UNANSWERED && socket.recv_queue() >= MESSAGE {
            if socket.recv_slice(&mut message) != Ok(MESSAGE) {
                return;
            }
            let (tag, state) = match Request::decode(&message) {
                Ok((tag, request)) => (tag, State::Waiting(request)),
                Err(_) => (0, State::Refused(Refusal::Malformed)),
            };
            self.closing = matches!(state, State::Refused(_));
            self.unanswered.push_back((tag, state));
        }
    }

    /// Begins appends, in their order, as far as the disk takes them.
    fn begin_appends(&mut self, sources: &mut Sources) {
        for (_, state) in &mut self.unanswered {
            if let State::Waiting(Request::Append { client, seq, payload }) = *state {
                *state = match sources.ledger.append(client, seq, payload) {
                    Append::At { index, repeated } => State::Appending { client, seq, index, repeated },
                    Append::Refused(refusal) => State::Refused(refusal),
                    Append::Later => return,
                };
            }
        }
    }

    /// Answers, in their order, the requests that are done.
    fn answer(&mut self, socket: &mut tcp::Socket, sources: &mut Sources) {
        while socket.send_capacity() - socket.send_queue() >= MESSAGE {
            let Some((tag, state)) = self.unanswered.front() else { return };
            let Some(reply) = sources.reply(state) else { return };
            if socket.send_slice(&reply.encode(*tag)).is_err() {
                // Nobody listens any more; what was begun is finished without an answer.
                self.unanswered.clear();
                return;
            }
            self.unanswered.pop_front();
        }
    }
}

impl Sources<'_> {
    /// The reply to the request that is first in its connection, when it is done.
    fn reply(&mut self, state: &State) -> Option<Reply> {
        Some(match *state {
            State::Appending { client, seq, index, repeated } => match self.ledger.is_durable(index) {
                Ok(true) => Reply::Appended { client, seq, index, counter: count(self.counter), repeated },
                Ok(false) => return None,
                Err(refusal) => Reply::Refused(refusal),
            },
            State::Refused(refusal) => Reply::Refused(refusal),
            State::Waiting(Request::Append { .. }) => return None,
            State::Waiting(Request::Get { index }) => match self.ledger.get(index)? {
                Ok(entry) => Reply::Entry(entry),
                Err(refusal) => Reply::Refused(refusal),
            },
            State::Waiting(Request::Counter) => Reply::Counter { counter: count(self.counter) },
            State::Waiting(Request::Stat) => Reply::Stat(Stat {
                uptime_ms: self.now.as_millis() as u64,
                entries: self.ledger.durable(),
                dirtied: self.workload.dirtied(),
                corrupt: self.workload.is_corrupt() || self.ledger.is_corrupt(),
            }),
        })
    }
}

fn count(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(UDP_PORT).unwrap_or_else(|e| panic!("UDP port {UDP_PORT}: {e}"));
    socket
}

fn serve_udp(socket: &mut udp::Socket, counter: &mut u64) {
    while socket.can_send() {
        let Ok((_, from)) = socket.recv() else { return };
        let reply = Reply::Counter { counter: count(counter) }.encode(0);
        // Datagrams may be lost.
        let _ = socket.send_slice(&reply, from);
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(now.as_micros() as i64)
}
