//! The link over real loopback sockets.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kemari_core::{PAGE_SIZE, PageRun};
use kemari_protocol::{Chunk, Message};
use kemari_replicator::link::{Key, Link, Listener, Timings};
use mio::{Events, Poll, Token};

const TIMINGS: Timings = Timings { peer_timeout: Duration::from_secs(5) };
const LISTENER: Token = Token(0);

/// Both ends in one event loop.
struct Site {
    _directory: tempfile::TempDir,
    poll: Poll,
    key: Key,
    listener: Listener,
    next: usize,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().expect("temporary directory");
        let key = Key::generate(&directory.path().join("key")).expect("a new file");
        let poll = Poll::new().expect("epoll");
        let listener =
            Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), poll.registry(), LISTENER).expect("a free port");
        Site { _directory: directory, poll, key, listener, next: 0 }
    }

    fn address(&self) -> SocketAddr {
        self.listener.address().expect("bound")
    }

    fn dial(&mut self, key: &Key) -> Link {
        self.next += 1;
        Link::dial(self.address(), key, TIMINGS, self.poll.registry(), Token(1_000_000 + self.next)).expect("loopback")
    }

    /// Lets both ends work for a moment.
    fn turn(&mut self, links: &mut [&mut Link]) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::from_millis(5))).expect("epoll");
        for event in &events {
            self.listener.ready(event.token());
        }
        let (key, next) = (self.key.clone(), &mut self.next);
        self.listener.accept(&key, TIMINGS, self.poll.registry(), || {
            *next += 1;
            Token(*next)
        });
        for link in links {
            link.ready();
        }
    }

    /// Turns until `done` gives something.
    fn until<T>(&mut self, link: &mut Link, mut done: impl FnMut(&mut Site, &mut Link) -> Option<T>) -> T {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = done(self, link) {
                return found;
            }
            assert!(Instant::now() < limit, "nothing happens");
            self.turn(&mut [link]);
        }
    }

    fn connect(&mut self) -> (Link, Link) {
        let mut dialled = self.dial(&self.key.clone());
        let accepted = self.until(&mut dialled, |site, dialled| {
            if dialled.just_came_up() {
                dialled.send(Message::Heartbeat);
                dialled.flush();
            }
            site.listener.next_proved()
        });
        (dialled, accepted)
    }
}

fn other_key() -> Key {
    let directory = tempfile::tempdir().expect("temporary directory");
    Key::generate(&directory.path().join("key")).expect("a new file")
}

#[test]
fn messages_arrive_in_order_in_both_directions() {
    let mut site = Site::new();
    let (mut dialled, mut accepted) = site.connect();
    assert!(accepted.just_came_up() && !accepted.just_came_up());
    assert_eq!(accepted.receive().expect("authentic"), Some(Message::Heartbeat));
    for nonce in 0..100 {
        accepted.send(Message::Probe { nonce });
    }
    accepted.flush();
    for nonce in 0..100 {
        let message = site.until(&mut dialled, |_, dialled| dialled.receive().expect("authentic"));
        assert_eq!(message, Message::Probe { nonce });
    }
}

#[test]
fn what_was_sent_before_closing_arrives() {
    let mut site = Site::new();
    let (mut dialled, mut accepted) = site.connect();
    assert_eq!(accepted.receive().expect("authentic"), Some(Message::Heartbeat));
    dialled.send(Message::Bye { reason: "enough".to_owned() });
    dialled.close_when_sent();
    let message = site.until(&mut accepted, |_, accepted| accepted.receive().expect("authentic"));
    assert_eq!(message, Message::Bye { reason: "enough".to_owned() });
    site.until(&mut accepted, |_, accepted| {
        assert_eq!(accepted.receive().expect("authentic"), None);
        accepted.closed().map(|_| ())
    });
}

#[test]
fn without_the_key_there_is_no_link_and_the_reason_names_the_key() {
    let mut site = Site::new();
    let mut intruder = site.dial(&other_key());
    let reason = site.until(&mut intruder, |site, intruder| {
        assert!(!intruder.just_came_up());
        assert!(site.listener.next_proved().is_none());
        intruder.closed().map(str::to_owned)
    });
    assert!(reason.contains("key"), "{reason}");
}

