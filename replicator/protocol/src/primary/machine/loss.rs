//! Pages that the hardware has lost, and that the standby still has.

use kemari_core::PageRun;

use super::{Primary, Stage};
use crate::primary::Event;
use crate::violation::Violation;
use crate::{Chunk, Message};

impl Primary {
    /// Asks the standby for a page that was lost here; [`Event::PageBack`] brings it. Returns whether it can be asked: it has to
    /// hold the page as it was here, so that the page must not have changed since the checkpoint committed last. What is in the
    /// guest's dirty log has to be [handed over](Primary::harvested) before.
    pub fn ask_for_page(&mut self, page: u64) -> bool {
        let can = matches!(self.stage, Stage::Protected) && page < self.config.pages && !self.lacking.lacks(page);
        if can {
            self.lost.push_back(page);
            self.link.send(Message::PageLost { page });
        }
        can
    }

    pub(super) fn page_back(&mut self, chunk: Chunk) -> Result<(), Violation> {
        let wanted = self.lost.front().map(|page| PageRun { first: *page, count: 1 });
        if wanted.is_none_or(|wanted| chunk.runs() != [wanted]) {
            return Err(Violation::Unexpected { message: "a page", doing: "none or another one was lost" });
        }
        self.lost.pop_front();
        self.events.push_back(Event::PageBack(chunk));
        Ok(())
    }
}
