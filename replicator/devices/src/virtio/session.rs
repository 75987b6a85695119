//! The event loop's work on the queues of a device that its driver has set up.

use std::collections::VecDeque;
use std::sync::MutexGuard;
use std::sync::atomic::{Ordering, fence};

use kemari_core::sabotage::{self, Bug};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::Chain;
use super::registers::{Registers, Transport};
use crate::Memory;

/// A queue, and what was taken from it.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) queue: Queue,
    /// Heads taken from the avail ring and not yet put into the used ring, in the order they were taken.
    pub(super) taken: VecDeque<u16>,
    /// Of those, the ones a [load](Transport::load) brought that are still to be done again. They go before the avail ring.
    pub(super) again: VecDeque<u16>,
}

impl Ring {
    /// Plants the bugs that lose requests at a failover, if asked for. Not where state is loaded: the rehearsal, which reads
    /// back what it has loaded, would find them before there is a failover.
    pub(super) fn sabotage(&mut self) {
        if self.again.is_empty() {
            return;
        }
        if sabotage::planted(Bug::ForgetPending) {
            self.again.clear();
        }
        if sabotage::planted(Bug::RewindAvail) {
            self.again.clear();
            self.taken.clear();
            self.queue.set_next_avail(self.queue.next_used());
        }
    }
}

/// A chain that was taken: how to give it back. It is worth nothing after a reset of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    incarnation: u64,
    queue: usize,
    head: u16,
}

/// Exclusive use of the queues. While it lasts the driver cannot reset the device; keep it short, and make no system call.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    registers: MutexGuard<'a, Registers>,
}

