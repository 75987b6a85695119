//! A machine with one network card, a driver for it, and the wire at the other end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use kemari_core::{Acknowledgement, Consent, ConsentReason, Epoch, Gate, Generation, Released, Sealed};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::*;
use crate::virtio::driver::{BUFFERS, Driver, MEMORY_BYTES, WRITABLE, memory};
use crate::{Device, SourceId};

pub(super) const ID: DeviceId = DeviceId(1);
pub(super) const MAC: [u8; 6] = [2, 0x4b, 0x4d, 0x52, 0x49, 7];
pub(super) const FEATURES: u64 = 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
/// Of a buffer for a received frame.
pub(super) const ROOM: u32 = 2048;
const GATE_BYTES: usize = 1 << 20;

pub(super) fn generation() -> Generation {
    Generation { number: 1, id: 1 }
}

/// A frame that can be told from others.
pub(super) fn frame(number: u16) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &MAC, &[0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.resize(60 + usize::from(number % 50), number as u8);
    frame
}

/// With the header that leads it on its way.
pub(super) fn led(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_BYTES][..], frame].concat()
}

/// Where the guest keeps what belongs to a head of a queue.
pub(super) fn buffer(queue: usize, head: u16) -> u64 {
    BUFFERS + queue as u64 * 0x20000 + u64::from(head) * 0x2000
}

pub(super) struct Rig {
    pub(super) net: Net,
    pub(super) driver: Driver,
    pub(super) irq: EventFd,
    pub(super) gate: Gate<Output>,
    pub(super) wire: UnixDatagram,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let (wire, end) = UnixDatagram::pair().expect("sockets");
        wire.set_nonblocking(true).expect("socket");
        end.set_nonblocking(true).expect("socket");
        Rig::on(Tap::from_file(File::from(OwnedFd::from(end))), wire)
    }

    pub(super) fn on(tap: Tap, wire: UnixDatagram) -> Rig {
        let memory = memory();
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let net = Net::on(tap, ID, memory.clone(), irq.try_clone().expect("eventfd"), MAC).expect("card");
        let driver = Driver::new(memory, net.bus(), QUEUE_SIZES.len());
        Rig { net, driver, irq, gate: Gate::new(generation(), Epoch::FIRST, GATE_BYTES), wire }
    }

    /// One whose driver is at work.
    pub(super) fn running() -> Rig {
        let mut rig = Rig::new();
        rig.run();
        rig
    }

    pub(super) fn run(&mut self) {
        self.run_with(FEATURES);
    }

    pub(super) fn run_with(&mut self, features: u64) {
        self.net.start();
        self.driver.start(features);
        self.service_all();
    }

    /// The driver offers a frame, led by a header that says what it may not.
    pub(super) fn transmit(&mut self, head: u16, number: u16) {
        let bytes = [&[0xee; HEADER_BYTES][..], &frame(number)].concat();
        self.driver.memory.write_slice(&bytes, GuestAddress(buffer(TX, head))).expect("memory");
        self.driver.offer(TX, head, &[(buffer(TX, head), bytes.len() as u32, 0)]);
    }

    /// The driver offers a buffer to receive into.
    pub(super) fn make_room(&mut self, head: u16, bytes: u32) {
        self.driver.offer(RX, head, &[(buffer(RX, head), bytes, WRITABLE)]);
    }

    pub(super) fn service(&mut self, index: u8) {
        let mut outputs = Vec::new();
        self.net.service(SourceId { device: ID, index }, &mut outputs, &mut Vec::new());
        outputs.into_iter().for_each(|output| self.gate.hold(output));
    }

    pub(super) fn service_all(&mut self) {
        (0..=TAP).for_each(|index| self.service(index));
    }

    pub(super) fn collect(&mut self) {
        let mut outputs = Vec::new();
        self.net.collect(&mut outputs);
        outputs.into_iter().for_each(|output| self.gate.hold(output));
    }

    /// A checkpoint that is committed.
    pub(super) fn commit(&mut self) {
        let sealed = Sealed::new(generation(), self.gate.seal(), 1);
        let proof = sealed.acknowledged_by(&Acknowledgement(sealed.image())).expect("the same image");
        self.gate.commit(&proof).expect("sealed here");
    }

    /// Performs at most `count` of the outputs that may leave.
    pub(super) fn release(&mut self, count: usize) {
        for _ in 0..count {
            let Some(output) = self.gate.next_released() else { break };
            self.net.release(output);
        }
        self.net.signal();
    }

    pub(super) fn settle(&mut self) {
        self.service_all();
        self.commit();
        self.release(usize::MAX);
    }

    /// All that is held, to be released whatever the card has become meanwhile.
    pub(super) fn released(&mut self) -> Vec<Released<Output>> {
        let mut gate = std::mem::replace(&mut self.gate, Gate::new(generation(), Epoch::FIRST, GATE_BYTES));
        gate.open(Consent::recorded(generation(), ConsentReason::Operator)).expect("same generation");
        std::iter::from_fn(|| gate.next_released()).collect()
    }

    /// What is on the wire.
    pub(super) fn wire(&self) -> Vec<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        std::iter::from_fn(|| self.wire.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec())).collect()
    }

    /// Numbers of the frames on the wire.
    pub(super) fn sent(&self) -> Vec<u16> {
        self.wire().iter().map(|bytes| number(&bytes[HEADER_BYTES..])).collect()
    }

    /// Puts a frame on the wire.
    pub(super) fn arrive(&self, number: u16) {
        self.wire.send(&led(&frame(number))).expect("room on the wire");
    }

    /// Numbers of the frames that the guest has received.
    pub(super) fn received(&mut self) -> Vec<u16> {
        let used = self.driver.used(RX);
        let read = |(head, bytes)| self.driver.bytes(buffer(RX, head), bytes as usize);
        used.into_iter().map(read).map(|bytes| number(&bytes[HEADER_BYTES..])).collect()
    }

    pub(super) fn sent_back(&mut self) -> Vec<u16> {
        self.driver.used(TX).into_iter().map(|(head, _)| head).collect()
    }

    /// The link's status, as the guest sees it.
    pub(super) fn link(&self) -> u16 {
        let mut status = [0; 2];
        self.net.bus().read(0x106, &mut status);
        u16::from_le_bytes(status)
    }

    pub(super) fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.net.save(&mut state);
        state
    }

    /// Another machine, loaded from a checkpoint of this one and not started.
    pub(super) fn failover(&self) -> Rig {
        let mut other = Rig::new();
        let content = self.driver.bytes(0, MEMORY_BYTES);
        other.driver.memory.write_slice(&content, GuestAddress(0)).expect("memory");
        other.net.load(1, &self.state()).expect("good state");
        assert_eq!(other.state(), self.state(), "what is loaded can be read back");
        other.driver.resume();
        other
    }
}

/// Of a [`frame`], which must be whole.
pub(super) fn number(bytes: &[u8]) -> u16 {
    let number = u16::from_be_bytes([bytes[14], bytes[15]]);
    // To whom it is, the test knows.
    assert_eq!(bytes[6..], frame(number)[6..], "whole");
    number
}
