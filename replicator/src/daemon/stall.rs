//! Disks that fail requests of the guest.
//!
//! A request that is not answered is still the guest's: it is in every checkpoint as one that was taken, so whoever goes on from there does
//! it again. So a guest that must not see an error stands still until its disk is well, here or on the standby.

use std::time::{Duration, Instant};

use kemari_vmm::{DiskFault, OnDiskError};

use super::DaemonError;
use super::host::Host;
use super::primary::Primary;

/// How often a request that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Primary {
    /// A disk has failed a request.
    ///
    /// # Errors
    /// The guest does not stand still.
    pub(super) fn disk_failed(&mut self, host: &mut Host, fault: &DiskFault) -> Result<(), DaemonError> {
        let now = Instant::now();
        let consequence = match fault.on_error {
            OnDiskError::Report => "the guest is told",
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
        if fault.on_error == OnDiskError::Failover && self.is_protected() && !self.is_handing_over() {
            self.begin_handover(now, host, None, true);
        }
        Ok(())
    }

    /// Tries again, or goes on if it has succeeded.
    pub(super) fn continue_stall(&mut self, now: Instant, host: &mut Host) {
        let Some(at) = self.stalled else { return };
        if !host.machine.is_disk_stuck() {
            self.stalled = None;
            let detail = "what a disk had failed has succeeded; the guest goes on";
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
