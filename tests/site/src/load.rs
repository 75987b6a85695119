//! A client that appends to the guest's ledger over one TCP connection and checks every answer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kemari_guest::wire::{self, Entry, MESSAGE, Reply, Request};

use crate::{Acknowledged, GUEST_ADDRESS, SiteError, Violation, Witness};

/// How often a client that waits for an answer looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);
/// Every so many requests the newest acknowledged entry is read back, and the guest's own check asked for. Reads are many, because
/// on the disk they overtake the writes that are held.
const GET_EVERY: u64 = 4;
const STAT_EVERY: u64 = 64;

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Its number; each client of a guest needs its own.
    pub client: u32,
    /// Requests it keeps outstanding.
    pub window: usize,
    /// How long it rests between answers and new requests. The guest's ledger is finite: 100,000 entries.
    pub pause: Duration,
    /// How long it waits for any answer before it gives the connection up as dead.
    pub patience: Duration,
}

/// How a client fares.
#[derive(Debug, Default)]
pub struct Progress {
    answers: AtomicU64,
    longest_gap_us: AtomicU64,
}

impl Progress {
    /// Answers so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Takes note of an answer that came `gap` after the one before.
    pub(crate) fn answered(&self, gap: Duration) {
        self.longest_gap_us.fetch_max(gap.as_micros() as u64, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The longest time without an answer since this was last asked. One that lasts still is not counted before it ends.
    #[must_use]
    pub fn take_longest_gap(&self) -> Duration {
        Duration::from_micros(self.longest_gap_us.swap(0, Ordering::Relaxed))
    }
}

/// A client at work on a thread of its own. What it finds wrong it reports to the [`Witness`], and stops.
#[derive(Debug)]
pub struct Load {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    abort: Arc<AtomicBool>,
    progress: Arc<Progress>,
    local_address: SocketAddr,
}

impl Load {
    /// Connects, retrying for as long as `patience` says, since a guest that boots does not answer yet, and begins.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn start(options: LoadOptions, witness: Arc<Witness>) -> Result<Load, SiteError> {
        let stream = connect(options.patience)?;
        let local_address =
            stream.local_addr().map_err(|source| SiteError::Network { step: "look at a socket".to_owned(), source })?;
        let progress = Arc::new(Progress::default());
        let (stop, abort) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut client = Client {
            options,
            stream,
            witness: Arc::clone(&witness),
            progress: Arc::clone(&progress),
            stop: Arc::clone(&stop),
            abort: Arc::clone(&abort),
            outstanding: VecDeque::new(),
            received: Vec::new(),
            next_tag: 0,
            next_seq: 0,
            newest: None,
            last_answer: Instant::now(),
        };
        let thread = std::thread::spawn(move || {
            if let Err(violation) = client.converse() {
                witness.report(violation);
            }
        });
        Ok(Load { thread, stop, abort, progress, local_address })
    }

    /// This end of its connection.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// How it fares.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether it has stopped by itself, having found something wrong.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets it wait for the answers to all it has asked, and ends it.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Ends it at once: its host forgets the connection, and what was not received yet is never sent again.
    pub fn abort(self) {
        self.abort.store(true, Ordering::Relaxed);
        self.join();
    }

    fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// What a client sends as the payload of its entry `seq`: a function of both, so that the disk can be checked without it.
#[must_use]
pub(crate) fn payload(client: u32, seq: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&(seq ^ u64::from(client) << 32).to_le_bytes());
    bytes
}

fn connect(patience: Duration) -> Result<TcpStream, SiteError> {
    let address = SocketAddr::from((GUEST_ADDRESS, wire::PORT));
    let deadline = Instant::now() + patience;
    let error = loop {
        // A guest that is not up yet swallows the SYN. Short tries come sooner than the kernel's second SYN.
        match TcpStream::connect_timeout(&address, Duration::from_millis(250)) {
            Ok(stream) => match stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(TICK))) {
                Ok(()) => return Ok(stream),
                Err(error) => break error,
            },
            Err(error) if Instant::now() >= deadline => break error,
            Err(_) => std::thread::sleep(TICK),
        }
    };
    Err(SiteError::NoGuest { seconds: patience.as_secs(), source: error })
}

/// A request on its way.
struct Sent {
    tag: u64,
    request: Request,
    /// The highest counter anyone had seen before it was sent.
    counter_before: u64,
}

struct Client {
    options: LoadOptions,
    stream: TcpStream,
    witness: Arc<Witness>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    abort: Arc<AtomicBool>,
    outstanding: VecDeque<Sent>,
    received: Vec<u8>,
    next_tag: u64,
    next_seq: u64,
    /// The newest acknowledged entry.
    newest: Option<Entry>,
    last_answer: Instant,
}

