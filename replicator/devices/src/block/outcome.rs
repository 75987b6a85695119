//! What comes of a request: it is done, it fails, or the host takes too long for it.

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};

use super::patience::Patience;
use super::worker::{Completion, Job, RequestId, Work};
use super::{Disk, DiskFailure, DiskFault, DiskOperation, Kind, OnDiskError, Pending};
use crate::DeviceEvent;

impl Disk {
    /// Gives the guest what the I/O thread is done with.
    pub(super) fn complete(&mut self, events: &mut Vec<DeviceEvent>) {
        self.worker.take_done(&mut self.completed);
        if !self.started || self.completed.is_empty() {
            return;
        }
        for completion in std::mem::take(&mut self.completed) {
            self.finish(completion, events);
        }
        self.submit_reads();
    }

    fn finish(&mut self, Completion { id, work, result }: Completion, events: &mut Vec<DeviceEvent>) {
        // Not there: of a history that a load has replaced, or so late that the guest was told that it has failed.
        if !self.pending.contains_key(&id) {
            return;
        }
        match result {
            Ok(()) => {
                self.stuck.take_if(|stuck| *stuck == id);
                self.count(&work);
                self.conclude(id, Some(work));
            }
            Err(error) => {
                self.complain(id, DiskFailure::of(&error), events);
                if self.on_error == OnDiskError::Report {
                    self.conclude(id, None);
                } else {
                    // Its chain stays taken, so that whoever goes on from a checkpoint does it again.
                    self.stuck = Some(id);
                    self.failed = Some(Job { id, work });
                }
            }
        }
    }

    /// Looks whether the host takes too long for a request.
    ///
    /// The one that it has begun cannot be had back: it may be done at any time, but before all that is begun here after it. What waits
    /// behind it was not begun.
    pub(super) fn look(&mut self, events: &mut Vec<DeviceEvent>) {
        let begun = self.worker.begun();
        let Some(failure) = self.patience.as_mut().and_then(|patience| patience.look(begun)) else { return };
        // A request of another history is nobody's, but in the way all the same.
        let known = begun.filter(|id| self.pending.contains_key(id));
        if !self.started {
            return;
        }
        if self.on_error != OnDiskError::Report {
            self.stuck = known;
            return known.into_iter().for_each(|id| self.complain(id, failure, events));
        }
        let behind = self.worker.recall().into_iter().map(|job| job.id);
        for id in known.into_iter().chain(behind).collect::<Vec<_>>() {
            self.complain(id, failure, events);
            self.conclude(id, None);
        }
        self.submit_reads();
    }

    /// Tells of a request that has failed.
    fn complain(&mut self, id: RequestId, failure: DiskFailure, events: &mut Vec<DeviceEvent>) {
        let Some(pending) = self.pending.get(&id) else { return };
        let operation = match pending.kind {
            Kind::Read(_) => DiskOperation::Read,
            Kind::Write => DiskOperation::Write,
            Kind::Flush => DiskOperation::Flush,
        };
        let (path, range, on_error) = (self.path.clone(), pending.range.clone(), self.on_error);
        self.stats.errors += 1;
        events.push(DeviceEvent::DiskError(DiskFault { path, operation, range, failure, on_error }));
    }

    /// Answers a request: with what was done, or that it has failed.
    fn conclude(&mut self, id: RequestId, done: Option<Work>) {
        let Some(pending) = self.pending.remove(&id) else { return };
        self.pending_bytes -= pending.bytes();
        if pending.answered {
            return;
        }
        let Pending { kind, ticket, status, .. } = pending;
        match (kind, done) {
            (_, None) => self.answer(ticket, status, VIRTIO_BLK_S_IOERR, &[], &[]),
            (Kind::Read(place), Some(Work::Read { buffer, .. })) => {
                self.answer(ticket, status, VIRTIO_BLK_S_OK, &place, &buffer);
            }
            _ => self.answer(ticket, status, VIRTIO_BLK_S_OK, &[], &[]),
        }
    }

    /// Whether a request has failed or is overdue, and is not answered: the guest waits for it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Tries again what has failed.
    pub fn retry(&mut self) {
        if let Some(job) = self.failed.take() {
            self.worker.retry(job);
            self.patience.iter_mut().for_each(Patience::watch);
        }
    }

    fn count(&mut self, work: &Work) {
        match work {
            Work::Read { buffer, .. } => {
                self.stats.reads += 1;
                self.stats.read_bytes += buffer.len() as u64;
            }
            Work::Write { buffer, .. } => {
                self.stats.writes += 1;
                self.stats.written_bytes += buffer.len() as u64;
            }
            Work::Flush => self.stats.flushes += 1,
        }
    }
}
