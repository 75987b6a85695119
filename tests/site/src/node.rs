//! One replicator process.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kemari_control::{Client, Reply, Request, Status};
use libc::c_int;

use crate::SiteError;

/// How often a node is looked at by one who waits for it.
const TICK: Duration = Duration::from_millis(5);
/// How long a node may take to listen at its control socket: it maps and populates the guest's memory first.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How much of a node's log is shown with an error.
const LOG_LINES: usize = 25;

/// The two nodes of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// The one that boots the guest.
    Alpha,
    /// The other.
    Beta,
}

impl NodeName {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NodeName::Alpha => "alpha",
            NodeName::Beta => "beta",
        }
    }

    /// The other one.
    #[must_use]
    pub fn peer(self) -> NodeName {
        match self {
            NodeName::Alpha => NodeName::Beta,
            NodeName::Beta => NodeName::Alpha,
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where the files of a node are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) log: PathBuf,
}

impl Files {
    pub(crate) fn of(directory: &Path, name: NodeName) -> Files {
        let file = |extension: &str| directory.join(format!("{name}.{extension}"));
        Files { config: file("toml"), state: file("state"), control: file("sock"), log: file("log") }
    }

    /// The last lines of the node's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// A running `kemari-replicator run`. It is killed when the value is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Node {
    name: NodeName,
    files: Files,
    process: Child,
}

impl Node {
    /// Starts the process and waits until it can be talked to.
    pub(crate) fn start(
        binary: &Path,
        name: NodeName,
        files: Files,
        environment: Option<(&str, &str)>,
    ) -> Result<Node, SiteError> {
        let spawn_error = |source| SiteError::Spawn { path: binary.to_owned(), source };
        let log = OpenOptions::new().create(true).append(true).open(&files.log).map_err(spawn_error)?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&files.config).envs(environment);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(spawn_error)?).stderr(log);
        // ^C at the terminal is for whoever started the nodes. It says goodbye to them in its own way.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: the closure makes two system calls and allocates nothing, as it must between fork and exec.
        unsafe { command.pre_exec(move || die_with(parent)) };
        let process = command.spawn().map_err(spawn_error)?;
        let mut node = Node { name, files, process };
        node.wait("ready", START_LIMIT, |_| true)?;
        Ok(node)
    }

    /// Which node it is.
    #[must_use]
    pub fn name(&self) -> NodeName {
        self.name
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.files.control
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Status, SiteError> {
        self.client().and_then(|mut client| client.status()).map_err(|source| self.control_error(source))
    }

    /// Has it do something, which `command` is the word for, and waits for it to be done. Returns what it says about it.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn request(&self, command: &str, request: &Request) -> Result<String, SiteError> {
        let reply = self.client().and_then(|mut client| client.request(request));
        match reply.map_err(|source| self.control_error(source))? {
            Reply::Done { detail } => Ok(detail),
            other => Err(SiteError::Refused {
                node: self.name.to_string(),
                command: command.to_owned(),
                reason: match other {
                    Reply::Refused { reason } => reason,
                    other => format!("an answer to something else: {other:?}"),
                },
            }),
        }
    }

    /// Waits until its status is as `reached` wants it, which `wanted` is the word for.
    ///
    /// # Errors
    /// The process ended, or the time is over.
    pub fn wait(
        &mut self,
        wanted: &str,
        limit: Duration,
        mut reached: impl FnMut(&Status) -> bool,
    ) -> Result<Status, SiteError> {
        let deadline = Instant::now() + limit;
        loop {
            let state = match self.status() {
                Ok(status) if reached(&status) => return Ok(status),
                Ok(status) => format!("{status:?}"),
                Err(error) => error.to_string(),
            };
            if let Some(status) = self.ended()? {
                return Err(SiteError::Ended { node: self.name.to_string(), status, log: self.files.log_tail() });
            }
            if Instant::now() >= deadline {
                return Err(SiteError::Timeout {
                    node: self.name.to_string(),
                    wanted: wanted.to_owned(),
                    seconds: limit.as_secs(),
                    state,
                    log: self.files.log_tail(),
                });
            }
            std::thread::sleep(TICK);
        }
    }

    /// Stops it where it is: nothing of it runs from when this returns.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn freeze(&mut self) -> Result<(), SiteError> {
        self.signal(libc::SIGSTOP)?;
        let mut status = 0;
        // SAFETY: waitpid writes one int, which outlives the call; the child is ours, and WUNTRACED only tells of its stop.
        let result = unsafe { libc::waitpid(self.pid(), &raw mut status, libc::WUNTRACED) };
        if result < 0 || !libc::WIFSTOPPED(status) {
            return Err(self.gone());
        }
        Ok(())
    }

    /// Lets it go on after [`freeze`](Node::freeze).
    ///
    /// # Errors
    /// It is not there any more.
    pub fn thaw(&mut self) -> Result<(), SiteError> {
        self.signal(libc::SIGCONT)
    }

    /// Kills it with SIGKILL. It is gone, and every request it had given to the kernel is finished, when this returns.
    ///
    /// # Errors
    /// It was not there any more.
    pub fn kill(mut self) -> Result<(), SiteError> {
        self.signal(libc::SIGKILL)?;
        self.process.wait().map(drop).map_err(|_| self.gone())
    }

    /// Whether it has ended by itself, and how.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, SiteError> {
        self.process.try_wait().map_err(|_| self.gone())
    }

    fn pid(&self) -> c_int {
        self.process.id().cast_signed()
    }

    fn signal(&self, signal: c_int) -> Result<(), SiteError> {
        // SAFETY: no memory is passed. The process is our child and not reaped, so the number is its own.
        if unsafe { libc::kill(self.pid(), signal) } < 0 { Err(self.gone()) } else { Ok(()) }
    }

    /// The error for a system call that has just failed.
    fn gone(&self) -> SiteError {
        SiteError::Gone { node: self.name.to_string(), source: io::Error::last_os_error() }
    }

    fn client(&self) -> Result<Client, kemari_control::ClientError> {
        Client::connect(&self.files.control)
    }

    fn control_error(&self, source: kemari_control::ClientError) -> SiteError {
        SiteError::Control { node: self.name.to_string(), source }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}

/// Has the kernel kill this process with the thread that started it, which may have ended already.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal by value.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getppid takes nothing and cannot fail.
    if unsafe { libc::getppid() }.cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}
