//! The guest's reset, and how it comes to stand still.
//!
//! To clear the memory of a large guest takes longer than a peer may be silent, and to carry all of it to the standby in one
//! checkpoint takes longer still. So a reset is done bit by bit: each turn of the event loop clears a part, which a checkpoint of its own
//! then carries if there is a standby in sync. Each of these says that the guest is within its reset: whoever resumes it does that
//! again. So the guest is protected all the while, and what it had said before comes out as ever.

use std::time::Instant;

use super::DaemonError;
use super::host::Host;
use super::primary::Primary;

impl Primary {
    /// Begins the guest's reset: what it had said before still counts.
    pub(super) fn reset_guest(&mut self, host: &mut Host) -> Result<(), DaemonError> {
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(Instant::now());
        // What may leave has to leave now: the devices forget it.
        self.release(&mut host.machine);
        self.forget_lost(host)?;
        host.machine.begin_reset()?;
        self.halted = None;
        self.resetting = true;
        // From here on a failover would resume the guest within its reset.
        self.checkpoint_wanted = true;
        Ok(())
    }

    /// Whether the next part of a reset may be done: what the last one changed is on its way to the standby in sync, if there is one.
    pub(super) fn may_reset_on(&self) -> bool {
        self.resetting && !self.is_handing_over() && !(self.is_protected() && self.checkpoint_wanted)
    }

    /// Does the next part of a reset.
    pub(super) fn continue_reset(&mut self, host: &mut Host) -> Result<(), DaemonError> {
        if !self.may_reset_on() {
            return Ok(());
        }
        self.checkpoint_wanted = true;
        if host.machine.continue_reset()? {
            self.resetting = false;
            host.machine.start_devices();
            self.go_on(host);
        }
        Ok(())
    }

    /// Stops the guest until somebody decides what becomes of it.
    pub(super) fn halt(&mut self, host: &mut Host, reason: &str) -> Result<(), DaemonError> {
        self.halted = Some(reason.to_owned());
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(Instant::now());
        Ok(())
    }

    /// Whether the guest does not run, whatever a standby says.
    pub(super) fn stands_still(&self) -> bool {
        self.halted.is_some() || self.resetting
    }

    /// Whether a guest that is down has still something to show, and a checkpoint can let it out.
    pub(super) fn has_last_words(&self) -> bool {
        self.is_protected() && self.gate.held().len() > 0
    }
}
