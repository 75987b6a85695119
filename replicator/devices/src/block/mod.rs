//! virtio-blk on a raw file or a block device.

use std::path::PathBuf;

use vmm_sys_util::eventfd::EventFd;

use crate::{DeviceId, Memory, Output, OutputKind};

/// How to make a [`Disk`].
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// What the guest is told as serial number: at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Counters of a [`Disk`], since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Writes and flushes taken from the guest and not released.
    pub held: u64,
    /// Reads that wait for a held write of the same sectors.
    pub waiting_reads: u64,
    /// Writes and flushes handed to the I/O thread and not completed.
    pub writes_in_flight: u64,
    /// Reads handed to the I/O thread and not completed.
    pub reads_in_flight: u64,
    /// Requests completed.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Requests completed.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Requests completed.
    pub flushes: u64,
    /// Requests that failed or were refused.
    pub errors: u64,
}

/// Why a [`Disk`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {}

/// A disk of the guest.
pub struct Disk {}

#[derive(Debug)]
pub(crate) struct BlockOutput {}
impl BlockOutput {
    pub(crate) fn kind(&self) -> OutputKind {
        todo!()
    }
    pub(crate) fn data_bytes(&self) -> usize {
        todo!()
    }
}

impl Disk {
    /// Opens the image (O_DIRECT; nothing is read) and makes the disk, stopped. `irq` is the irqfd of its interrupt line.
    ///
    /// # Errors
    /// The image does not exist, cannot be opened or locked, or is where O_DIRECT does not work.
    pub fn new(id: DeviceId, memory: Memory, irq: EventFd, options: &DiskOptions) -> Result<Disk, DiskError> {
        todo!()
    }

    /// Size of the image.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// The unit the guest must read and write in: part of the layout that both nodes must agree on.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        todo!()
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        todo!()
    }
}

impl crate::Device for Disk {
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
