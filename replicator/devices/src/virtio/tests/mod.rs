//! The transport as drivers, good and bad, and a device's backend see it.

mod hostile;
mod recovery;

use std::sync::Arc;

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{BUFFERS, Driver, ENTRIES, INDIRECT, MEMORY_BYTES, NEXT, WRITABLE, memory};
use super::*;
use crate::BusDevice;

const MAX_ENTRIES: u32 = 64;
const NEEDS_RESET: u32 = 64;
const FEATURE: u64 = 1 << 5;
const INDIRECT_FEATURE: u64 = 1 << 28;

struct Rig {
    transport: Arc<Transport>,
    driver: Driver,
    irq: EventFd,
    chain: Chain,
}

impl Rig {
    fn new() -> Rig {
        let memory = memory();
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let model = Model {
            name: "test".to_owned(),
            device_type: 42,
            features: FEATURE,
            queue_sizes: &[MAX_ENTRIES as u16, MAX_ENTRIES as u16],
            config: (1..=10).collect(),
        };
        let transport = Transport::new(model, memory.clone(), irq.try_clone().expect("eventfd")).expect("transport");
        let transport = Arc::new(transport);
        let driver = Driver::new(memory, transport.clone(), 2);
        Rig { transport, driver, irq, chain: Chain::default() }
    }

    fn running() -> Rig {
        let mut rig = Rig::new();
        rig.driver.start(FEATURE | INDIRECT_FEATURE);
        rig
    }

    /// Offers a chain of one buffer; the head names it.
    fn offer(&mut self, head: u16) {
        self.driver.offer(0, head, &[(BUFFERS + u64::from(head) * 0x100, 8, WRITABLE)]);
    }

    fn take(&mut self) -> Option<Ticket> {
        self.transport.session()?.take(0, &mut self.chain)
    }

    fn take_all(&mut self) -> Vec<Ticket> {
        std::iter::from_fn(|| self.take()).collect()
    }

    fn finish(&self, ticket: Ticket) -> bool {
        self.transport.session().is_some_and(|mut session| session.finish(ticket, 8))
    }

    fn heads(&mut self) -> Vec<u16> {
        self.driver.used(0).into_iter().map(|(head, _)| head).collect()
    }

    /// Another machine, loaded from a checkpoint of this one.
    fn failover(&self) -> Rig {
        let mut other = Rig::new();
        let content = self.driver.bytes(0, MEMORY_BYTES);
        other.driver.memory.write_slice(&content, GuestAddress(0)).expect("memory");
        let checked = other.transport.check(self.transport.save()).expect("good state");
        other.transport.load(checked);
        assert_eq!(other.transport.save(), self.transport.save(), "what is loaded can be read back");
        other.transport.resume();
        other.driver.resume();
        other
    }
}

#[test]
fn a_driver_finds_a_modern_device() {
    let rig = Rig::new();
    let driver = &rig.driver;
    assert_eq!(driver.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!((driver.read(VIRTIO_MMIO_VERSION), driver.read(VIRTIO_MMIO_DEVICE_ID)), (2, 42));
    driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    assert_eq!(u64::from(driver.read(VIRTIO_MMIO_DEVICE_FEATURES)), FEATURE | INDIRECT_FEATURE);
    for (select, features) in [(1, 1), (2, 0), (u32::MAX, 0)] {
        driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
        assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES), features);
    }
    for (queue, entries) in [(0, MAX_ENTRIES), (1, MAX_ENTRIES), (2, 0), (u32::MAX, 0)] {
        driver.write(VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), entries);
    }
    assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX, "no shared memory");
}

