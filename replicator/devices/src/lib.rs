//! Device models of the guest: network, disk, randomness, serial port, keyboard controller, power management, panic
//! notifier, watchdog; virtio over MMIO.
//!
//! A device has two sides. The **bus side** ([`BusDevice`]) is called by vCPU threads and touches registers only. The
//! **backend** ([`Device`]) belongs to the event loop, which polls its [`Source`]s and calls [`Device::service`]. What the guest
//! wants to show to the outside comes out of `service` as [`Output`], to be held by the gate; it is performed by
//! [`Device::release`], which takes nothing but a [`Released`] one.
//!
//! Nothing here knows KVM: guest memory comes in as [`Memory`], interrupts go out and notifications come in as eventfds.
//!
//! [`Released`]: kemari_core::Released

mod bank;
mod block;
mod device;
mod i8042;
mod kind;
mod net;
mod output;
mod power;
mod pvpanic;
mod rng;
mod serial;
mod timer;
mod virtio;
mod watchdog;

pub use block::{
    Disk, DiskError, DiskFailure, DiskFault, DiskOperation, DiskOptions, DiskStats, ImageId, Images, OnDiskError,
    is_serial_number,
};
pub use device::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Source, SourceId, StateError};
pub use i8042::I8042;
pub use kind::Kind;
pub use net::{Net, NetError, NetOptions, NetStats, is_tap_name};
pub use output::{Output, OutputKind};
pub use power::PowerManagement;
pub use pvpanic::Pvpanic;
pub use rng::Rng;
pub use serial::{ConsoleStats, Serial, Sink, SinkError};
pub use virtio::{MMIO_BYTES, QUEUE_NOTIFY};
pub use watchdog::Watchdog;

/// The kinds of devices that a guest may have.
pub static ALLOWED: [&Kind; 8] =
    [&net::KIND, &block::KIND, &serial::KIND, &rng::KIND, &i8042::KIND, &power::KIND, &pvpanic::KIND, &watchdog::KIND];

/// Guest memory. Every write to it from here goes through vm-memory, so that its bitmap knows the page is dirty.
pub type Memory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;
