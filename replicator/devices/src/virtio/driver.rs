//! The other end of a virtio device, for tests: a driver on the same memory.

use std::sync::Arc;

use virtio_bindings::virtio_mmio::*;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::{BusDevice, Memory};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITABLE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Entries in every queue that the driver sets up.
pub(crate) const ENTRIES: u16 = 16;
/// Bytes of guest memory in tests.
pub(crate) const MEMORY_BYTES: usize = 1 << 20;
/// From here on memory is free for buffers.
pub(crate) const BUFFERS: u64 = 0x20000;

const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x3000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

pub(crate) fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory")
}

/// A driver, and how far it is in each queue.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    bus: Arc<dyn BusDevice>,
    queues: Vec<Position>,
}

#[derive(Clone, Copy, Default)]
struct Position {
    avail: u16,
    used: u16,
}

impl Driver {
    pub(crate) fn new(memory: Memory, bus: Arc<dyn BusDevice>, queues: usize) -> Driver {
        Driver { memory, bus, queues: vec![Position::default(); queues] }
    }

    pub(crate) fn write(&self, register: u32, value: u32) {
        self.bus.write(u64::from(register), &value.to_le_bytes());
    }

    pub(crate) fn read(&self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.bus.read(u64::from(register), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    /// Resets the device and brings it to work, with empty queues.
    pub(crate) fn start(&mut self, features: u64) {
        self.negotiate(features);
        self.memory
            .write_slice(&vec![0; self.queues.len() * RING_BYTES as usize], GuestAddress(RINGS))
            .expect("memory");
        for queue in 0..self.queues.len() {
            self.queues[queue] = Position::default();
            self.set_up(queue, Self::table(queue));
        }
        self.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.status(), 15, "the driver is accepted");
    }

    /// The first half of [`start`](Driver::start).
    pub(crate) fn negotiate(&self, features: u64) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        self.write(VIRTIO_MMIO_STATUS, 3);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32 | 1)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
    }

    /// Tells the device where a queue is.
    pub(crate) fn set_up(&self, queue: usize, table: u64) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, queue as u32);
        self.write(VIRTIO_MMIO_QUEUE_NUM, u32::from(ENTRIES));
        let places = [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, table),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, table.wrapping_add(AVAIL)),
            (VIRTIO_MMIO_QUEUE_USED_LOW, table.wrapping_add(USED)),
        ];
        for (low, address) in places {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// Goes on with queues that a load has put into memory.
    pub(crate) fn resume(&mut self) {
        for queue in 0..self.queues.len() {
            let position = Position { avail: self.avail_index(queue), used: self.used_index(queue) };
            self.queues[queue] = position;
        }
    }

    pub(crate) fn table(queue: usize) -> u64 {
        RINGS + queue as u64 * RING_BYTES
    }

    pub(crate) fn avail(queue: usize) -> u64 {
        Self::table(queue) + AVAIL
    }

    pub(crate) fn avail_index(&self, queue: usize) -> u16 {
        self.get(Self::avail(queue) + 2)
    }

    pub(crate) fn used_index(&self, queue: usize) -> u16 {
        self.get(Self::table(queue) + USED + 2)
    }

    pub(crate) fn put<T: ByteValued>(&self, value: T, address: u64) {
        self.memory.write_obj(value, GuestAddress(address)).expect("memory");
    }

    pub(crate) fn get<T: ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).expect("memory")
    }

    pub(crate) fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("memory");
        bytes
    }

    /// Writes one descriptor of a table.
    pub(crate) fn descriptor(&self, table: u64, index: u16, (address, bytes): (u64, u32), flags: u16, next: u16) {
        let at = table + u64::from(index) * 16;
        self.put(address, at);
        self.put(bytes, at + 8);
        self.put(flags, at + 12);
        self.put(next, at + 14);
    }

    /// Puts a chain into the avail ring.
    pub(crate) fn offer_head(&mut self, queue: usize, head: u16) {
        let position = &mut self.queues[queue].avail;
        let slot = *position % ENTRIES;
        *position = position.wrapping_add(1);
        let index = *position;
        self.put(head, Self::avail(queue) + 4 + u64::from(slot) * 2);
        self.put(index, Self::avail(queue) + 2);
    }

    /// Offers a chain of buffers, each with the flag [`WRITABLE`] or none, in the descriptors from `head` on.
    pub(crate) fn offer(&mut self, queue: usize, head: u16, buffers: &[(u64, u32, u16)]) {
        for (index, (address, bytes, flags)) in (head..).zip(buffers) {
            let is_last = usize::from(index - head) + 1 == buffers.len();
            let flags = if is_last { *flags } else { flags | NEXT };
            self.descriptor(Self::table(queue), index, (*address, *bytes), flags, index + 1);
        }
        self.offer_head(queue, head);
    }

    /// What came back since the last call: heads and bytes written.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let index = self.used_index(queue);
        let mut used = Vec::new();
        while self.queues[queue].used != index {
            let slot = self.queues[queue].used % ENTRIES;
            let at = Self::table(queue) + USED + 4 + u64::from(slot) * 8;
            used.push((self.get::<u32>(at) as u16, self.get(at + 4)));
            self.queues[queue].used = self.queues[queue].used.wrapping_add(1);
        }
        used
    }
}
