//! Demote: the guest goes on elsewhere, or is shut down.

use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Replication, Request, Role, Status};

use super::environment::Environment;
use super::{Code, Failure, Outcome, process, request, status};
use crate::cluster::{ClusterError, Intention, Membership};

/// How far apart two nodes may hear that the whole cluster is to stop.
const SHUTDOWNS_APART: Duration = Duration::from_secs(2);
/// How long consent is waited for before a guest whose output is held is given up.
const CONSENT_LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn demote(environment: &Environment) -> Outcome {
    match status(environment) {
        Some(status) if status.role == Role::Primary => leave(environment, &status),
        Some(_) => Ok(Code::Success),
        // It may hang and still run the guest: then it is to be stopped, and until it is the other node is not to be promoted.
        None if process::find(environment).is_some() => {
            Err(Failure::new(Code::Generic, "the replicator runs, but does not answer"))
        }
        None => Ok(Code::Success),
    }
}

/// Has the guest leave this node, which is its primary.
pub(super) fn leave(environment: &Environment, status: &Status) -> Outcome {
    let status = &await_consent(environment, status);
    if is_held(status) {
        // It could not even shut down: its writes are held, too. What the standby holds is all that was ever shown.
        let reason =
            "the guest's output is held, and there is no standby in sync to hand it over to: it has to be stopped";
        return Err(Failure::new(Code::Generic, reason));
    }
    let handed_over = match goes_on(environment, status) {
        Ok(true) => request(environment, &Request::Demote).map_err(|failure| eprintln!("{}", failure.reason)).is_ok(),
        Ok(false) => false,
        Err(error) => {
            // Who cannot ask the cluster must not throw the guest's memory away.
            let reason = format!("cannot tell whether the guest goes on elsewhere: {error}");
            return Err(Failure::new(Code::Generic, reason));
        }
    };
    if !handed_over {
        request(environment, &Request::Shutdown)?;
    }
    Ok(Code::Success)
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

/// Whether some node is to run the guest, and the standby can.
fn goes_on(environment: &Environment, status: &Status) -> Result<bool, ClusterError> {
    let (Replication::Protected, Some(standby)) = (status.replication, &status.peer) else { return Ok(false) };
    if Intention::read(environment.resource())? == Intention::NotPromoted {
        return Ok(false);
    }
    let mut membership = Membership::read()?;
    let shuts_down = |membership: &Membership, name: &str| membership.node(name).is_some_and(|node| node.shutdown);
    // `pcs cluster stop --all` reaches one node after the other. A guest that was handed over to a node that is about to stop, too,
    // would be thrown away; meanwhile it runs.
    let until = Instant::now() + SHUTDOWNS_APART;
    while shuts_down(&membership, &status.node) && !shuts_down(&membership, standby) && Instant::now() < until {
        thread::sleep(LOOK);
        membership = Membership::read()?;
    }
    Ok([standby, &status.node].into_iter().any(|name| membership.node(name).is_some_and(|node| node.may_run_primary())))
}
