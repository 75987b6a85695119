//! The network device, as smoltcp wants it: sixteen buffers each way, nothing ever waited for.

use crate::cpu::Doorbells;
use crate::memory::{self, Hal};
use crate::virtio::Device;
use core::ptr::NonNull;
use core::slice;
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Features worth having: VIRTIO_NET_F_MAC.
pub(crate) const WANTED: u64 = 1 << 5;

/// Buffers each way. Few: the pages that traffic dirties are the pages of these.
const BUFFERS: usize = 16;
/// Two in a page.
const BUFFER_BYTES: usize = 2048;
/// `struct virtio_net_hdr_v1`; all zero says no offload.
const HEADER_BYTES: usize = 12;
/// An Ethernet frame without its check sequence.
const FRAME_BYTES: usize = 1514;

const RX: u16 = 0;
const TX: u16 = 1;

/// The network device.
pub(crate) struct Net {
    rx: Ring,
    tx: Ring,
    device: Device,
    /// Buffers given for reception since the device was last told.
    given: usize,
    /// Something to send has been queued since the device was last told.
    queued: bool,
    /// Which transmit buffers are free, a bit each.
    free: u16,
    /// The device interrupts when it has sent something.
    tx_interrupts: bool,
}

/// A queue with one buffer for each descriptor.
struct Ring {
    queue: VirtQueue<Hal, BUFFERS>,
    buffers: NonNull<u8>,
    /// Which buffer a descriptor carries.
    carried: [u8; BUFFERS],
}

impl Ring {
    fn new(device: &mut Device, index: u16) -> Self {
        let queue = VirtQueue::new(&mut device.transport, index, false, false)
            .unwrap_or_else(|e| panic!("network queue {index}: {e}"));
        Self { queue, buffers: memory::zeroed(BUFFERS * BUFFER_BYTES, memory::PAGE), carried: [0; BUFFERS] }
    }

    /// The bytes of one buffer. Callers have only one at a time, and none that the device has.
    fn buffer(&mut self, index: usize) -> &'static mut [u8] {
        assert!(index < BUFFERS);
        // SAFETY: inside the allocation of `new`, which is never freed; unique by the rule above.
        unsafe { slice::from_raw_parts_mut(self.buffers.as_ptr().add(index * BUFFER_BYTES), BUFFER_BYTES) }
    }

    /// Gives `buffer` to the device, to write if `receive`, else to read its first `bytes`.
    fn give(&mut self, index: usize, receive: bool, bytes: usize) {
        let buffer = self.buffer(index);
        // SAFETY: the buffer stays, and is not touched until `take` returns it.
        let token = unsafe {
            if receive { self.queue.add(&[], &mut [buffer]) } else { self.queue.add(&[&buffer[..bytes]], &mut []) }
        };
        let token = token.expect("as many descriptors as buffers");
        self.carried[usize::from(token)] = index as u8;
    }

    /// A buffer the device is done with, and how many bytes it wrote there.
    fn take(&mut self, receive: bool) -> Option<(usize, usize)> {
        let token = self.queue.peek_used()?;
        let index = usize::from(*self.carried.get(usize::from(token))?);
        let buffer = self.buffer(index);
        // SAFETY: the buffer given with this token, the same way round.
        let written = unsafe {
            if receive {
                self.queue.pop_used(token, &[], &mut [buffer])
            } else {
                self.queue.pop_used(token, &[&*buffer], &mut [])
            }
        };
        Some((index, written.ok()? as usize))
    }
}

impl Net {
    /// Starts the device with all its receive buffers.
    pub(crate) fn new(mut device: Device) -> Self {
        let rx = Ring::new(&mut device, RX);
        let tx = Ring::new(&mut device, TX);
        device.transport.finish_init();
        let mut net = Self { rx, tx, device, given: BUFFERS, queued: false, free: !0, tx_interrupts: true };
        for index in 0..BUFFERS {
            net.rx.give(index, true, 0);
        }
        net.set_tx_interrupts(false);
        net
    }

    /// The device's address, or a made-up one if it has none.
    pub(crate) fn mac(&self) -> [u8; 6] {
        if self.device.features & WANTED == 0 {
            return [0x02, 0x4b, 0x45, 0x4d, 0x41, 0x52];
        }
        self.device.transport.read_config_space(0).unwrap_or_else(|e| panic!("network address: {e}"))
    }

    /// Tells the device what it has to know. Of receive buffers it hears by the half: as each used one is given back at
    /// once, a device that has run out sees all of them come back, so it hears in time.
    pub(crate) fn ring(&mut self, bells: &mut Doorbells) {
        if self.given >= BUFFERS / 2 {
            self.given = 0;
            if self.rx.queue.should_notify() {
                bells.ring(self.device.notify, u32::from(RX));
            }
        }
        if self.queued {
            self.queued = false;
            if self.tx.queue.should_notify() {
                bells.ring(self.device.notify, u32::from(TX));
            }
        }
    }

    /// Whether there is room to send. If not, the device will interrupt when there is: only then is it worth one.
    pub(crate) fn can_send(&mut self) -> bool {
        if self.free == 0 {
            self.reclaim();
            if self.free == 0 {
                self.set_tx_interrupts(true);
                self.reclaim();
            }
        }
        if self.free != 0 && self.tx_interrupts {
            self.set_tx_interrupts(false);
        }
        self.free != 0
    }

    fn reclaim(&mut self) {
        while let Some((index, _)) = self.tx.take(false) {
            self.free |= 1 << index;
        }
    }

    fn set_tx_interrupts(&mut self, on: bool) {
        self.tx_interrupts = on;
        self.tx.queue.set_dev_notify(on);
    }
}

impl phy::Device for Net {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if !self.can_send() {
            return None;
        }
        let (index, written) = self.rx.take(true)?;
        let rx = RxToken { ring: &mut self.rx, given: &mut self.given, index, written };
        Some((rx, TxToken { ring: &mut self.tx, queued: &mut self.queued, free: &mut self.free }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        if !self.can_send() {
            return None;
        }
        Some(TxToken { ring: &mut self.tx, queued: &mut self.queued, free: &mut self.free })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        capabilities
    }
}

/// One received frame; its buffer goes back to the device when it has been looked at.
pub(crate) struct RxToken<'a> {
    ring: &'a mut Ring,
    given: &'a mut usize,
    index: usize,
    written: usize,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        let buffer = self.ring.buffer(self.index);
        let result = look(&buffer[HEADER_BYTES..self.written.clamp(HEADER_BYTES, BUFFER_BYTES)]);
        self.ring.give(self.index, true, 0);
        *self.given += 1;
        result
    }
}

/// Leave to send one frame.
pub(crate) struct TxToken<'a> {
    ring: &'a mut Ring,
    queued: &'a mut bool,
    free: &'a mut u16,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let index = self.free.trailing_zeros() as usize;
        *self.free &= !(1 << index);
        let buffer = self.ring.buffer(index);
        buffer[..HEADER_BYTES].fill(0);
        let result = fill(&mut buffer[HEADER_BYTES..HEADER_BYTES + bytes]);
        self.ring.give(index, false, HEADER_BYTES + bytes);
        *self.queued = true;
        result
    }
}
