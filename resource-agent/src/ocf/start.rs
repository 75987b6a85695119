//! Start: the supervisor, which starts the replicator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::environment::Environment;
use super::{Code, Failure, Outcome, RESERVE, status};
use crate::attributes;
use crate::cluster::Attributes;

const TICK: Duration = Duration::from_millis(20);
/// What is read of a log for the reason of a failed start.
const LAST_BYTES: u64 = 16 << 10;

pub(super) fn start(environment: &Environment) -> Outcome {
    environment.expect_own_name()?;
    environment.keep_policy()?;
    environment.remember_guest()?;
    let failed = |error: io::Error| Failure::new(Code::Generic, format!("cannot start: {error}"));
    let _ = fs::remove_file(environment.file("stopping"));
    let deadline = environment.deadline(RESERVE);
    if status(environment).is_none() {
        withdraw_score(environment);
    }
    let mut supervisor = spawn(environment).map_err(failed)?;
    while status(environment).is_none() {
        if Instant::now() >= deadline {
            return Err(Failure::new(Code::Generic, "the replicator does not answer in time; its log says more"));
        }
        match supervisor.try_wait().map_err(failed)? {
            // The one before has not ended yet.
            Some(ended) if ended.success() => supervisor = spawn(environment).map_err(failed)?,
            Some(_) => return Err(Failure::new(Code::Generic, last_words(environment))),
            None => {}
        }
        thread::sleep(TICK);
    }
    Ok(Code::Success)
}

/// Withdraws the promotion score that one before may have left, of what it held.
pub(super) fn withdraw_score(environment: &Environment) {
    let own = Attributes::of(&environment.guest.node);
    if let Err(error) = own.delete(&attributes::score(environment.resource())) {
        eprintln!("the promotion score is not withdrawn: {error}");
    }
}

/// Starts a supervisor if there is none.
pub(super) fn ensure_supervisor(environment: &Environment) -> Result<(), Failure> {
    let free = File::open(environment.file("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
    if free || !environment.file("lock").exists() {
        spawn(environment)
            .map_err(|error| Failure::new(Code::Generic, format!("cannot start the supervisor: {error}")))?;
    }
    Ok(())
}

/// The supervisor, in a session of its own: it outlives this action, and Pacemaker.
fn spawn(environment: &Environment) -> io::Result<Child> {
    let log = environment.log.clone().unwrap_or_else(|| environment.file("log"));
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("attend")
        .args(["--resource", environment.resource()])
        .arg("--config")
        .arg(&environment.guest.config)
        .arg("--binary")
        .arg(&environment.binary)
        .arg("--stopping")
        .arg(environment.file("stopping"))
        .arg("--lock")
        .arg(environment.file("lock"))
        .arg("--policy-file")
        .arg(environment.file("policy"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is a system call without arguments, which may be made between fork and exec.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    command.spawn()
}

fn last_words(environment: &Environment) -> String {
    let log = environment.log.clone().unwrap_or_else(|| environment.file("log"));
    let text = end_of(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| line.starts_with("kemari-replicator:"));
    line.map_or_else(|| "the replicator ended at once; its log says why".to_owned(), str::to_owned)
}

/// The end of a file that may be of any length.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut end = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut end)?;
    Ok(end)
}
