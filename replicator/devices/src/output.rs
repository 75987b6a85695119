//! What leaves the guest.

use kemari_core::Weigh;

use crate::DeviceId;
use crate::block::BlockOutput;
use crate::net::Frame;

/// Something leaving the guest. What it is can be seen, and only the device it came from can perform it, once it is
/// [released](kemari_core::Released).
#[derive(Debug)]
pub struct Output {
    device: DeviceId,
    pub(crate) payload: Payload,
}

/// What an [`Output`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An Ethernet frame.
    Frame,
    /// A write to a disk.
    Write,
    /// A flush of a disk's cache.
    Flush,
    /// Bytes of the serial port.
    Console,
}

#[derive(Debug)]
pub(crate) enum Payload {
    Frame(Frame),
    Block(BlockOutput),
    /// So many of the bytes that the serial port keeps, oldest first; and the history they belong to.
    Console {
        bytes: usize,
        history: u64,
    },
}

impl Output {
    pub(crate) fn new(device: DeviceId, payload: Payload) -> Output {
        Output { device, payload }
    }

    /// The device to release it to.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> OutputKind {
        match &self.payload {
            Payload::Frame(_) => OutputKind::Frame,
            Payload::Block(output) => output.kind(),
            Payload::Console { .. } => OutputKind::Console,
        }
    }
}

impl Weigh for Output {
    fn weight_bytes(&self) -> usize {
        // Something for the bookkeeping, so that a flood of empty flushes has a limit, too.
        size_of::<Output>()
            + match &self.payload {
                Payload::Frame(frame) => frame.bytes.len(),
                Payload::Block(output) => output.data_bytes(),
                Payload::Console { bytes, .. } => *bytes,
            }
    }
}
