//! What the standby holds, and which pages it lacks of the guest as it is.

use std::collections::VecDeque;
use std::time::Instant;

use kemari_core::{Acknowledgement, Committed, Image, PageRun, PageSet, Sealed};

/// A checkpoint that was sent and is not acknowledged.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) sealed: Sealed,
    /// Its pages: the standby lacks them if this is never acknowledged.
    pub(crate) runs: Vec<PageRun>,
    pub(crate) sent: Instant,
    /// Whether the gate was open at some time after it was cut, or at its cut.
    pub(crate) unprotected: bool,
    pub(crate) last: bool,
}

/// The difference between the standby's image and the guest.
///
/// Dirty bits are transactional: a page that left the dirty log is in `stale`, in a checkpoint in flight, or held by the
/// standby; what is in flight returns to `stale` unless it is acknowledged.
#[derive(Debug)]
pub(crate) struct Lacking {
    /// What the standby is known to have committed.
    base: Option<Image>,
    /// Pages changed since `base` that no checkpoint in flight carries. Without `base`: to be taken as all.
    stale: PageSet,
    /// Whether `stale` has any page, so that the usual case costs no scan.
    any: bool,
    in_flight: VecDeque<InFlight>,
}

impl Lacking {
    pub(crate) fn new(base: Option<Image>, stale: PageSet) -> Lacking {
        let any = !stale.is_empty();
        Lacking { base, stale, any, in_flight: VecDeque::new() }
    }

    pub(crate) fn base(&self) -> Option<Image> {
        self.base
    }

    /// What the standby will hold when it has everything sent so far: what the next checkpoint lies over.
    pub(crate) fn tip(&self) -> Option<Image> {
        self.in_flight.back().map(|sent| sent.sealed.image()).or(self.base)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The gate was opened: what is in flight does not cover what leaves from now on.
    pub(crate) fn uncover(&mut self) {
        self.in_flight.iter_mut().for_each(|sent| sent.unprotected = true);
    }

    pub(crate) fn add(&mut self, pages: &PageSet) {
        self.stale.union(pages);
        self.any |= !pages.is_empty();
    }

    pub(crate) fn add_run(&mut self, run: PageRun) {
        self.stale.insert_run(run);
        self.any = true;
    }

    pub(crate) fn stale_pages(&self) -> u64 {
        if self.any { self.stale.count() } else { 0 }
    }

    /// Whether the standby is not known to hold this page as it is.
    pub(crate) fn lacks(&self, page: u64) -> bool {
        let sent = |run: &PageRun| run.first <= page && page - run.first < run.count;
        self.base.is_none()
            || (self.any && self.stale.contains(page))
            || self.in_flight.iter().any(|checkpoint| checkpoint.runs.iter().any(sent))
    }

    /// Adds the stale pages to `pages`.
    pub(crate) fn complete(&self, pages: &mut PageSet) {
        if self.any {
            pages.union(&self.stale);
        }
    }

    /// Takes these pages out, as they are about to be sent; returns whether nothing is left.
    pub(crate) fn cover(&mut self, runs: &[PageRun]) -> bool {
        if self.any {
            runs.iter().for_each(|run| self.stale.remove_run(*run));
            self.any = !self.stale.is_empty();
        }
        !self.any
    }

    /// Takes all stale pages out, to be copied while the guest runs. The standby has no image until the next commit.
    pub(crate) fn drain(&mut self) -> VecDeque<PageRun> {
        self.base = None;
        let runs = self.stale.runs().collect();
        self.stale.clear();
        self.any = false;
        runs
    }

    pub(crate) fn sent(&mut self, checkpoint: InFlight) {
        self.in_flight.push_back(checkpoint);
    }

    /// An acknowledgement of the oldest checkpoint in flight; anything else gives back what was expected.
    pub(crate) fn acknowledge(&mut self, image: Image) -> Result<(Committed, InFlight), Option<Image>> {
        let Some(oldest) = self.in_flight.pop_front() else { return Err(None) };
        match oldest.sealed.acknowledged_by(&Acknowledgement(image)) {
            Ok(committed) => {
                self.base = Some(image);
                Ok((committed, oldest))
            }
            Err(sealed) => {
                self.in_flight.push_front(oldest);
                Err(Some(sealed.image()))
            }
        }
    }

    /// The standby has said what it holds, after a link was lost: if that was in flight, this is its acknowledgement (that of
    /// those before it went missing, and is implied). What is in flight beyond it is lost.
    pub(crate) fn reconcile(&mut self, held: Option<Image>) -> Option<(Committed, InFlight)> {
        let mut arrived = None;
        if let Some(image) = held
            && let Some(index) = self.in_flight.iter().position(|sent| sent.sealed.image() == image)
        {
            self.in_flight.drain(..index);
            arrived = self.acknowledge(image).ok();
        }
        for lost in std::mem::take(&mut self.in_flight) {
            lost.runs.into_iter().for_each(|run| self.add_run(run));
        }
        if self.base.is_none() || self.base != held {
            self.base = None;
            self.stale = PageSet::full(self.stale.size());
            self.any = true;
        }
        arrived
    }
}
