//! Bringing a standby to the newest checkpoint: the difference at once if it is small, else most of it while the guest runs.

use std::collections::VecDeque;

use kemari_core::PageRun;

use crate::chunk::next_batch;
use crate::limits::{PRECOPY_ROUNDS, STAGED_RESYNC_PAGES};
use crate::primary::lacking::Lacking;

/// A resync in progress.
#[derive(Debug)]
pub(crate) struct Resync {
    step: Step,
    /// Whether the standby will rehearse the checkpoint that ends this.
    pub(crate) rehearse: bool,
    done: u64,
    round: u32,
}

#[derive(Debug)]
enum Step {
    /// The driver was asked for its dirty log.
    Harvest,
    /// These pages are still to be copied in this round.
    Copy { runs: VecDeque<PageRun>, pages: u64 },
    /// The driver was asked for a checkpoint with the rest.
    Checkpoint,
}

/// What comes after a harvest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Tell the standby that its image is void, then copy while the guest runs.
    Begin,
    /// Another round of that.
    Round,
    /// The rest goes as a checkpoint.
    Checkpoint,
}

impl Resync {
    pub(crate) fn new(rehearse: bool) -> Resync {
        Resync { step: Step::Harvest, rehearse, done: 0, round: 0 }
    }

    pub(crate) fn awaits_harvest(&self) -> bool {
        matches!(self.step, Step::Harvest)
    }

    pub(crate) fn awaits_checkpoint(&self) -> bool {
        matches!(self.step, Step::Checkpoint)
    }

    pub(crate) fn is_copying(&self) -> bool {
        matches!(self.step, Step::Copy { .. })
    }

    /// The dirty log is in `lacking`: decides how to go on.
    pub(crate) fn harvested(&mut self, lacking: &mut Lacking) -> Next {
        let pages = lacking.stale_pages();
        let small = pages <= STAGED_RESYNC_PAGES;
        if if self.round == 0 { small && lacking.base().is_some() } else { small || self.round >= PRECOPY_ROUNDS } {
            self.step = Step::Checkpoint;
            return Next::Checkpoint;
        }
        self.round += 1;
        self.step = Step::Copy { runs: lacking.drain(), pages };
        if self.round == 1 { Next::Begin } else { Next::Round }
    }

    /// The next pages to copy.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<PageRun>> {
        let Step::Copy { runs, .. } = &mut self.step else { return None };
        next_batch(runs)
    }

    /// These pages could not be copied.
    pub(crate) fn put_back(&mut self, batch: Vec<PageRun>) {
        if let Step::Copy { runs, .. } = &mut self.step {
            batch.into_iter().rev().for_each(|run| runs.push_front(run));
        }
    }

    /// So many pages were sent; returns whether the round is over and a harvest is due.
    pub(crate) fn copied(&mut self, count: u64) -> bool {
        self.done += count;
        let Step::Copy { runs, pages } = &mut self.step else { return false };
        *pages = pages.saturating_sub(count);
        let over = runs.is_empty();
        if over {
            self.step = Step::Harvest;
        }
        over
    }

    /// Pages sent, pages sent or to be sent, and rounds begun.
    pub(crate) fn progress(&self, lacking: &Lacking) -> (u64, u64, u32) {
        let left = if let Step::Copy { pages, .. } = self.step { pages } else { 0 };
        (self.done, self.done + left + lacking.stale_pages(), self.round)
    }
}
