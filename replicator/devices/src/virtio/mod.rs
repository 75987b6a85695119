//! Virtio over MMIO (virtio 1.2, section 4.2), version 2, with split queues.
//!
//! [`Transport`] is shared by both sides of a device: vCPU threads read and write its registers, the event loop works on its
//! queues through a [`Session`]. One short lock guards both, so a reset by the driver takes effect at once and nothing touches
//! a ring or a buffer of the guest after it. (Linux does not wait for a virtio-mmio reset: `vm_reset` writes the status and goes on.)

mod chain;
#[cfg(test)]
pub(crate) mod driver;
mod registers;
mod session;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use chain::{Chain, Segment, gather, length, scatter};
pub(crate) use registers::{Model, Transport};
pub(crate) use session::{Session, Ticket};
pub(crate) use state::TransportState;

/// Bytes of a virtio-mmio device's window: 0x100 of registers, then its configuration.
pub const MMIO_BYTES: u64 = 0x1000;

/// Offset of the QueueNotify register, where ioeventfds are registered.
pub const QUEUE_NOTIFY: u64 = 0x50;
