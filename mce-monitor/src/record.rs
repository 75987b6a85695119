//! What the kernel has said, in the kernel's own terms, whichever way it came.

use crate::moment::Moment;

/// The way on which a record came. One fault may be told on several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A tracepoint.
    Trace,
    /// The kernel's log.
    Log,
    /// `/dev/mcelog`.
    Mcelog,
    /// A counter in sysfs.
    Counter,
    /// A message of the kernel over netlink.
    Netlink,
}

/// One record as it was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// When.
    pub at: Moment,
    /// Where.
    pub channel: Channel,
    /// What.
    pub record: Record,
}

/// What was said.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The registers of a machine-check bank.
    MachineCheck(MachineCheck),
    /// EDAC has decoded a memory error.
    Memory(MemoryError),
    /// The firmware has told of an error (GHES, extended error log).
    Firmware(FirmwareError),
    /// The kernel has taken a page out of use, or tried to.
    MemoryFailure(MemoryFailure),
    /// A PCI Express device has reported an error.
    Aer(AerError),
    /// A request to a block device has failed.
    Block(BlockError),
    /// A device is not there any more.
    DeviceGone(DeviceGone),
    /// A processor is too hot, or is not any more.
    Throttle(Throttle),
    /// A processor was too hot for so long.
    Throttled {
        /// Which processor has counted it.
        cpu: u32,
        /// Whether its whole package is meant, rather than its core.
        package: bool,
        /// How long, in milliseconds.
        ms: u64,
    },
    /// A thermal zone has passed one of its trip points.
    Trip(Trip),
    /// The kernel is flooded by corrected machine checks, or is not any more.
    Storm {
        /// Whether it begins.
        begins: bool,
    },
    /// A network interface has lost its carrier, or has it back.
    Link {
        /// Its name.
        interface: String,
        /// Whether it has a carrier.
        up: bool,
    },
    /// A network interface has not sent what it was given.
    TransmitTimeout {
        /// Its name.
        interface: String,
    },
    /// Something that is worth no more than being told.
    Remark(String),
}

/// Who made the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, and Hygon, whose machine checks are the same.
    Amd,
    /// Somebody else, or nothing is known.
    Other,
}

impl Vendor {
    /// By the kernel's number (`X86_VENDOR_*` in asm/processor.h).
    #[must_use]
    pub fn from_number(number: u64) -> Vendor {
        match number {
            0 => Vendor::Intel,
            2 | 9 => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// By the signature of CPUID leaf 1: Intel's families that are still in use are 6, AMD's are 15 and above.
    #[must_use]
    pub fn from_signature(signature: u32) -> Vendor {
        match signature >> 8 & 0xf {
            6 => Vendor::Intel,
            0xf => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

/// The registers of a bank (Intel SDM volume 3, chapter 16; AMD APM volume 2, chapter 9), and where they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCheck {
    /// Who made the processor.
    pub vendor: Vendor,
    /// Signature of CPUID leaf 1; 0 if it is not known.
    pub signature: u32,
    /// Processor, as the kernel counts.
    pub cpu: u32,
    /// Socket.
    pub socket: u32,
    /// Bank; 255 is one that the kernel makes up for an error that the firmware has told.
    pub bank: u8,
    /// MCi_STATUS.
    pub status: u64,
    /// MCG_STATUS.
    pub mcg_status: u64,
    /// MCi_ADDR.
    pub address: u64,
    /// MCi_MISC.
    pub misc: u64,
    /// MCA_IPID of AMD: which unit the bank belongs to.
    pub ipid: u64,
    /// Whether the processor was in the kernel.
    pub in_kernel: bool,
    /// When the registers were read, in seconds since 1970; 0 if it is not known.
    pub unix_s: u64,
}

impl Default for MachineCheck {
    fn default() -> MachineCheck {
        MachineCheck {
            vendor: Vendor::Other,
            signature: 0,
            cpu: 0,
            socket: 0,
            bank: 0,
            status: 0,
            mcg_status: 0,
            address: 0,
            misc: 0,
            ipid: 0,
            in_kernel: false,
            unix_s: 0,
        }
    }
}

/// How bad EDAC or the firmware says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Corrected.
    Corrected,
    /// Not corrected; the kernel goes on.
    Uncorrected,
    /// Found before anybody used it.
    Deferred,
    /// The host cannot go on.
    Fatal,
    /// Only told.
    Info,
}

/// A memory error by EDAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// How bad.
    pub severity: Severity,
    /// The memory controller, as the kernel counts.
    pub controller: u32,
    /// The DIMM's label, or what is known instead.
    pub label: String,
    /// What the driver says.
    pub message: String,
    /// How many there were.
    pub count: u64,
    /// Its physical address; none if the driver does not know it.
    pub address: Option<u64>,
}

/// An error by the firmware (UEFI appendix N), of the host or of a device on CXL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareError {
    /// How bad.
    pub severity: Severity,
    /// Whether it is about memory.
    pub memory: bool,
    /// What the firmware calls the part; the memory device on CXL, or the PCI device.
    pub part: String,
    /// Its physical address.
    pub address: Option<u64>,
}

/// What became of a page with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFailure {
    /// The page's frame number.
    pub frame: u64,
    /// What came out of it, in the kernel's word: `Recovered`, `Delayed`, `Failed`, `Ignored`; or who was killed.
    pub outcome: String,
    /// Whether a process has used what is lost.
    pub consumed: bool,
}

/// An error by PCI Express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AerError {
    /// The device, such as `0000:5e:00.0`.
    pub device: String,
    /// How bad: corrected, not fatal, fatal.
    pub severity: Severity,
    /// Which errors, as bits of the device's status register; 0 if it is not known.
    pub status: u32,
    /// How many there were.
    pub count: u64,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockError {
    /// The device's name, or its number as `major:minor`.
    pub device: String,
    /// The first sector.
    pub sector: u64,
    /// What it failed with, as a positive errno.
    pub errno: i32,
    /// How many there were.
    pub count: u64,
}

/// A device that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGone {
    /// Its name.
    pub device: String,
    /// What is known about it.
    pub reason: String,
}

/// Throttling begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Which processor has told.
    pub cpu: u32,
    /// Whether its whole package is meant, rather than its core.
    pub package: bool,
    /// Whether it is too hot.
    pub hot: bool,
}

/// A trip point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// The thermal zone.
    pub zone: String,
    /// Whether the point is one at which the host is in danger (hot, critical) rather than one at which a fan starts.
    pub danger: bool,
}
