//! Pages of guest memory that the hardware has lost.
//!
//! The standby's image has every page as it was at the last commit. A page that was not written since is as good there as it was
//! here, so it is fetched back while the guest stands still. One that was is gone: this node ends, nothing held is shown, and the
//! guest goes on on the standby from the last commit, where nobody can tell.
//!
//! Without a standby in sync there is no other copy. A page that nobody has touched then stays as it is, for the guest may never
//! come to use it; but it cannot be read, so no standby can be brought in sync until the guest is reset.

use std::time::Instant;

use kemari_protocol::Chunk;
use kemari_vmm::LostPages;

use super::DaemonError;
use super::error::Loss;
use super::host::Host;
use super::primary::Primary;

/// Why no standby is looked for.
const UNREADABLE: &str = "the hardware has lost memory that the guest has not touched since; it cannot be replicated before it is \
                          reset: shut it down, or reset it";

impl Primary {
    /// The hardware has lost pages.
    ///
    /// # Errors
    /// They cannot be had back: this node must end.
    pub(super) fn memory_lost(&mut self, host: &mut Host) -> Result<(), DaemonError> {
        let now = Instant::now();
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(now);
        let lost = host.machine.take_lost();
        let pages: Vec<u64> = lost.all().collect();
        log::error!("the hardware has lost pages {pages:?} of the guest's memory");
        if lost.void {
            return Err(DaemonError::MemoryLost(Loss::Used));
        }
        if self.is_handing_over() {
            return Err(DaemonError::MemoryLost(Loss::HandingOver));
        }
        if self.is_protected() {
            self.fetch(now, host, &pages)?
        } else {
            self.do_without(now, host, &lost)?
        }
        self.go_on(host);
        Ok(())
    }

    /// Asks the standby for the pages; the guest stands still until they come.
    fn fetch(&mut self, now: Instant, host: &mut Host, pages: &[u64]) -> Result<(), DaemonError> {
        self.dirty.clear();
        host.machine.harvest(&mut self.dirty)?;
        self.protocol.harvested(now, &self.dirty);
        for page in pages {
            // One that is on its way already was lost again before it came.
            if !self.mending.contains(page) {
                if !self.protocol.ask_for_page(*page) {
                    return Err(DaemonError::MemoryLost(Loss::Changed));
                }
                self.mending.push(*page);
            }
        }
        host.machine.replace_lost(pages)?;
        host.news.emit("memory-error", &format!("pages {pages:?} are lost here, and fetched from the standby"));
        self.transmit();
        Ok(())
    }

    /// Nobody else has them: the guest goes on for as long as it does not touch them.
    fn do_without(&mut self, now: Instant, host: &mut Host, lost: &LostPages) -> Result<(), DaemonError> {
        if !lost.touched.is_empty() {
            return Err(DaemonError::MemoryLost(Loss::Alone));
        }
        host.machine.leave_lost();
        self.unreadable.extend(&lost.untouched);
        let detail = format!("pages {:?} are lost, and the guest goes on without: {UNREADABLE}", lost.untouched);
        log::error!("{detail}");
        host.news.emit("memory-error", &detail);
        if self.link.take().is_some() {
            self.protocol.link_down(now, UNREADABLE);
        }
        Ok(())
    }

    /// Why no standby can be brought in sync, if a page cannot be read.
    pub(super) fn unreadable(&self) -> Option<&'static str> {
        (!self.unreadable.is_empty()).then_some(UNREADABLE)
    }

    /// Whether the guest stands still for a page to come.
    pub(super) fn is_mending(&self) -> bool {
        !self.mending.is_empty()
    }

    /// A lost page has come.
    pub(super) fn page_back(&mut self, host: &mut Host, chunk: &Chunk) -> Result<(), DaemonError> {
        for (run, content) in chunk.contents() {
            // After a reset of the guest nobody waits for it any more.
            let Some(index) = self.mending.iter().position(|page| *page == run.first) else { continue };
            host.machine.put_back(run.first, content)?;
            self.mending.swap_remove(index);
            host.mended_pages += 1;
            let detail = format!("page {} was lost to a hardware error, and is mended from the standby", run.first);
            log::warn!("{detail}");
            host.news.emit("memory-mended", &detail);
        }
        self.go_on(host);
        Ok(())
    }

    /// Before the guest boots anew: it needs every page, and none of their content.
    pub(super) fn forget_lost(&mut self, host: &mut Host) -> Result<(), DaemonError> {
        self.mending.clear();
        let unreadable: Vec<u64> = std::mem::take(&mut self.unreadable).into_iter().collect();
        host.machine.replace_lost(&unreadable)?;
        Ok(())
    }

    /// The standby is gone, and with it what was lost here.
    pub(super) fn give_up_mending(&self) -> Result<(), DaemonError> {
        if self.is_mending() { Err(DaemonError::MemoryLost(Loss::StandbyLeft)) } else { Ok(()) }
    }
}