#[test]
fn a_stranger_gets_no_byte_and_a_table_full_of_them_keeps_nobody_out() {
    let mut site = Site::new();
    let mut connect_many = || -> Vec<TcpStream> {
        let connect = |_| {
            site.turn(&mut []);
            TcpStream::connect(site.address()).expect("loopback")
        };
        (0..40).map(connect).collect()
    };
    let mut strangers = connect_many();
    for stranger in &mut strangers {
        // The listener may have dropped it already to make room, which is as good.
        let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\nand some more that is longer than a handshake");
    }
    let silent = connect_many();
    let (_dialled, _accepted) = site.connect();
    for mut stranger in strangers {
        stranger.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
        let mut answer = [0; 16];
        assert!(matches!(stranger.read(&mut answer), Ok(0) | Err(_)), "a stranger got an answer");
    }
    drop(silent);
}

#[test]
fn a_recorded_handshake_is_no_proof() {
    let mut site = Site::new();
    // A recorder in the middle: it keeps what the dialler says first.
    let recorder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let token = Token(5_000_000);
    let key = site.key.clone();
    let mut dialler = Link::dial(recorder.local_addr().expect("bound"), &key, TIMINGS, site.poll.registry(), token)
        .expect("loopback");
    let (mut victim, _) = recorder.accept().expect("the dialler");
    site.turn(&mut [&mut dialler]);
    let mut hello = [0; 50];
    victim.read_exact(&mut hello).expect("a handshake");

    let mut replay = TcpStream::connect(site.address()).expect("loopback");
    replay.write_all(&hello).expect("connected");
    replay.write_all(&[0, 40]).expect("connected");
    replay.write_all(&[7; 40]).expect("connected");
    for _ in 0..20 {
        site.turn(&mut []);
        assert!(site.listener.next_proved().is_none(), "a replay was taken for a peer");
    }
}

#[test]
fn whoever_stalls_is_dropped_in_time() {
    let mut site = Site::new();
    let mut silent = TcpStream::connect(site.address()).expect("loopback");
    silent.set_nonblocking(true).expect("a socket");
    let begun = Instant::now();
    loop {
        site.turn(&mut []);
        assert!(site.listener.next_proved().is_none());
        match silent.read(&mut [0; 1]) {
            Ok(0) | Err(_) if begun.elapsed() > Duration::from_secs(5) => panic!("still connected"),
            Ok(0) => break,
            _ => {}
        }
    }
    assert!(site.listener.next_timeout().is_none());
}

/// Prints how fast the link is beside a raw stream; the benchmark does this with real guests.
#[test]
fn bulk_data_is_carried_whole() {
    const CHUNKS: usize = 400;
    let mut site = Site::new();
    let (mut dialled, mut accepted) = site.connect();
    assert_eq!(accepted.receive().expect("authentic"), Some(Message::Heartbeat));
    let chunk = Chunk::new(vec![PageRun { first: 0, count: 64 }], vec![0xa5; 64 * PAGE_SIZE]).expect("64 pages");
    let begun = Instant::now();
    let mut received = 0;
    let mut sent = 0;
    while received < CHUNKS {
        while sent < CHUNKS && dialled.queued_bytes() < 1 << 20 {
            dialled.send(Message::SyncPages(chunk.clone()));
            sent += 1;
        }
        dialled.flush();
        while let Some(message) = accepted.receive().expect("authentic") {
            let Message::SyncPages(arrived) = message else { panic!("something else arrived") };
            assert!(arrived.runs() == chunk.runs() && arrived.data() == chunk.data());
            received += 1;
        }
        assert_eq!(accepted.closed(), None);
    }
    let bytes = (CHUNKS * 64 * PAGE_SIZE) as f64;
    println!("link, both ends in one thread: {:.0} MB/s", bytes / 1e6 / begun.elapsed().as_secs_f64());
}
