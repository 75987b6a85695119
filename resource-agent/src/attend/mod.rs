//! The supervisor: it starts the replicator, and tells Pacemaker at once what happens to it.
//!
//! Three threads, so that none waits for another's affair: this one waits for the replicator's end, one listens to its events,
//! and one talks to the cluster, which may take its time. If the supervisor itself dies the guest runs on; the next monitor
//! action starts another, which finds the replicator there and watches over it.

mod death;
mod score;
mod teller;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use kemari_control::Client;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::attributes;
use crate::cluster::{Attributes, ClusterError};
use crate::guest::{Guest, GuestError};

use self::teller::{News, Teller};

/// How long the replicator may take to listen: it maps and populates the guest's memory first.
const START_LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);
/// Before the replicator's events are asked for anew. This ends with the process, as the replicator's end ends that.
const RECONNECT: Duration = Duration::from_millis(200);

/// `kemari-agent attend`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The guest's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The replicator's program
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: PathBuf,
    /// The resource, as Pacemaker calls it
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: String,
    /// A file that is there when the replicator is asked to end
    #[arg(long, value_name = "FILE")]
    pub(crate) stopping: PathBuf,
    /// A file that is locked for as long as this program runs
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: PathBuf,
    /// The operator's policy, an argument of `authority` a line
    #[arg(long, value_name = "FILE")]
    pub(crate) policy_file: PathBuf,
}

/// Why there is nothing to attend to.
#[derive(Debug, thiserror::Error)]
enum AttendError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the word of an earlier replicator cannot be taken back: {0}")]
    Cluster(#[from] ClusterError),
    #[error("cannot {step}: {source}")]
    Io { step: &'static str, source: io::Error },
    #[error("{}: ended ({status}) before it could be talked to; its log says why", program.display())]
    Stillborn { program: PathBuf, status: std::process::ExitStatus },
    #[error("{}: does not listen after {} s", control.display(), START_LIMIT.as_secs())]
    Deaf { control: PathBuf },
}

/// Attends until the replicator has ended.
pub(crate) fn run(options: &Options) -> ExitCode {
    match attend(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kemari-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn io(step: &'static str) -> impl FnOnce(io::Error) -> AttendError {
    move |source| AttendError::Io { step, source }
}

fn attend(options: &Options) -> Result<(), AttendError> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&options.lock).map_err(io("lock"))?;
    if lock.try_lock().is_err() {
        // Another one attends already.
        return Ok(());
    }
    let guest = Guest::read(&options.config)?;
    let pidfd = match Client::connect(&guest.control).and_then(|mut client| client.status()) {
        Ok(status) => open(status.pid)?,
        Err(_) => start(options, &guest)?,
    };
    let news = Arc::new(News::default());
    let teller = Teller::new(options, &guest, Arc::clone(&news));
    let teller = thread::spawn(move || teller.serve());
    thread::spawn({
        let (control, news) = (guest.control.clone(), Arc::clone(&news));
        move || listen(&control, &news)
    });
    wait(&pidfd).map_err(io("wait for the replicator"))?;
    news.died();
    teller.join().map_err(|_| AttendError::Io { step: "tell the cluster", source: io::Error::other("panicked") })
}

/// Starts the replicator and waits until it can be talked to.
fn start(options: &Options, guest: &Guest) -> Result<OwnedFd, AttendError> {
    // From here on something may be held again that the one before gave its word about.
    let (own, word) = (Attributes::of(&guest.node), attributes::outdated(&guest.name));
    if own.get(&word)?.is_some() {
        own.delete(&word)?;
    }
    let agent = std::env::current_exe().map_err(io("find this program"))?;
    let handler = format!("{} authority --policy-file {}", agent.display(), options.policy_file.display());
    let mut command = Command::new(&options.binary);
    command.arg("run").arg("--config").arg(&guest.config).args(["--handler", &handler]).stdin(Stdio::null());
    if Path::new("/dev/log").exists() {
        command.arg("--syslog");
    }
    let mut child = command.spawn().map_err(io("start the replicator"))?;
    let pidfd = open(child.id())?;
    let begun = Instant::now();
    // Its socket is there before its devices are: only an answer says that it has started.
    while Client::connect(&guest.control).and_then(|mut client| client.status()).is_err() {
        if let Some(status) = child.try_wait().map_err(io("wait for the replicator"))? {
            return Err(AttendError::Stillborn { program: options.binary.clone(), status });
        }
        if begun.elapsed() > START_LIMIT {
            child.kill().and_then(|()| child.wait()).map_err(io("end the replicator"))?;
            return Err(AttendError::Deaf { control: guest.control.clone() });
        }
        thread::sleep(TICK);
    }
    // Nobody else waits for it; a pidfd is readable from its end on, waited for or not.
    Ok(pidfd)
}

fn open(pid: u32) -> Result<OwnedFd, AttendError> {
    let none = || io::Error::other("the replicator has no process id");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none).map_err(io("watch the replicator"))?;
    pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| AttendError::Io { step: "watch the replicator", source: error.into() })
}

fn wait(pidfd: &OwnedFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has the teller look whenever something has happened. The stream ends with the replicator, or if this end cannot keep up.
fn listen(control: &Path, news: &News) {
    loop {
        if let Ok(events) = Client::connect(control).and_then(Client::events) {
            // What happened between two streams is not in either.
            news.happened();
            events.take_while(Result::is_ok).for_each(|_| news.happened());
        }
        thread::sleep(RECONNECT);
    }
}
