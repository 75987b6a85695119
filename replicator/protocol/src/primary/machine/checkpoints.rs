//! What is sent to the standby, and the acknowledgements that come back.

use std::time::Instant;

use kemari_core::{Epoch, Image, PageRun, PageSet, Sealed};

use super::{Primary, Stage};
use crate::checkpoint;
use crate::limits::STATE_BYTES;
use crate::message::Manifest;
use crate::primary::lacking::InFlight;
use crate::primary::resync::Next;
use crate::primary::{Checkpoint, CheckpointError, Event};
use crate::violation::Violation;
use crate::{Chunk, ChunkError, Message};

impl Primary {
    /// Pages that were harvested from the dirty log and not sent: the answer to [`Event::Harvest`], or the pages of a
    /// checkpoint that came to nothing.
    pub fn harvested(&mut self, _now: Instant, pages: &PageSet) {
        self.lacking.add(pages);
        let Stage::Syncing(resync) = &mut self.stage else { return };
        if !resync.awaits_harvest() {
            return;
        }
        match resync.harvested(&mut self.lacking) {
            Next::Begin => {
                resync.rehearse = true;
                self.link.send(Message::SyncBegin);
            }
            Next::Round => {}
            Next::Checkpoint => self.events.push_back(Event::CheckpointWanted),
        }
    }

    /// Whether [`precopy`](Primary::precopy) has something to send.
    #[must_use]
    pub fn wants_precopy(&self) -> bool {
        matches!(&self.stage, Stage::Syncing(resync) if resync.is_copying())
    }

    /// Sends the next chunk of a resync while the guest runs; `copy` appends the content of each run it is given.
    /// Returns whether there was something to send. Call it as often as the link has room.
    ///
    /// # Errors
    /// What `copy` failed with; those pages stay to be sent.
    pub fn precopy<E: From<ChunkError>>(
        &mut self,
        _now: Instant,
        mut copy: impl FnMut(PageRun, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Stage::Syncing(resync) = &mut self.stage else { return Ok(false) };
        let Some(batch) = resync.next_batch() else { return Ok(false) };
        let chunk = match Chunk::copied(batch.clone(), &mut copy) {
            Ok(chunk) => chunk,
            Err(error) => {
                resync.put_back(batch);
                return Err(error);
            }
        };
        if resync.copied(chunk.pages()) {
            self.events.push_back(Event::Harvest);
        }
        self.count(&chunk);
        self.link.send(Message::SyncPages(chunk));
        Ok(true)
    }

    /// Whether a checkpoint can be sent now.
    #[must_use]
    pub fn may_checkpoint(&self) -> bool {
        let stage = match &self.stage {
            Stage::Syncing(resync) => resync.awaits_checkpoint(),
            Stage::Covering | Stage::Protected => true,
            _ => false,
        };
        stage && self.lacking.in_flight() < self.config.depth
    }

    /// Adds to the pages just harvested those that the standby lacks as well. What is then in `pages` must be in the
    /// checkpoint. To be called while the guest is paused.
    pub fn begin_checkpoint(&mut self, pages: &mut PageSet) {
        self.lacking.complete(pages);
    }

    /// Sends a checkpoint.
    ///
    /// # Errors
    /// The checkpoint does not fit the moment or the guest; nothing was sent, and its pages will be asked for again.
    pub fn send_checkpoint(&mut self, now: Instant, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let Checkpoint { epoch, state, chunks, last } = checkpoint;
        let runs: Vec<PageRun> = chunks.iter().flat_map(|chunk| chunk.runs().iter().copied()).collect();
        if let Err(error) = self.check_checkpoint(epoch, state.len(), &runs) {
            runs.into_iter().for_each(|run| self.lacking.add_run(run));
            return Err(error);
        }
        let onto = self.lacking.tip();
        let sealed = Sealed::new(self.generation, epoch, checkpoint::checksum(&chunks, &state));
        self.last_epoch = Some(epoch);
        self.link.send(Message::Manifest(Manifest {
            image: sealed.image(),
            onto,
            pages: runs.iter().map(|run| run.count).sum(),
            state_bytes: state.len() as u64,
            unprotected: self.gate_open,
        }));
        for chunk in chunks {
            self.count(&chunk);
            self.link.send(Message::Pages(chunk));
        }
        self.bytes_sent += state.len() as u64;
        for piece in checkpoint::pieces(&state) {
            self.link.send(Message::State(piece.to_vec()));
        }
        self.lacking.sent(InFlight { sealed, runs, sent: now, unprotected: self.gate_open, last });
        self.stage = match std::mem::replace(&mut self.stage, Stage::Alone) {
            Stage::Syncing(resync) => Stage::Committing(resync),
            other => other,
        };
        Ok(())
    }

    fn check_checkpoint(&mut self, epoch: Epoch, state_bytes: usize, runs: &[PageRun]) -> Result<(), CheckpointError> {
        if !self.may_checkpoint() {
            return Err(CheckpointError::NotNow(self.stage.doing()));
        }
        if self.last_epoch.is_some_and(|last| epoch <= last) {
            return Err(CheckpointError::Epoch { epoch });
        }
        if state_bytes > STATE_BYTES {
            return Err(CheckpointError::State { bytes: state_bytes });
        }
        let mut end = 0;
        for run in runs {
            let after = run.end().filter(|after| *after <= self.config.pages && run.first >= end);
            end = after.ok_or(CheckpointError::Pages)?;
        }
        if self.lacking.cover(runs) { Ok(()) } else { Err(CheckpointError::Pages) }
    }

    fn count(&mut self, chunk: &Chunk) {
        self.pages_sent += chunk.pages();
        self.bytes_sent += chunk.data().len() as u64;
    }

    pub(super) fn acknowledged(&mut self, now: Instant, image: Image) -> Result<(), Violation> {
        let (committed, checkpoint) = self
            .lacking
            .acknowledge(image)
            .map_err(|expected| Violation::Acknowledged { acknowledged: image, expected })?;
        self.covered(now, &checkpoint);
        if matches!(&self.stage, Stage::Committing(resync) if resync.rehearse) {
            self.stage = Stage::Rehearsing(committed);
            return Ok(());
        }
        self.events.push_back(Event::Committed(committed));
        match &self.stage {
            Stage::Committing(_) => self.in_sync(),
            Stage::Covering if !self.uncovered => self.protected(),
            _ => {}
        }
        Ok(())
    }

    /// A checkpoint is committed.
    pub(super) fn covered(&mut self, now: Instant, checkpoint: &InFlight) {
        self.checkpoints += 1;
        self.commit_latency = Some(now.saturating_duration_since(checkpoint.sent));
        if !checkpoint.unprotected {
            self.uncovered = false;
        }
        // A handover may be given up after its last checkpoint was cut: then others follow, and none is final any more.
        self.finished = checkpoint.last.then(|| checkpoint.sealed.image());
    }
}
