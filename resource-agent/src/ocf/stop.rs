//! Stop: graceful for as long as there is time, then not.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kemari_control::Role;
use rustix::process::Signal;

use super::environment::Environment;
use super::{Code, Failure, Outcome, demote, process, status};

/// What is left of an action's time for the end by force: the kernel tears a guest's memory down.
const FORCE: Duration = Duration::from_secs(5);
/// How long the supervisor may take to say its last words to the cluster.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(3);
/// In the file that says that the end is wanted: it is not the replicator's own.
pub(crate) const BY_FORCE: &str = "by force";
const TICK: Duration = Duration::from_millis(20);

pub(super) fn stop(environment: &Environment) -> Outcome {
    let deadline = Instant::now() + environment.timeout.saturating_sub(FORCE);
    let stopping = environment.file("stopping");
    mark(&stopping, "");
    if let Some(process) = process::find(environment) {
        if let Some(status) = status(environment) {
            // Never by the replicator's own way of stopping: it would have the standby promote itself, behind Pacemaker's back.
            let left =
                if status.role == Role::Primary { demote::leave(environment, &status) } else { Ok(Code::Success) };
            match left {
                Ok(_) => {
                    process.signal(Signal::TERM);
                    process.wait(deadline.saturating_duration_since(Instant::now()));
                }
                Err(failure) => eprintln!("{}", failure.reason),
            }
        }
        if !process.wait(Duration::ZERO) {
            // It will not have said goodbye, so the supervisor has to say something in its place.
            mark(&stopping, BY_FORCE);
            process.signal(Signal::KILL);
        }
        if !process.wait(FORCE) {
            // It may be stuck writing to dead storage: only fencing is certain now.
            return Err(Failure::new(Code::Generic, "the replicator does not end, even by SIGKILL"));
        }
        await_supervisor(environment);
    }
    environment.forget_guest();
    Ok(Code::Success)
}

/// Tells the supervisor that the end is wanted, and how it comes.
fn mark(stopping: &Path, how: &str) {
    if let Err(error) = fs::write(stopping, how) {
        eprintln!("{}: {error}; the end will be reported as a failure", stopping.display());
    }
}

/// What it withdraws is withdrawn when this action ends. One whose replicator had died before takes its time, and is not waited
/// for: somebody waits for the guest.
fn await_supervisor(environment: &Environment) {
    let begun = Instant::now();
    let busy = || fs::File::open(environment.file("lock")).is_ok_and(|lock| lock.try_lock().is_err());
    while busy() && begun.elapsed() < SUPERVISOR_LIMIT {
        thread::sleep(TICK);
    }
}
