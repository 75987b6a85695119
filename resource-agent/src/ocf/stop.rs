//! Stop: graceful for as long as there is time, then not.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Replication, Request, Role, Status};
use rustix::process::Signal;

use super::environment::Environment;
use super::start::withdraw_score;
use super::{Code, Failure, Outcome, demote, process, request, status};

/// What is left of an action's time at least for the end by force: the kernel tears a guest's memory down.
const FORCE: Duration = Duration::from_secs(5);
/// The same as a part of that time, for very large guests; who has one gives a stop more time.
const FORCE_PART: u32 = 6;
/// How long the supervisor may take to say its last words to the cluster.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(20);

pub(super) fn stop(environment: &Environment) -> Outcome {
    let force = FORCE.max(environment.timeout / FORCE_PART);
    let deadline = environment.deadline(force);
    mark(&environment.file("stopping"));
    if let Some(process) = process::find(environment) {
        if let Some(status) = status(environment) {
            // Never by the replicator's own way of stopping: it would have the standby promote itself, behind Pacemaker's back.
            let left = match status.role {
                Role::Primary => demote::leave(environment, &status, deadline),
                Role::Standby => resume_to_shut_down(environment, &status, deadline),
            };
            match left {
                Ok(_) => {
                    process.signal(Signal::TERM);
                    process.wait(deadline.saturating_duration_since(Instant::now()));
                }
                Err(failure) => eprintln!("{}", failure.reason),
            }
        }
        if !process.wait(Duration::ZERO) {
            process.signal(Signal::KILL);
        }
        if !process.wait(force) {
            // It may be stuck writing to dead storage: only fencing is certain now.
            return Err(Failure::new(Code::Generic, "the replicator does not end, even by SIGKILL"));
        }
        await_supervisor(environment);
    }
    environment.forget_guest();
    // The supervisor does so, if it lives: a score that stays would have a node promoted that runs nothing.
    withdraw_score(environment);
    Ok(Code::Success)
}

/// If this standby holds the final image of a handover, and nobody is to resume it any more, it does so itself: a guest that stands
/// still between two nodes which both end is shut down, and not thrown away. If the other node does the same, or was promoted
/// after all, one of the two swaps fails, and that node just ends.
fn resume_to_shut_down(environment: &Environment, status: &Status, deadline: Instant) -> Outcome {
    let final_image = status.image.as_ref().is_some_and(|image| image.is_final) && status.not_promotable.is_none();
    if !final_image || status.replication != Replication::Alone {
        return Ok(Code::Success);
    }
    match demote::goes_on_elsewhere(environment) {
        Ok(false) => {}
        Ok(true) => return Ok(Code::Success),
        Err(error) => {
            eprintln!("cannot tell whether the guest goes on elsewhere: {error}");
            return Ok(Code::Success);
        }
    }
    match request(environment, &Request::Promote { cold_boot: false }, deadline) {
        Ok(()) => request(environment, &Request::Shutdown, deadline).map(|()| Code::Success),
        Err(failure) => {
            eprintln!("the guest is not resumed to be shut down: {}", failure.reason);
            Ok(Code::Success)
        }
    }
}

/// Tells the supervisor that the end is wanted.
fn mark(stopping: &Path) {
    if let Err(error) = fs::write(stopping, "") {
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
