//! Disks that fail requests of the guest.
//!
//! A request that is not answered is still the guest's: it is in every checkpoint as one that was taken, so whoever goes on from there does
//! it again. So a guest that must not see an error stands still until its disk is well, here or on the standby.
//!
//! A request that the host does not finish in time may still be done at any later time, and nobody can prevent it. So the guest is not
//! handed over, which would have the standby write to a disk on which this host's write may land later. This node ends instead: its
//! process is gone only when the request is done, or its host is fenced, and the cluster promotes the standby no sooner.

use std::time::{Duration, Instant};

use kemari_vmm::{DiskFailure, DiskFault, OnDiskError};

use super::DaemonError;
use super::host::Host;
use super::primary::Primary;

/// How often a request that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Primary {
    /// A disk has failed a request.
    ///
    /// # Errors
    /// The guest does not stand still. Or a request is overdue, and the standby is to go on: this node must end.
    pub(super) fn disk_failed(&mut self, host: &mut Host, fault: &DiskFault) -> Result<(), DaemonError> {
        let now = Instant::now();
        let overdue = matches!(fault.failure, DiskFailure::Overdue { .. });
        let consequence = match fault.on_error {
            OnDiskError::Report => "the guest is told",
            OnDiskError::Failover if self.is_protected() && overdue => {
                return Err(DaemonError::DiskHangs(fault.to_string()));
            }
            OnDiskError::Failover if self.is_protected() => "the standby is to go on",
            OnDiskError::Pause | OnDiskError::Failover => "the guest stands still until it succeeds",
        };
        let detail = format!("{fault}; {consequence}");
        if fault.on_error == OnDiskError::Report {
            log::error!("{detail}");
            host.news.emit("disk-error", &detail);
            return Ok(());
        }
        if self.stalled.replace(now + AGAIN).is_none() {
            log::error!("{detail}");
            host.news.emit("disk-error", &detail);
        }
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(now);
        if fault.on_error == OnDiskError::Failover && self.is_protected() && !overdue && !self.is_handing_over() {
            self.begin_handover(now, host, None, true);
        }
        Ok(())
    }

    /// Tries again, or goes on if it has succeeded.
    pub(super) fn continue_stall(&mut self, now: Instant, host: &mut Host) {
        let Some(at) = self.stalled else { return };
        if !host.machine.is_disk_stuck() {
            self.stalled = None;
            let detail = "what a disk had failed, or not done in time, has succeeded; the guest goes on";
            log::warn!("{detail}");
            host.news.emit("disk-recovered", detail);
            self.go_on(host);
        } else if at <= now {
            self.stalled = Some(now + AGAIN);
            // The standby is about to do it.
            if !self.is_handing_over() {
                host.machine.retry_disks();
            }
        }
    }
}
