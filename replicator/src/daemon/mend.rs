//! Pages of guest memory that the hardware has lost.
//!
//! The standby's image has every page as it was at the last commit. A page that was not written since is as good there as it was
//! here, so it is fetched back while the guest stands still. Any other is gone: this node ends, nothing held is shown, and the
//! guest goes on on the standby from the last commit, where nobody can tell.

use std::time::Instant;

use kemari_protocol::Chunk;

use super::DaemonError;
use super::host::Host;
use super::primary::Primary;

impl Primary {
    /// The hardware has lost `pages`; with `void`, something was made of what is in their place.
    ///
    /// # Errors
    /// They cannot be had back: this node must end.
    pub(super) fn memory_lost(&mut self, host: &mut Host, pages: &[u64], void: bool) -> Result<(), DaemonError> {
        let now = Instant::now();
        log::error!("the hardware has lost pages {pages:?} of the guest's memory");
        if void || self.is_handing_over() {
            return Err(DaemonError::MemoryLost("it was used before it was known"));
        }
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(now);
        self.dirty.clear();
        host.machine.harvest(&mut self.dirty)?;
        self.protocol.harvested(now, &self.dirty);
        host.machine.replace_lost(pages)?;
        for page in pages {
            if self.mending.contains(page) || !self.protocol.ask_for_page(*page) {
                return Err(DaemonError::MemoryLost("no standby has it as it was"));
            }
            self.mending.push(*page);
        }
        host.news.emit("memory-error", &format!("pages {pages:?} are lost here, and fetched from the standby"));
        self.transmit();
        Ok(())
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
            host.machine.write_pages(run, content)?;
            self.mending.swap_remove(index);
            host.mended_pages += 1;
            let detail = format!("page {} was lost to a hardware error, and is mended from the standby", run.first);
            log::warn!("{detail}");
            host.news.emit("memory-mended", &detail);
        }
        self.go_on(host);
        Ok(())
    }

    /// The standby is gone, and with it what was lost here.
    pub(super) fn give_up_mending(&self) -> Result<(), DaemonError> {
        if self.is_mending() { Err(DaemonError::MemoryLost("the standby left before it gave it back")) } else { Ok(()) }
    }
}
