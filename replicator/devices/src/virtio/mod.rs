//! Virtio over MMIO (virtio 1.2, section 4.2), version 2.

/// Bytes of a virtio-mmio device's window: 0x100 of registers, then its configuration.
pub const MMIO_BYTES: u64 = 0x1000;

/// Offset of the QueueNotify register, where ioeventfds are registered.
pub const QUEUE_NOTIFY: u64 = 0x50;
