//! Promote: the guest runs here.

use std::thread;
use std::time::{Duration, Instant};

use kemari_control::{Request, Role, Status};

use super::environment::Environment;
use super::{Code, Failure, Outcome, RESERVE, process, request, status};
use crate::authority::Record;
use crate::cluster::RecordDoor;

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);

/// A promotion that fails costs the guest its memory, because Pacemaker stops what has failed. So one that is refused, which may
/// change when the other node comes back or is fenced, is tried again for as long as this action may take; unless what this node
/// holds is of no use to anybody: then the sooner it is stopped, the sooner it is a standby again.
///
/// That is a failure here and now (1): 5 would keep the resource from this node until somebody cleans it up, and 6 from every node.
pub(super) fn promote(environment: &Environment) -> Outcome {
    let deadline = environment.deadline(RESERVE);
    loop {
        let known = match status(environment) {
            Some(status) if status.role == Role::Primary => return Ok(Code::Success),
            Some(status) => status,
            None if process::find(environment).is_some() => return Err(Failure::new(Code::Generic, process::DEAF)),
            None => return Err(Failure::new(Code::NotRunning, "the replicator does not run here")),
        };
        let Err(failure) = request(environment, &Request::Promote { cold_boot: false }, deadline) else {
            return Ok(Code::Success);
        };
        // If the record cannot be read the next attempt may say more.
        let record = RecordDoor::new(&environment.guest.name).read().ok().flatten();
        let in_vain = record.is_some_and(|stored| is_of_another_history(&stored.record, &known));
        if in_vain || Instant::now() + RETRY >= deadline {
            return Err(failure);
        }
        thread::sleep(RETRY);
    }
}

/// Whether the guest's history goes on without this node. No event but a resync from another primary changes that.
fn is_of_another_history(record: &Record, status: &Status) -> bool {
    let same = status.generation.as_ref().is_some_and(|known| *known == record.generation.to_string());
    !same || !record.names(&status.node)
}

#[cfg(test)]
mod tests {
    use kemari_control::Replication;
    use kemari_core::Generation;

    use super::*;
    use crate::attend::tests::standby;

    const G: Generation = Generation { number: 7, id: 0x9f3 };

    #[test]
    fn what_the_record_forbids_is_not_tried_again_and_what_may_change_is() {
        let beta = standby(Replication::Alone, G);
        for record in [Record::protected(G, "alpha", "beta"), Record::alone(G, "beta")] {
            assert!(!is_of_another_history(&record, &beta), "{record}");
        }
        for record in [Record::alone(G, "alpha"), Record::protected(G.next(1), "alpha", "beta")] {
            assert!(is_of_another_history(&record, &beta), "{record}");
        }
    }
}
