//! Stop: graceful for as long as there is time, then not.

use std::fs;
use std::time::{Duration, Instant};

use kemari_control::Role;
use rustix::process::Signal;

use super::environment::Environment;
use super::{Code, Failure, Outcome, demote, process, status};

/// What is left of an action's time for the end by force: the kernel tears a guest's memory down.
const FORCE: Duration = Duration::from_secs(5);

pub(super) fn stop(environment: &Environment) -> Outcome {
    let deadline = Instant::now() + environment.timeout.saturating_sub(FORCE);
    let stopping = environment.file("stopping");
    if let Err(error) = fs::write(&stopping, "") {
        eprintln!("{}: {error}; the end will be reported as a failure", stopping.display());
    }
    if let Some(process) = process::find(environment) {
        if let Some(status) = status(environment) {
            // Never by the replicator's own way of stopping: it would have the standby promote itself, behind Pacemaker's back.
            if status.role == Role::Primary
                && let Err(failure) = demote::leave(environment, &status)
            {
                eprintln!("{}", failure.reason);
            }
            process.signal(Signal::TERM);
            process.wait(deadline.saturating_duration_since(Instant::now()));
        }
        process.signal(Signal::KILL);
        if !process.wait(FORCE) {
            // It may be stuck writing to dead storage: only fencing is certain now.
            return Err(Failure::new(Code::Generic, "the replicator does not end, even by SIGKILL"));
        }
    }
    Ok(Code::Success)
}
