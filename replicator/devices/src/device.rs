//! The two sides of every device.

use std::os::fd::RawFd;
use std::sync::Arc;

use kemari_core::Released;
use vmm_sys_util::eventfd::EventFd;

use crate::block::DiskFault;
use crate::{Kind, Output};

/// Which device of a machine. The machine gives the numbers; they must be the same on both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u8);

/// Which of the things a machine polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The device to [service](Device::service).
    pub device: DeviceId,
    /// Which of its sources.
    pub index: u8,
}

/// What to wait for at a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Something to read, or room to write again.
    ReadableWritable,
}

/// A file descriptor that the event loop polls, edge-triggered, for as long as the device lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Owned by the device; valid until it is dropped.
    pub fd: RawFd,
    /// To be given to [`Device::service`] when the descriptor is ready.
    pub id: SourceId,
    /// What to wait for.
    pub interest: Interest,
}

/// Something that happened to the machine, seen by one of its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The guest asked for a reset of the machine.
    Reset,
    /// The guest turned itself off.
    PowerOff,
    /// The guest's kernel has panicked.
    Panic,
    /// The guest's kernel has panicked, and the crash kernel that it had loaded takes over.
    CrashKernel,
    /// The guest has let its watchdog run out.
    WatchdogExpired,
    /// The disk failed a request; the guest was told. The text names the disk, the request and the cause.
    DiskError(DiskFault),
}

/// Why saved state was refused. The device is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is of a version that this program does not know.
    #[error("{kind}: saved state has version {version}, this program knows version {known}")]
    Version {
        /// Kind of device.
        kind: &'static str,
        /// Of the state.
        version: u16,
        /// Known here.
        known: u16,
    },
    /// It does not decode, or something follows it.
    #[error("{kind}: saved state cannot be decoded")]
    Encoding {
        /// Kind of device.
        kind: &'static str,
        /// What the decoder said.
        #[source]
        source: postcard::Error,
    },
    /// It decodes, but says what cannot be.
    #[error("{kind}: saved state is impossible: {what}")]
    Invalid {
        /// Kind of device.
        kind: &'static str,
        /// What cannot be.
        what: String,
    },
}

/// The bus side of a device: called by vCPU threads for port I/O and MMIO exits.
///
/// Calls return at once: at most a short lock, and no system call but a write to an eventfd.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset` from the start of the device's window. What does not exist reads as zero.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` from the start of the device's window. What does not exist is ignored.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The backend of a device: owned by the event loop.
///
/// A device is born stopped: it takes nothing from the guest and gives it nothing. The ways to run it are
/// `new` → `start` (a cold boot) and `new` → … → `load` → `start` (a promotion); `load` may come any number of times.
pub trait Device: Send {
    /// The number it was given.
    fn id(&self) -> DeviceId;

    /// Its bus side. The same for as long as it lives.
    fn bus(&self) -> Arc<dyn BusDevice>;

    /// What the event loop polls. The same for as long as it lives; they may be ready before [`start`](Device::start).
    fn sources(&self) -> Vec<Source>;

    /// One eventfd for each virtqueue, in order, to be registered as ioeventfd at [`QUEUE_NOTIFY`](crate::QUEUE_NOTIFY)
    /// with the queue's number as 32-bit datamatch. Empty for other devices.
    fn notifiers(&self) -> Vec<&EventFd> {
        Vec::new()
    }

    /// Does what there is to do at a source, until it is drained (sources are edge-triggered). Does nothing that shows
    /// outside; that is pushed to `outputs`, in order.
    fn service(&mut self, source: SourceId, outputs: &mut Vec<Output>, events: &mut Vec<DeviceEvent>);

    /// Takes what the guest has offered up to now, whether or not its notification has been seen. Called when the vCPUs are
    /// paused, so that this checkpoint covers it.
    fn collect(&mut self, _outputs: &mut Vec<Output>) {}

    /// Performs an output that came from this device. If its history was replaced by [`load`](Device::load), nothing happens.
    /// Whoever releases calls [`signal`](Device::signal) after the last one of a batch.
    fn release(&mut self, _output: Released<Output>) {}

    /// Tells the guest, by at most one interrupt, of what was [released](Device::release) since the last call.
    fn signal(&mut self) {}

    /// Whether held output has reached its limit: if so, the device takes nothing more that would become output, and the
    /// guest waits. When it has not any more, the device makes one of its sources ready, to go on from there.
    fn set_backpressure(&mut self, _full: bool) {}

    /// Starts to serve the guest. After a load: raises every interrupt again (one that was on its way is in no saved state), and
    /// makes its sources ready, so that `service` first does again what was taken and not finished, in order, and
    /// then goes on with the queues.
    fn start(&mut self);

    /// Stops serving the guest: nothing is taken from it or given to it, and no output begun, until the next
    /// [`start`](Device::start).
    fn stop(&mut self);

    /// Requests that were handed to the host and are not completed: what a handover lets finish before its final cut.
    fn in_flight(&self) -> usize {
        0
    }

    /// What it has in common with every device of its kind.
    fn kind(&self) -> &'static Kind;

    /// Appends the state of both sides to `into`. Only while the vCPUs are paused.
    fn save(&self, into: &mut Vec<u8>);

    /// Replaces the state of both sides, and forgets what was held or on its way before. The device is stopped afterwards.
    ///
    /// # Errors
    /// State is untrusted: what does not fit this device or the guest's memory changes nothing.
    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError>;
}