impl<'a> Session<'a> {
    pub(super) fn new(transport: &'a Transport, registers: MutexGuard<'a, Registers>) -> Session<'a> {
        Session { transport, registers }
    }

    pub(crate) fn memory(&self) -> &'a Memory {
        self.transport.memory()
    }

    /// Whether the driver accepted a feature.
    pub(crate) fn negotiated(&self, feature: u32) -> bool {
        self.registers.negotiated(feature)
    }

    /// Whether [`take`](Session::take) would find something.
    pub(crate) fn offers(&self, queue: usize) -> bool {
        self.registers.rings.get(queue).is_some_and(|ring| {
            let index = ring.queue.avail_idx(self.memory(), Ordering::Acquire);
            ring.queue.ready()
                && (!ring.again.is_empty() || index.is_ok_and(|index| index.0 != ring.queue.next_avail()))
        })
    }

    /// Takes the next chain of a queue and reads it into `chain`. A driver that broke the rules finds its device in need of a reset.
    pub(crate) fn take(&mut self, queue: usize, chain: &mut Chain) -> Option<Ticket> {
        let taken = self.next_head(queue).and_then(|head| {
            let Some(head) = head else { return Ok(None) };
            let indirect = self.negotiated(VIRTIO_RING_F_INDIRECT_DESC);
            let ring = &self.registers.rings[queue];
            chain
                .walk(self.memory(), &ring.queue, head, indirect)
                .map_err(|error| format!("descriptor chain {head}: {error}"))?;
            Ok(Some(Ticket { incarnation: self.registers.incarnation, queue, head }))
        });
        taken.unwrap_or_else(|what| {
            self.fail(queue, &what);
            None
        })
    }

    fn next_head(&mut self, queue: usize) -> Result<Option<u16>, String> {
        let memory = self.memory();
        let Some(ring) = self.registers.rings.get_mut(queue).filter(|ring| ring.queue.ready()) else {
            return Ok(None);
        };
        if let Some(head) = ring.again.pop_front() {
            return Ok(Some(head));
        }
        let next = ring.queue.iter(memory).map(|mut avail| avail.next()).map_err(|error| error.to_string())?;
        let Some(head) = next.map(|chain| chain.head_index()) else { return Ok(None) };
        let size = ring.queue.size();
        // A driver never has more chains with the device than there are descriptors. This bounds what a device holds.
        if head >= size || ring.taken.len() >= usize::from(size) {
            ring.queue.go_to_previous_position();
            return Err(format!("chain {head} offered while {} are taken, in a queue of {size}", ring.taken.len()));
        }
        ring.taken.push_back(head);
        Ok(Some(head))
    }

    /// Whether these many chains are all that the queue can ever have: no further one will come while they are taken.
    pub(crate) fn is_drained_by(&self, queue: usize, taken: usize) -> bool {
        self.registers.rings.get(queue).is_none_or(|ring| taken >= usize::from(ring.queue.size()))
    }

    /// Leaves chains for later, as if they had not been taken: they come again in this order, before all others.
    pub(crate) fn put_back(&mut self, tickets: impl DoubleEndedIterator<Item = Ticket>) {
        for Ticket { incarnation, queue, head } in tickets.rev() {
            if incarnation == self.registers.incarnation
                && let Some(ring) = self.registers.rings.get_mut(queue)
            {
                ring.again.push_front(head);
            }
        }
    }

    /// Whether a chain still belongs to the driver's present session with the device.
    pub(crate) fn is_current(&self, ticket: Ticket) -> bool {
        ticket.incarnation == self.registers.incarnation
    }

    /// Gives a chain back, with `written` bytes in its writable buffers. Whether the driver wants to be told by an interrupt.
    pub(crate) fn finish(&mut self, ticket: Ticket, written: u32) -> bool {
        self.finish_all(&[(ticket, written)])
    }

    /// Gives chains of one queue back, all at once: a driver that looks in between sees none of them. (A frame's receive buffers must
    /// be found together: virtio 1.2, 5.1.6.4.1.)
    pub(crate) fn finish_all(&mut self, finished: &[(Ticket, u32)]) -> bool {
        let memory = self.memory();
        let Some((Ticket { incarnation, queue, .. }, _)) = finished.first().copied() else { return false };
        let current = incarnation == self.registers.incarnation;
        let ring = self.registers.rings.get_mut(queue).filter(|ring| current && ring.queue.ready());
        let Some(ring) = ring else { return false };
        let is_taken = |(ticket, _): &(Ticket, u32)| ring.taken.contains(&ticket.head);
        if !finished.iter().all(is_taken) {
            return false;
        }
        if let Err(error) = publish(memory, &mut ring.queue, finished) {
            self.fail(queue, &format!("used ring: {error}"));
            return false;
        }
        for (ticket, _) in finished {
            // One for each: a driver that breaks the rules may have offered the same chain twice.
            if let Some(place) = ring.taken.iter().position(|&head| head == ticket.head) {
                ring.taken.remove(place);
            }
        }
        // The used index must be seen before the flag is read, or both sides could miss each other (2.7.7.2).
        fence(Ordering::SeqCst);
        let flags: Result<u16, _> = memory.load(GuestAddress(ring.queue.avail_ring()), Ordering::Relaxed);
        !flags.is_ok_and(|flags| u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT as u16 != 0)
    }

    /// Says that the driver broke the rules: the device does nothing more until it is reset (2.1.2).
    pub(crate) fn fail(&mut self, queue: usize, what: &str) {
        log::warn!("{}: queue {queue}: {what}; the device waits for a reset", self.transport.name());
        self.registers.needs_reset();
        self.transport.interrupt_configuration();
    }
}

/// Writes elements to the used ring and then its index, which makes them the driver's (virtio 1.2, 2.7.8).
fn publish(memory: &Memory, queue: &mut Queue, finished: &[(Ticket, u32)]) -> Result<(), GuestMemoryError> {
    const INDEX: u64 = 2;
    const ELEMENTS: u64 = 4;
    const ELEMENT_BYTES: u64 = 8;
    let mut index = queue.next_used();
    for (ticket, written) in finished {
        let at = queue.used_ring() + ELEMENTS + u64::from(index % queue.size()) * ELEMENT_BYTES;
        memory.write_obj(u32::from(ticket.head).to_le(), GuestAddress(at))?;
        memory.write_obj(written.to_le(), GuestAddress(at + ELEMENT_BYTES / 2))?;
        index = index.wrapping_add(1);
    }
    memory.store(index.to_le(), GuestAddress(queue.used_ring() + INDEX), Ordering::Release)?;
    queue.set_next_used(index);
    Ok(())
}
