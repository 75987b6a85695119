//! virtio-net on a tap.

use vmm_sys_util::eventfd::EventFd;

use crate::{DeviceId, Memory, Output};

/// How to make a [`Net`].
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Name of a persistent tap that exists.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: [u8; 6],
}

/// Counters of a [`Net`], since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Frames taken from the guest and not yet on the tap.
    pub held_frames: u64,
    /// Frames written to the tap.
    pub sent_frames: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Frames that the tap refused or that were malformed.
    pub send_errors: u64,
    /// Frames given to the guest.
    pub received_frames: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames that did not fit the guest's buffers.
    pub receive_drops: u64,
}

/// Why a [`Net`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {}

/// A network card of the guest.
pub struct Net {}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
}

impl Net {
    /// Opens the tap and makes the card, stopped. Until it is started the tap drops what arrives.
    /// `irq` is the irqfd of its interrupt line.
    ///
    /// # Errors
    /// The tap does not exist, is in use, or cannot be opened.
    pub fn new(id: DeviceId, memory: Memory, irq: EventFd, options: &NetOptions) -> Result<Net, NetError> {
        todo!()
    }

    /// Tells the network where the guest is now (RARP), and the guest to tell it, too (gratuitous ARP). The frame is output as any
    /// other. To be called after `start`.
    pub fn announce(&mut self, outputs: &mut Vec<Output>) {
        todo!()
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        todo!()
    }
}

impl crate::Device for Net {
    fn id(&self) -> DeviceId {
        todo!()
    }
    fn bus(&self) -> std::sync::Arc<dyn crate::BusDevice> {
        todo!()
    }
    fn sources(&self) -> Vec<crate::Source> {
        todo!()
    }
    fn service(&mut self, _: crate::SourceId, _: &mut Vec<Output>, _: &mut Vec<crate::DeviceEvent>) {
        todo!()
    }
    fn collect(&mut self, _: &mut Vec<Output>) {
        todo!()
    }
    fn release(&mut self, _: kemari_core::Released<Output>) {
        todo!()
    }
    fn set_backpressure(&mut self, _: bool) {
        todo!()
    }
    fn start(&mut self) {
        todo!()
    }
    fn stop(&mut self) {
        todo!()
    }
    fn kind(&self) -> &'static str {
        todo!()
    }
    fn state_version(&self) -> u16 {
        todo!()
    }
    fn save(&self, _: &mut Vec<u8>) {
        todo!()
    }
    fn load(&mut self, _: u16, _: &[u8]) -> Result<(), crate::StateError> {
        todo!()
    }
}
