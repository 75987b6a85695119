//! Demote: the guest goes on elsewhere, or is shut down.

use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Replication, Request, Role, Status};

use super::environment::Environment;
use super::{Code, Failure, Outcome, RESERVE, process, request, status};
use crate::cluster::{ClusterError, Intention};
use crate::sabotage::{Bug, planted};

/// How far apart two nodes may hear that the whole cluster is to stop.
const SHUTDOWNS_APART: Duration = Duration::from_secs(2);
/// How long consent is waited for before a guest whose output is held is given up.
const CONSENT_LIMIT: Duration = Duration::from_secs(5);
/// How long a handover is tried before the guest is shut down instead.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn demote(environment: &Environment) -> Outcome {
    match status(environment) {
        Some(status) if status.role == Role::Primary => leave(environment, &status, environment.deadline(RESERVE)),
        Some(_) => Ok(Code::Success),
        // It may hang and still run the guest: then it is to be stopped, and until it is the other node is not to be promoted.
        None if process::find(environment).is_some() => Err(Failure::new(Code::Generic, process::DEAF)),
        None => Ok(Code::Success),
    }
}

/// Has the guest leave this node, which is its primary, by the deadline.
pub(super) fn leave(environment: &Environment, status: &Status, deadline: Instant) -> Outcome {
    if planted(Bug::DemoteDoesNothing) {
        return Ok(Code::Success);
    }
    let status = &await_consent(environment, status);
    if is_held(status) {
        // It could not even shut down: its writes are held, too. What the standby holds is all that was ever shown.
        let reason =
            "the guest's output is held, and there is no standby in sync to hand it over to: it has to be stopped";
        return Err(Failure::new(Code::Generic, reason));
    }
    let handed_over = match goes_on(environment, status) {
        Ok(true) => hand_over(environment, deadline),
        Ok(false) => false,
        Err(error) => {
            // Who cannot ask the cluster must not throw the guest's memory away.
            let reason = format!("cannot tell whether the guest goes on elsewhere: {error}");
            return Err(Failure::new(Code::Generic, reason));
        }
    };
    // What an action says on stderr Pacemaker logs.
    if handed_over {
        eprintln!("the guest is handed over to {}", status.peer.as_deref().unwrap_or("its standby"));
    } else {
        eprintln!("no node is to go on with the guest, or none can: it is asked to shut down");
        request(environment, &Request::Shutdown, deadline)?;
    }
    Ok(Code::Success)
}

/// Hands over. What is in the way of it passes, as long as there is a standby in sync: the record does not name that yet, or a
/// page of the guest is being mended.
fn hand_over(environment: &Environment, deadline: Instant) -> bool {
    let until = deadline.min(Instant::now() + HANDOVER_LIMIT);
    loop {
        match request(environment, &Request::Demote, deadline) {
            Ok(()) => return true,
            Err(failure) => eprintln!("{}", failure.reason),
        }
        let protected = || status(environment).is_some_and(|status| status.replication == Replication::Protected);
        if Instant::now() >= until || !protected() {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// Waits for consent, if the guest's output is held: a standby that has just left is followed by it within a moment.
fn await_consent(environment: &Environment, status: &Status) -> Status {
    let until = Instant::now() + CONSENT_LIMIT.min(environment.timeout / 4);
    let mut newest = status.clone();
    while is_held(&newest) && Instant::now() < until {
        thread::sleep(LOOK);
        if let Some(status) = super::status(environment) {
            newest = status;
        }
    }
    newest
}

/// Whether the guest stands still for the world: its standby is lost, and nobody has consented to go on without.
fn is_held(status: &Status) -> bool {
    status.replication != Replication::Protected && status.gate.as_ref().is_some_and(|gate| gate.open.is_none())
}

/// Whether a node other than this one may be promoted, for all that the cluster knows.
pub(super) fn goes_on_elsewhere(environment: &Environment) -> Result<bool, ClusterError> {
    let intention = Intention::read(environment.resource())?;
    let own = &environment.guest.node;
    Ok(intention.membership.nodes.iter().any(|node| node.name != *own && intention.may_run_primary(node)))
}

/// Whether some node is to run the guest, and the standby can.
fn goes_on(environment: &Environment, status: &Status) -> Result<bool, ClusterError> {
    let (Replication::Protected, Some(standby)) = (status.replication, &status.peer) else { return Ok(false) };
    let mut intention = Intention::read(environment.resource())?;
    if !intention.wants_primary {
        return Ok(false);
    }
    let shuts_down =
        |intention: &Intention, name: &str| intention.membership.node(name).is_some_and(|node| node.shutdown);
    // `pcs cluster stop --all` reaches one node after the other. A guest that was handed over to a node that is about to stop, too,
    // would be thrown away; meanwhile it runs.
    let until = Instant::now() + SHUTDOWNS_APART;
    while shuts_down(&intention, &status.node) && !shuts_down(&intention, standby) && Instant::now() < until {
        thread::sleep(LOOK);
        intention = Intention::read(environment.resource())?;
    }
    let may_run = |name: &String| intention.membership.node(name).is_some_and(|node| intention.may_run_primary(node));
    Ok([standby, &status.node].into_iter().any(may_run))
}