#[test]
fn configuration_is_read_in_any_width_and_not_beyond_its_end() {
    let rig = Rig::new();
    let read = |offset, width| {
        let mut data = vec![0xee; width];
        rig.transport.read(offset, &mut data);
        data
    };
    assert_eq!(read(0x100, 1), [1]);
    assert_eq!(read(0x103, 2), [4, 5]);
    assert_eq!(read(0x108, 8), [9, 10, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(0x10a, 4), [0; 4]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
    let generation = rig.driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    rig.transport.configure(|config| config[0] = 77);
    assert_eq!(read(0x100, 1), [77]);
    assert_ne!(rig.driver.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
}

#[test]
fn features_that_are_not_offered_or_not_modern_are_refused() {
    let rig = Rig::new();
    for features in [[1u32 << 6, 1], [FEATURE as u32, 0], [FEATURE as u32, 3]] {
        rig.driver.write(VIRTIO_MMIO_STATUS, 0);
        rig.driver.write(VIRTIO_MMIO_STATUS, 3);
        for (select, half) in (0..).zip(features) {
            rig.driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            rig.driver.write(VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        rig.driver.write(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(rig.driver.status(), 3, "{features:?}");
        rig.driver.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(rig.driver.status() & (8 | NEEDS_RESET), NEEDS_RESET, "{features:?}");
        assert!(rig.transport.session().is_none());
    }
    assert!(rig.transport.check(rig.transport.save()).is_ok(), "such a device can be saved, too");
}

#[test]
fn queues_are_set_up_between_features_and_driver_ok_only() {
    let mut rig = Rig::new();
    rig.driver.set_up(0, Driver::table(0));
    assert_eq!(rig.driver.read(VIRTIO_MMIO_QUEUE_READY), 0, "too early");
    rig.driver.start(FEATURE);
    rig.driver.set_up(0, Driver::table(1));
    rig.offer(3);
    assert_eq!(rig.take_all().len(), 1, "too late: it is where it was");
    rig.driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    rig.offer(4);
    assert!(rig.take().is_none(), "a queue that was taken away");
}

#[test]
fn queues_outside_of_memory_are_refused_at_driver_ok() {
    let end = MEMORY_BYTES as u64;
    for table in [end, end - 0x1000, end - 0x2000, 0u64.wrapping_sub(0x1000)] {
        let rig = Rig::new();
        rig.driver.negotiate(FEATURE);
        rig.driver.set_up(0, table);
        rig.driver.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(rig.driver.status(), 15 | NEEDS_RESET, "{table:#x}");
        assert_eq!(rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert!(rig.irq.read().is_ok() && rig.transport.session().is_none());
    }
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let rig = Rig::running();
    rig.transport.interrupt_used();
    rig.transport.interrupt_configuration();
    assert_eq!((rig.irq.read().ok(), rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS)), (Some(2), 3));
    rig.driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    // One that was on its way when the checkpoint was cut comes again; the one of which nobody knows, too.
    let other = rig.failover();
    assert_eq!((other.irq.read().ok(), other.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS)), (Some(1), 3));
    let idle = Rig::new();
    idle.transport.resume();
    assert!(idle.irq.read().is_err(), "nobody is there to be interrupted");
}

#[test]
fn the_driver_says_whether_it_wants_interrupts() {
    let mut rig = Rig::running();
    rig.offer(0);
    rig.offer(1);
    let tickets = rig.take_all();
    rig.driver.put(1u16, Driver::avail(0));
    assert!(!rig.finish(tickets[0]));
    rig.driver.put(0u16, Driver::avail(0));
    assert!(rig.finish(tickets[1]));
    assert_eq!(rig.heads(), [0, 1]);
}

#[test]
fn indices_wrap() {
    let mut rig = Rig::running();
    for round in 0..70_000u32 {
        let head = (round % u32::from(ENTRIES)) as u16;
        rig.offer(head);
        let ticket = rig.take().expect("offered");
        assert!(rig.finish(ticket));
        assert_eq!(rig.heads(), [head]);
        if round % 16_384 == 16_383 {
            rig = rig.failover();
        }
    }
}

#[test]
fn an_indirect_table_is_one_chain_if_that_was_agreed() {
    let table = BUFFERS + 0x8000;
    let mut rig = Rig::running();
    rig.driver.descriptor(table, 0, (BUFFERS, 4), NEXT, 2);
    rig.driver.descriptor(table, 2, (BUFFERS + 0x100, 5), WRITABLE, 0);
    rig.driver.descriptor(Driver::table(0), 7, (table, 48), INDIRECT, 0);
    rig.driver.offer_head(0, 7);
    let ticket = rig.take().expect("offered");
    assert_eq!((length(&rig.chain.readable), length(&rig.chain.writable)), (4, 5));
    assert!(rig.finish(ticket));
    assert_eq!(rig.heads(), [7]);
    rig.driver.start(FEATURE);
    rig.driver.descriptor(Driver::table(0), 7, (table, 48), INDIRECT, 0);
    rig.driver.offer_head(0, 7);
    assert!(rig.take().is_none());
    assert_eq!(rig.driver.status(), 15 | NEEDS_RESET);
}

#[test]
fn bytes_cross_the_bounds_of_buffers() {
    let mut rig = Rig::running();
    let buffers: Vec<_> = (0..5).map(|index| (BUFFERS + index * 0x1000, index as u32, WRITABLE)).collect();
    rig.driver.offer(0, 0, &buffers);
    rig.take().expect("offered");
    let memory = rig.transport.memory();
    assert_eq!(scatter(memory, &rig.chain.writable, 2, b"abcdefghijk").expect("memory"), 8, "as much as fits");
    let mut read = [0; 12];
    assert_eq!(gather(memory, &rig.chain.writable, 0, &mut read).expect("memory"), 10);
    assert_eq!(&read, b"\0\0abcdefgh\0\0");
    assert_eq!(rig.driver.bytes(BUFFERS + 0x4000, 6), b"efgh\0\0");
    assert_eq!(gather(memory, &rig.chain.writable, 99, &mut read).expect("memory"), 0);
}

#[test]
fn a_reset_ends_what_was_taken_before_it() {
    let mut rig = Rig::running();
    rig.offer(0);
    let old = rig.take().expect("offered");
    rig.transport.interrupt_used();
    rig.driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!((rig.driver.status(), rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS)), (0, 0));
    assert!(rig.transport.session().is_none() && rig.transport.taken(0) == 0);
    rig.driver.start(FEATURE);
    rig.offer(0);
    let new = rig.take().expect("offered");
    assert!(!rig.finish(old), "of another time");
    assert_eq!(rig.heads(), [] as [u16; 0]);
    assert!(rig.finish(new) && !rig.finish(new), "once");
    assert_eq!(rig.heads(), [0]);
}
