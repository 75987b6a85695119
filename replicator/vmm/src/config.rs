//! What a machine is made of.

use std::path::PathBuf;

use kemari_devices::{OnDiskError, Sink};

/// Most vCPUs of a machine.
pub const VCPUS_MAX: u8 = 8;

/// What a [`Machine`](crate::Machine) is made of. Everything but the paths, the taps and the console must be equal on both hosts,
/// and so must the kernel and the initial RAM disk be that the paths lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// 1 to [`VCPUS_MAX`].
    pub vcpus: u8,
    /// RAM in MiB, 16 at least.
    pub memory_mib: u64,
    /// A bzImage, or an ELF kernel with a PVH entry note. Read at every boot and reset of the guest.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; the virtio-mmio devices are added to that of an ELF kernel.
    pub cmdline: String,
    /// Network cards, in the order the guest finds them.
    pub nics: Vec<NicConfig>,
    /// Disks, in the order the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// The serial port.
    pub console: ConsoleConfig,
    /// Whether there is a watchdog.
    pub watchdog: bool,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Name of a persistent tap that exists.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: [u8; 6],
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// What the guest is told as serial number: at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What becomes of a request that fails.
    pub on_error: OnDiskError,
    /// In how many seconds the host must finish a request, or it has failed.
    pub timeout_s: Option<u32>,
}

/// The serial port (COM1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Where its bytes go.
    pub sink: Sink,
    /// Whether bytes are held like other output. Without, they may show what never happened.
    pub hold: bool,
}
