//! The daemon: one event loop that reads sources, judges, and hands on; whoever is told is told by another thread.

mod clock;
mod needed;
mod server;
mod watcher;

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::server::Server;
use self::watcher::Watcher;
use crate::config::Config;
use crate::control::Published;
use crate::health::{Colour, Stored};
use crate::sinks::{Guests, Keeper, Mailbox, News, Publisher};
use crate::sources::{self, LogRead};

const SIGNALS: Token = Token(0);
const SERVER: Token = Token(1);
/// Tokens of sources are from here on, those of connections behind them.
const SOURCES: usize = 2;
const CONNECTIONS: usize = 1 << 20;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The control socket cannot be used.
    #[error("{}: {source}; `kemari-mce-monitor status` asks the one that runs", path.display())]
    Control {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not give what the event loop needs.
    #[error("event loop: {0}")]
    Loop(#[from] io::Error),
    /// A thread has ended as it must not.
    #[error("a thread has panicked; its last words are above")]
    Panicked,
}

/// Whoever is told, each with a thread.
pub(crate) struct Sinks {
    news: Arc<Mailbox<News>>,
    colours: Arc<Mailbox<Colour>>,
    states: Arc<Mailbox<Stored>>,
    published: Arc<Mutex<Published>>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    fn start(config: &Config, keeper: Keeper) -> Sinks {
        let (news, colours, states) = (Arc::default(), Arc::default(), Arc::default());
        let published = Arc::default();
        let guests = Guests::new(&config.guests);
        let publisher = Publisher::new(&config.cluster, guests.clone(), Arc::clone(&published));
        let threads = vec![
            thread::spawn({
                let news = Arc::clone(&news);
                move || publisher.serve(&news, clock::now)
            }),
            thread::spawn({
                let colours = Arc::clone(&colours);
                move || guests.serve(&colours)
            }),
            thread::spawn({
                let states = Arc::clone(&states);
                move || keeper.serve(&states)
            }),
        ];
        Sinks { news, colours, states, published, threads }
    }

    /// Lets them finish.
    fn end(self) -> Result<(), DaemonError> {
        self.news.close();
        self.colours.close();
        self.states.close();
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        if ended.iter().all(Result::is_ok) { Ok(()) } else { Err(DaemonError::Panicked) }
    }
}

/// Watches until somebody asks this process to end.
///
/// # Errors
/// What it cannot begin without.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let mut poll = Poll::new()?;
    let control = |source| DaemonError::Control { path: config.daemon.control.clone(), source };
    let registry = poll.registry().try_clone()?;
    let mut server = Server::bind(&config.daemon.control, registry, SERVER, CONNECTIONS).map_err(control)?;
    let mut signals = signals()?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;

    let keeper = Keeper::new(&config.daemon.state);
    let stored = keeper.load();
    let read = stored.as_ref().filter(|stored| stored.boot_id == clock::boot_id());
    let read =
        read.map_or_else(LogRead::default, |stored| LogRead { after: stored.log_sequence, since: Some(stored.saved) });
    let mut found = sources::open(&config.sources, &read);
    for (index, watched) in found.watched.iter_mut().enumerate() {
        if let Err(error) = watched.source.register(poll.registry(), Token(SOURCES + index)) {
            watched.trouble = Some(error.to_string());
        }
    }
    let mut watcher = Watcher::new(config, found, stored, Sinks::start(config, keeper));
    watcher.begin();

    let mut events = Events::with_capacity(256);
    loop {
        match poll.poll(&mut events, Some(watcher.patience())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut ends = false;
        for event in &events {
            match event.token() {
                SIGNALS => ends = true,
                SERVER => server.accept(),
                Token(token) if token >= CONNECTIONS => {
                    server.ready(event.token(), |request| watcher.answer(request));
                }
                Token(token) => watcher.ready(token - SOURCES),
            }
        }
        watcher.turn();
        if ends {
            log::info!("ends");
            return watcher.end();
        }
    }
}

/// Readable once somebody asks this process to end.
fn signals() -> io::Result<UnixStream> {
    let (read, write) = StdUnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(UnixStream::from_std(read))
}

/// At most this long nothing is looked at.
const IDLE: Duration = Duration::from_secs(60);
