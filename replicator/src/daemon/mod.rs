//! The daemon: one process for one guest on one node.
//!
//! One thread, this event loop, owns everything but the vCPUs and the disks' I/O: the link, the control socket, the timers, the
//! gate, and the work of the devices. So a checkpoint is cut with every device at rest, without a lock.

mod checkpoint;
mod consent;
mod crash;
mod error;
mod events;
mod handover;
mod host;
mod links;
mod mend;
mod metrics;
mod news;
mod node;
mod pace;
mod primary;
mod report;
mod reset;
mod rival;
mod server;
mod signals;
mod stall;
mod standby;
mod stop;

use std::time::{Duration, Instant};

use kemari_core::Generation;
use kemari_protocol::standby::Held;
use kemari_vmm::{Interest as SourceInterest, Machine, SourceId};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use self::host::{Host, protocol_config};
use self::links::Links;
use self::news::{News, Ticket};
use self::node::Node;
use self::server::Server;
use self::signals::Signals;
use crate::authority::{Authority, Handler, Memory};
use crate::config::Config;
use crate::evidence::Recorder;

pub use self::error::DaemonError;

const SIGNALS: Token = Token(0);
const LISTENER: Token = Token(1);
const CONTROL: Token = Token(2);
const AUTHORITY: Token = Token(3);
/// From here on the machine's sources, in their order.
const SOURCE_TOKENS: usize = 0x1_0000;
/// From here on links.
const LINK_TOKENS: usize = 0x100_0000;
/// From here on connections of the control socket.
const CONTROL_TOKENS: usize = 0x1_0000_0000;

/// How long a role may go on with what its peer sends before the event loop looks at everything else.
const TURN: Duration = Duration::from_millis(20);

/// What a role asks of the node after it has done what there was to do.
enum Outcome {
    /// Nothing.
    Stay,
    /// The standby is frozen: promote it.
    Promote,
    /// The primary has handed over, or may not run the guest any more.
    Demoted {
        /// Its final image, if it has one.
        held: Option<Held>,
        /// Who waits for the answer.
        ticket: Option<Ticket>,
        /// The peer's generation, if it was promoted; why it was not, if that was wanted.
        result: Result<Option<Generation>, String>,
    },
    /// A newer generation exists.
    Superseded(Generation),
}

/// Runs a node until it is stopped. It starts as standby-or-nothing and waits to be told. What it is told it asks the handler,
/// if there is one.
///
/// # Errors
/// What kept it from starting, or from going on.
pub fn run(config: Config, handler: Option<Handler>) -> Result<(), DaemonError> {
    keep_freed_memory();
    let mut poll = Poll::new()?;
    let mut signals = Signals::new()?;
    poll.registry().register(&mut signals.stream, SIGNALS, Interest::READABLE)?;
    let memory = Memory::open(&config.node.state_dir, &config.guest.name)?;
    let waker = Waker::new(poll.registry(), AUTHORITY)?;
    let authority = Authority::start(memory, handler, move || {
        if let Err(error) = waker.wake() {
            log::error!("the authority's answer has to wait for the next event: {error}");
        }
    })?;
    let links = Links::new(&config.link, poll.registry().try_clone()?)?;
    let server = Server::bind(&config.node.control, poll.registry().try_clone()?, CONTROL)?;
    let recorder = Recorder::open(&config.node.control)?;
    let machine = Machine::new(&config.machine()).map_err(|error| DaemonError::of_machine(error, &config))?;
    let sources = register(poll.registry(), &machine)?;
    log::info!("{} of guest {} is ready", config.node.name, config.guest.name);
    let protocol = protocol_config(&config, &machine)?;
    let host = Host {
        config,
        protocol,
        machine,
        machine_events: Vec::new(),
        authority,
        authority_says: None,
        pace: None,
        committed_at: None,
        ledger: crash::Ledger::default(),
        mended_pages: 0,
        links,
        news: News::default(),
        recorder,
    };
    let mut daemon = Daemon { node: Node::new(host)?, server, signals, sources };
    let result = daemon.turn(&mut poll);
    if let Err(error) = &result {
        daemon.node.host.news.emit("error", &error.to_string());
    }
    daemon.server.deliver(&mut daemon.node.host.news);
    daemon.node.farewell();
    if daemon.node.host.machine.disk_in_flight() > 0 {
        // A thread may stay that writes after all; whoever is started in its place must wait for that.
        daemon.node.host.authority.keep_lock();
    }
    result
}

/// Has malloc keep what is freed. A checkpoint's buffers are freed when it is sent and needed again for the next one; given
/// back to the kernel in between, each page of them costs a fault while the guest is paused.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers, and these parameters may be set at any time (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 20);
    }
}

fn register(registry: &Registry, machine: &Machine) -> Result<Vec<SourceId>, DaemonError> {
    let mut ids = Vec::new();
    for source in machine.sources() {
        let interest = match source.interest {
            SourceInterest::Readable => Interest::READABLE,
            SourceInterest::ReadableWritable => Interest::READABLE | Interest::WRITABLE,
        };
        registry.register(&mut SourceFd(&source.fd), Token(SOURCE_TOKENS + ids.len()), interest)?;
        ids.push(source.id);
    }
    Ok(ids)
}

/// The event loop and what it turns.
struct Daemon {
    node: Node,
    server: Server,
    signals: Signals,
    sources: Vec<SourceId>,
}

impl Daemon {
    fn turn(&mut self, poll: &mut Poll) -> Result<(), DaemonError> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.next_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            match poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.ready(event)?;
            }
            if !self.settle()? {
                return Ok(());
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        [self.node.next_timeout(), self.node.host.links.next_timeout()].into_iter().flatten().min()
    }

    fn ready(&mut self, event: &Event) -> Result<(), DaemonError> {
        match event.token() {
            SIGNALS => {
                for _ in 0..self.signals.drain() {
                    self.node.begin_stop(None);
                }
            }
            // The node looks for answers whenever it is pumped.
            AUTHORITY => {}
            LISTENER => self.node.host.links.accept(),
            CONTROL => self.server.accept(),
            token if token.0 >= CONTROL_TOKENS => {
                for (ticket, request) in self.server.ready(token) {
                    self.node.command(ticket, &request)?;
                }
            }
            token if token.0 >= LINK_TOKENS => {
                self.node.host.links.ready(token);
                self.node.link_ready(token);
            }
            token => {
                if let Some(source) = self.sources.get(token.0 - SOURCE_TOKENS) {
                    self.node.service(*source);
                }
            }
        }
        Ok(())
    }

    /// Lets the node do what there is to do, and says what it has to say, until both are done. Returns whether to go on.
    fn settle(&mut self) -> Result<bool, DaemonError> {
        loop {
            while let Some(link) = self.node.host.links.next_accepted() {
                self.node.link_accepted(link);
            }
            if !self.node.pump()? {
                return Ok(false);
            }
            let requests = self.server.deliver(&mut self.node.host.news);
            if requests.is_empty() {
                return Ok(true);
            }
            for (ticket, request) in requests {
                self.node.command(ticket, &request)?;
            }
        }
    }
}
