//! The disk as the event loop sees it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kemari_core::Released;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::{BlockOutput, DONE, Disk, Patience, QUEUE, TIMER};
use crate::output::Payload;
use crate::virtio::TransportState;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "disk",
    state_version: 1,
    replay: "a write is done, and answered, only when a checkpoint covers it, and done again in the same order \
        where that is not certain: the same bytes at the same place. A read is asked again.",
};

/// The requests are in the transport's: the chains taken are those that are held, waiting or in flight.
#[derive(Debug, Serialize, Deserialize)]
struct DiskState {
    transport: TransportState,
}

impl Device for Disk {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.transport.clone()
    }

    fn sources(&self) -> Vec<Source> {
        let queue = self.transport.notifiers().iter().map(AsRawFd::as_raw_fd);
        (0..)
            .zip(queue.chain([self.worker.fd()]).chain(self.patience.as_ref().map(Patience::fd)))
            .map(|(index, fd)| Source { fd, id: SourceId { device: self.id, index }, interest: Interest::Readable })
            .collect()
    }

    fn notifiers(&self) -> Vec<&EventFd> {
        self.transport.notifiers().iter().collect()
    }

    fn service(&mut self, source: SourceId, outputs: &mut Vec<Output>, events: &mut Vec<DeviceEvent>) {
        match source.index {
            DONE => self.complete(events),
            TIMER => self.look(events),
            _ => {}
        }
        // Also after completions: they make room.
        self.take(outputs);
        self.signal();
    }

    fn collect(&mut self, outputs: &mut Vec<Output>) {
        self.take(outputs);
        self.signal();
    }

    fn release(&mut self, output: Released<Output>) {
        let Payload::Block(BlockOutput(job)) = output.into_inner().payload else { return };
        if !self.pending.contains_key(&job.id) {
            log::debug!("disk {}: output of another history is not performed", self.path.display());
        } else if self.started {
            self.submit(job);
        } else {
            self.parked.push(job);
        }
    }

    fn signal(&mut self) {
        if std::mem::take(&mut self.owes_interrupt) {
            self.transport.interrupt_used();
        }
    }

    fn set_backpressure(&mut self, full: bool) {
        if self.backpressure && !full {
            self.transport.kick(QUEUE);
        }
        self.backpressure = full;
    }

    fn start(&mut self) {
        self.started = true;
        self.worker.go_on();
        for job in std::mem::take(&mut self.parked) {
            self.submit(job);
        }
        self.transport.resume();
        self.worker.wake();
    }

    fn stop(&mut self) {
        self.started = false;
        // They were released before all that is parked.
        let recalled = self.worker.recall();
        self.parked.splice(..0, self.failed.take().into_iter().chain(recalled));
    }

    fn in_flight(&self) -> usize {
        // What waits behind a request that has failed is not on its way.
        if self.failed.is_some() { 0 } else { self.worker.submitted() }
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        KIND.encode(&DiskState { transport: self.transport.save() }, into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let DiskState { transport } = KIND.decode(version, state)?;
        let checked = self.transport.check(transport).map_err(|what| KIND.invalid(what))?;
        self.stop();
        // What is not pending is nobody's: output at the gate and what the I/O thread still has come to nothing.
        self.pending.clear();
        self.pending_bytes = 0;
        self.parked.clear();
        self.completed.clear();
        (self.stuck, self.failed) = (None, None);
        self.owes_interrupt = false;
        self.transport.load(checked);
        Ok(())
    }
}
