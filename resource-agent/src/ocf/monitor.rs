//! Monitor: how it is.

use std::fs;
use std::path::Path;

use kemari_control::{Role, Status};

use super::environment::Environment;
use super::{Code, Failure, Outcome, process, start, status};

/// The level at which new disk errors fail it, too.
const DISKS: u32 = 10;

pub(super) fn monitor(environment: &Environment) -> Outcome {
    let Some(status) = status(environment) else {
        return match process::find(environment) {
            // A replicator that does not answer may run the guest or not. The status for "failed as promoted" (9) would claim to
            // know, and buys nothing: where Pacemaker knows it as promoted it is demoted before it is stopped after either status;
            // where it does not (a probe) 9 would add a demote, which can only fail, before the stop that ends it.
            Some(_) => Err(Failure::new(Code::Generic, process::DEAF)),
            None => Ok(Code::NotRunning),
        };
    };
    // If its supervisor has died there must be another one.
    start::ensure_supervisor(environment)?;
    let primary = status.role == Role::Primary;
    if environment.check_level >= DISKS
        && let Some(reason) = new_disk_errors(&environment.file("disk-errors"), &status)
    {
        // Here it is known, and worth a demote: the guest can be handed over.
        return Err(Failure::new(if primary { Code::FailedPromoted } else { Code::Generic }, reason));
    }
    Ok(if primary { Code::RunningPromoted } else { Code::Success })
}

/// Which disk has had errors since this was asked last. Each fails one monitor: what was told is not told for ever.
fn new_disk_errors(memory: &Path, status: &Status) -> Option<String> {
    let errors = |status: &Status| status.disks.iter().map(|disk| disk.errors).sum::<u64>();
    // The counters begin anew with each replicator.
    let text = fs::read_to_string(memory).unwrap_or_default();
    let (pid, seen) = text.trim().split_once(' ').unwrap_or_default();
    let seen = if pid == status.pid.to_string() { seen.parse().unwrap_or(0) } else { 0 };
    if errors(status) <= seen {
        return None;
    }
    if let Err(error) = fs::write(memory, format!("{} {}\n", status.pid, errors(status))) {
        eprintln!("{}: {error}; the same errors will be told again", memory.display());
    }
    let failed = status.disks.iter().filter(|disk| disk.errors > 0);
    let failed: Vec<String> = failed.map(|disk| format!("{}: {}", disk.path, disk.errors)).collect();
    Some(format!("requests to the disks have failed since the last look; in all {}", failed.join(", ")))
}

#[cfg(test)]
mod tests {
    use kemari_control::{DiskStatus, Replication};
    use kemari_core::Generation;

    use super::*;
    use crate::attend::tests::standby;

    #[test]
    fn an_error_is_told_once_and_a_new_one_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let memory = directory.path().join("disk-errors");
        let with = |pid: u32, errors: u64| {
            let disk = DiskStatus {
                path: "/dev/vda".to_owned(),
                reads: 0,
                read_bytes: 0,
                writes: 0,
                written_bytes: 0,
                flushes: 0,
                in_flight: 0,
                errors,
            };
            let node = standby(Replication::InSync, Generation { number: 7, id: 0x9f3 });
            new_disk_errors(&memory, &Status { pid, disks: vec![disk], ..node })
        };
        assert_eq!(with(1, 0), None);
        assert!(with(1, 2).is_some_and(|reason| reason.contains("/dev/vda: 2")));
        assert_eq!(with(1, 2), None);
        assert!(with(1, 3).is_some());
        // Another replicator.
        assert!(with(2, 1).is_some());
        assert_eq!(with(2, 1), None);
    }
}
