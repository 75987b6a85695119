//! Checkpoints: when one is due, how it is cut, and what its commit sets free.

use std::time::{Duration, Instant};

use kemari_core::{Committed, Epoch, Image};
use kemari_protocol::Gathered;
use kemari_protocol::primary::{Checkpoint, Phase};

use super::host::Host;
use super::news::{News, Ticket};
use super::primary::Primary;
use super::{DaemonError, Outcome};
use crate::config::Mode;

impl Primary {
    /// Asks for a checkpoint, and answers when one that covers this moment is committed.
    pub(super) fn request_checkpoint(&mut self, host: &mut Host, ticket: Ticket) {
        if self.protocol.phase() == Phase::Protected {
            self.checkpoint_wanted = true;
            self.waiters.push((self.gate.epoch(), ticket));
        } else {
            host.news.refuse(ticket, "no checkpoint: there is no standby in sync");
        }
    }

    /// Tells everyone who waits for a checkpoint that there will be none.
    pub(super) fn dismiss_waiters(&mut self, news: &mut News) {
        for (_, ticket) in self.waiters.drain(..) {
            news.refuse(ticket, "the standby was lost, or this node is not the primary any more");
        }
    }

    /// Whether nothing stands in the way of a checkpoint.
    pub(super) fn may_cut(&self) -> bool {
        self.protocol.may_checkpoint() && self.handover.is_none() && self.awaiting.is_none() && !self.is_mending()
    }

    pub(super) fn cut_if_due(&mut self, host: &mut Host) -> Result<bool, DaemonError> {
        if !self.may_cut() {
            return Ok(false);
        }
        let timed = self.is_protected() && self.epoch_begun.elapsed() >= self.pace.limit();
        if !(self.checkpoint_wanted || timed || self.gate.awaits_checkpoint()) {
            return Ok(false);
        }
        self.cut(host, false)?;
        Ok(true)
    }

    /// Cuts a checkpoint and sends it. The guest runs on at once, unless this is its `last` one here or the mode is `sync`.
    ///
    /// Returns the epoch it ends and the state, which a handover keeps.
    pub(super) fn cut(&mut self, host: &mut Host, last: bool) -> Result<(Epoch, Vec<u8>), DaemonError> {
        let begun = Instant::now();
        host.machine.pause(&mut self.outputs)?;
        self.hold_collected(begun);
        let epoch = self.gate.seal();
        let state = host.save()?;
        self.dirty.clear();
        host.machine.harvest(&mut self.dirty)?;
        self.protocol.begin_checkpoint(&mut self.dirty);
        let machine = &host.machine;
        let gathered = Gathered::copy(&self.dirty, |run, into| machine.copy_pages(run, into))?;
        let stays_paused = last || self.mode == Mode::Sync;
        if !stays_paused && !self.stands_still() && self.stalled.is_none() {
            host.machine.run();
        }
        let now = Instant::now();
        self.metrics.stop_us.record(host.machine.timings().pause.as_micros() as u64);
        self.record_cut(now, now.duration_since(begun), epoch, state.len());
        let kept = if last { state.clone() } else { Vec::new() };
        let chunks = gathered.into_chunks()?;
        self.protocol.send_checkpoint(now, Checkpoint { epoch, state, chunks, last })?;
        if stays_paused && !last {
            self.awaiting = Some(epoch);
        }
        self.epoch_begun = now;
        self.checkpoint_wanted = false;
        self.transmit();
        self.metrics.encode_us.record(now.elapsed().as_micros() as u64);
        Ok((epoch, kept))
    }

    fn record_cut(&mut self, now: Instant, pause: Duration, epoch: Epoch, state_bytes: usize) {
        let pages = self.dirty.count();
        self.pace.ended(now.duration_since(self.epoch_begun), pages);
        self.metrics.count(now);
        self.metrics.pause_us.record(pause.as_micros() as u64);
        self.metrics.dirty_pages.record(pages);
        self.metrics.sent_bytes.record(pages * kemari_core::PAGE_SIZE as u64 + state_bytes as u64);
        self.held_in_flight.push_back((epoch, self.held_since.take()));
    }

    pub(super) fn committed(
        &mut self,
        now: Instant,
        host: &mut Host,
        proof: &Committed,
    ) -> Result<Option<Outcome>, DaemonError> {
        let image = proof.image();
        host.committed_at = Some(now);
        if let Some(latency) = self.protocol.status().commit_latency {
            self.metrics.commit_us.record(latency.as_micros() as u64);
        }
        while self.held_in_flight.front().is_some_and(|(epoch, _)| *epoch <= image.epoch) {
            if let Some((_, Some(since))) = self.held_in_flight.pop_front() {
                self.metrics.hold_us.record(now.saturating_duration_since(since).as_micros() as u64);
            }
        }
        if self.is_final(image.epoch) {
            // What the last epoch shows is shown by the next primary, which does again whatever its image has in flight.
            return Ok(self.final_committed(now, host, image));
        }
        self.gate.commit(proof)?;
        if self.awaiting.is_some_and(|epoch| epoch <= image.epoch) {
            self.awaiting = None;
            self.go_on(host);
        }
        self.answer_waiters(&mut host.news, image);
        Ok(None)
    }

    fn answer_waiters(&mut self, news: &mut News, image: Image) {
        self.waiters.retain(|&(epoch, ticket)| {
            let waits = epoch > image.epoch;
            if !waits {
                news.grant(ticket, format!("committed: {image}"));
            }
            waits
        });
    }
}
