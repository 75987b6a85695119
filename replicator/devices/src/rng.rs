//! virtio-rng (virtio 1.2, section 5.4): randomness of the host.
//!
//! Safe across a failover: a request is answered at once and never held, and randomness that the guest got after its last checkpoint is
//! forgotten with everything that came of it. The guest asks again and gets other bytes, of which nobody has seen anything.

#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{Chain, Model, Transport, TransportState, length, scatter};
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Kind, Memory, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "rng",
    state_version: 1,
    replay: "randomness after the last checkpoint is forgotten with everything that came of it, of which nobody \
        has seen anything. The guest asks again and gets other bytes.",
};

const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [16];
/// Most bytes of an answer, which may be shorter than what was asked for (5.4.6). Up to so many, getrandom(2) is neither cut short
/// nor interrupted.
const ANSWER_BYTES_MAX: usize = 256;

/// A source of randomness for the guest.
pub struct Rng {
    id: DeviceId,
    transport: Arc<Transport>,
    started: bool,
    chain: Chain,
    /// For the next answer: got before the queue is looked at, so that no vCPU waits for a system call at the transport's lock.
    random: Vec<u8>,
}

impl Rng {
    /// Makes the device, stopped. `irq` is the irqfd of its interrupt line.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId, memory: Memory, irq: EventFd) -> std::io::Result<Rng> {
        let model = Model {
            name: KIND.name.to_owned(),
            device_type: VIRTIO_ID_RNG,
            features: 0,
            queue_sizes: &QUEUE_SIZES,
            config: Vec::new(),
        };
        let transport = Arc::new(Transport::new(model, memory, irq)?);
        Ok(Rng { id, transport, started: false, chain: Chain::default(), random: Vec::new() })
    }

    /// Answers what the queue has, of which there is no more than a queue at a time.
    fn answer(&mut self) {
        let mut owes_interrupt = false;
        for _ in 0..QUEUE_SIZES[QUEUE] {
            if self.random.is_empty() {
                self.random = randomness();
            }
            let Some(mut session) = self.transport.session().filter(|_| self.started) else { break };
            let Some(ticket) = session.take(QUEUE, &mut self.chain) else { break };
            let wanted = length(&self.chain.writable).min(self.random.len());
            let written =
                scatter(session.memory(), &self.chain.writable, 0, &self.random[..wanted]).unwrap_or_default();
            // What is left over goes, too: nobody gets a byte twice.
            self.random.clear();
            owes_interrupt |= session.finish(ticket, written as u32);
        }
        if owes_interrupt {
            self.transport.interrupt_used();
        }
    }
}

/// Bytes for one answer, as far as there is randomness.
fn randomness() -> Vec<u8> {
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    // SAFETY: the kernel writes no more than the bytes of the vector.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes.truncate(usize::try_from(count).unwrap_or_else(|_| {
        log::error!("{}: getrandom: {}", KIND.name, std::io::Error::last_os_error());
        0
    }));
    bytes
}

impl Device for Rng {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.transport.clone()
    }

    fn sources(&self) -> Vec<Source> {
        let id = SourceId { device: self.id, index: QUEUE as u8 };
        let source = |notifier: &EventFd| Source { fd: notifier.as_raw_fd(), id, interest: Interest::Readable };
        self.transport.notifiers().iter().map(source).collect()
    }

    fn notifiers(&self) -> Vec<&EventFd> {
        self.transport.notifiers().iter().collect()
    }

    fn service(&mut self, _source: SourceId, _outputs: &mut Vec<Output>, _events: &mut Vec<DeviceEvent>) {
        self.answer();
    }

    fn start(&mut self) {
        self.started = true;
        self.transport.resume();
    }

    fn stop(&mut self) {
        self.started = false;
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        KIND.encode(&self.transport.save(), into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let state: TransportState = KIND.decode(version, state)?;
        let checked = self.transport.check(state).map_err(|what| KIND.invalid(what))?;
        self.stop();
        self.transport.load(checked);
        Ok(())
    }
}