impl Client {
    fn converse(&mut self) -> Result<(), Violation> {
        loop {
            if !self.stop.load(Ordering::Relaxed) {
                self.send()?;
            }
            if self.outstanding.is_empty() {
                return Ok(());
            }
            self.receive()?;
            if self.abort.load(Ordering::Relaxed) {
                self.forget();
                return Ok(());
            }
        }
    }

    /// Fills the window.
    fn send(&mut self) -> Result<(), Violation> {
        let counter_before = self.witness.counter();
        let mut bytes = Vec::new();
        while self.outstanding.len() < self.options.window {
            let request = self.next_request();
            let tag = self.next_tag;
            self.next_tag += 1;
            bytes.extend_from_slice(&request.encode(tag));
            self.outstanding.push_back(Sent { tag, request, counter_before });
        }
        self.stream.write_all(&bytes).map_err(|source| Violation::Broken { client: self.options.client, source })
    }

    fn next_request(&mut self) -> Request {
        match self.newest {
            Some(entry) if self.next_tag % GET_EVERY == GET_EVERY - 1 => Request::Get { index: entry.index },
            _ if self.next_tag % STAT_EVERY == STAT_EVERY - 2 => Request::Stat,
            _ => {
                let (client, seq) = (self.options.client, self.next_seq);
                self.next_seq += 1;
                Request::Append { client, seq, payload: payload(client, seq) }
            }
        }
    }

    /// Waits a moment for answers, takes those that have come, and rests.
    fn receive(&mut self) -> Result<(), Violation> {
        let client = self.options.client;
        let mut bytes = [0; 64 * MESSAGE];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Violation::Closed { client }),
            Ok(length) => self.received.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                if self.last_answer.elapsed() < self.options.patience {
                    return Ok(());
                }
                let (seconds, outstanding) = (self.options.patience.as_secs(), self.outstanding.len());
                return Err(Violation::Stalled { client, seconds, outstanding });
            }
            Err(source) => return Err(Violation::Broken { client, source }),
        }
        let received = mem::take(&mut self.received);
        let (messages, rest) = received.as_chunks::<MESSAGE>();
        for message in messages {
            let (tag, reply) = Reply::decode(message).map_err(|source| Violation::Garbled { client, source })?;
            self.answered(tag, reply)?;
        }
        self.received = rest.to_vec();
        std::thread::sleep(self.options.pause);
        Ok(())
    }

    fn answered(&mut self, tag: u64, reply: Reply) -> Result<(), Violation> {
        let client = self.options.client;
        let gap = self.last_answer.elapsed();
        self.last_answer = Instant::now();
        self.progress.answered(gap);
        let Some(sent) = self.outstanding.pop_front() else {
            let (asked, answered) = ("nothing".to_owned(), format!("{reply:?}"));
            return Err(Violation::WrongAnswer { client, asked, answered });
        };
        let asked = || format!("{:?} (tag {})", sent.request, sent.tag);
        match (sent.request, reply) {
            (_, Reply::Refused(refusal)) if tag == sent.tag => {
                Err(Violation::Refused { client, asked: asked(), refusal })
            }
            (
                Request::Append { seq: sent_seq, payload, .. },
                Reply::Appended { client: answered_client, seq, index, counter, repeated: false },
            ) if tag == sent.tag && answered_client == client && seq == sent_seq => {
                self.witness.saw_counter(&format!("client {client}"), sent.counter_before, counter)?;
                self.appended(Entry { index, client, seq, payload })
            }
            (Request::Get { index }, Reply::Entry(entry))
                if tag == sent.tag
                    && entry.index == index
                    && entry.client == client
                    && entry.payload == payload(client, entry.seq) =>
            {
                Ok(())
            }
            (Request::Stat, Reply::Stat(stat)) if tag == sent.tag => {
                if stat.corrupt {
                    Err(Violation::Corrupt)
                } else {
                    Ok(())
                }
            }
            (_, reply) => {
                Err(Violation::WrongAnswer { client, asked: asked(), answered: format!("{reply:?} (tag {tag})") })
            }
        }
    }

    fn appended(&mut self, entry: Entry) -> Result<(), Violation> {
        let Entry { index, client, seq, .. } = entry;
        match self.newest.replace(entry) {
            Some(Entry { index: before, .. }) if before >= index => {
                return Err(Violation::IndexNotGrowing { client, seq, index, before });
            }
            _ => {}
        }
        self.witness.saw_entry(Acknowledged { client, seq, index });
        Ok(())
    }

    /// Has the kernel drop the connection, and all that is unsent or unacknowledged, when the socket is closed (socket(7),
    /// SO_LINGER with a time of zero).
    fn forget(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the option's value is one `linger`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                mem::size_of_val(&linger) as libc::socklen_t,
            )
        };
        if result < 0 {
            log::warn!("client {}: SO_LINGER: {}", self.options.client, io::Error::last_os_error());
        }
    }
}
