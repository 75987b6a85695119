//! What a node does about what happens to its machine.

use std::time::Instant;

use kemari_vmm::MachineEvent;

use super::DaemonError;
use super::crash::{self, Crash, Verdict};
use super::error::Loss;
use super::node::{Node, Role};
use super::stop::Stop;

impl Node {
    /// Acts on what happened to the guest.
    pub(super) fn machine_events(&mut self) -> Result<(), DaemonError> {
        let is_primary = matches!(self.role, Some(Role::Primary(_)));
        for event in crash::heeded(std::mem::take(&mut self.host.machine_events), is_primary) {
            let awaits_end = self.stop.as_ref().is_some_and(Stop::awaits_guest);
            match event {
                MachineEvent::Broken(detail) => return Err(DaemonError::Guest(detail)),
                MachineEvent::Shutdown => self.guest_is_down("the guest has shut down by itself")?,
                _ if awaits_end && event.is_end() => self.guest_is_down("the guest has shut down")?,
                MachineEvent::Reset => {
                    self.host.news.emit("reset", "the guest resets itself");
                    self.reset_guest()?;
                }
                MachineEvent::Panic => self.crashed(Crash::Panic, "its kernel has panicked")?,
                MachineEvent::TripleFault => self.crashed(Crash::TripleFault, "it triple-faulted")?,
                MachineEvent::InternalError(detail) => self.crashed(Crash::InternalError, &detail)?,
                MachineEvent::WatchdogExpired => self.crashed(Crash::Watchdog, "its watchdog ran out")?,
                MachineEvent::CrashKernel => {
                    self.host.ledger.count(Crash::Panic);
                    self.host.news.emit("crash-kernel", "the guest has panicked, and its own crash kernel takes over");
                }
                MachineEvent::MemoryLost => self.memory_lost()?,
                MachineEvent::DiskError(fault) => {
                    if let Some(Role::Primary(primary)) = &mut self.role {
                        primary.disk_failed(&mut self.host, &fault)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn reset_guest(&mut self) -> Result<(), DaemonError> {
        match &mut self.role {
            Some(Role::Primary(primary)) => primary.reset_guest(&mut self.host),
            _ => Ok(()),
        }
    }

    /// The guest has crashed by itself: does what the configuration wants.
    fn crashed(&mut self, crash: Crash, detail: &str) -> Result<(), DaemonError> {
        let Some(Role::Primary(primary)) = &mut self.role else { return Ok(()) };
        let host = &mut self.host;
        host.ledger.count(crash);
        let resumed = primary.resumed_at.map(|at| at.elapsed());
        let verdict = crash::verdict(host.config.guest.on_guest_panic, resumed, primary.is_protected());
        let consequence = match verdict {
            Verdict::Restart => "it is booted anew",
            Verdict::FailOver => "it is to go on on the standby",
            Verdict::Stop => "it stands still",
        };
        let said = format!("the guest crashed: {detail}");
        log::error!("{said}; {consequence}");
        host.news.emit("crash", &format!("{crash}: {detail}; {consequence}"));
        match verdict {
            Verdict::Restart => primary.reset_guest(host),
            Verdict::Stop => primary.halt(host, &said),
            Verdict::FailOver => {
                primary.leave(Instant::now(), &host.ledger.farewell());
                Err(DaemonError::Crashed(said))
            }
        }
    }

    fn memory_lost(&mut self) -> Result<(), DaemonError> {
        let standby = match &mut self.role {
            Some(Role::Primary(primary)) => return primary.memory_lost(&mut self.host),
            Some(Role::Standby(standby)) => standby,
            None => return Ok(()),
        };
        if standby.is_being_promoted() {
            return Err(DaemonError::MemoryLost(Loss::Promoting));
        }
        let lost = self.host.machine.take_lost();
        if lost.void {
            return Err(DaemonError::MemoryLost(Loss::Used));
        }
        let pages: Vec<u64> = lost.all().collect();
        self.host.machine.replace_lost(&pages)?;
        self.become_standby(None)?;
        let detail =
            "the hardware has lost part of the image held here; it is discarded, and the primary sends it anew";
        log::error!("{detail}");
        self.host.news.emit("memory-error", detail);
        Ok(())
    }

    fn guest_is_down(&mut self, detail: &str) -> Result<(), DaemonError> {
        self.host.news.emit("shutdown", detail);
        self.stop.get_or_insert_with(|| Stop::new(None)).guest_is_down();
        match &mut self.role {
            Some(Role::Primary(primary)) => primary.halt(&mut self.host, detail),
            _ => Ok(()),
        }
    }

    /// Whether nothing is left to do for a guest that is down.
    pub(super) fn is_at_end(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::is_guest_down)
            && matches!(&self.role, Some(Role::Primary(primary)) if !primary.has_last_words())
    }
}
