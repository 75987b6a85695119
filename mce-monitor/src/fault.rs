//! What a record means: the class of a fault, and the part that has it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::record::Channel;

/// How bad a fault is. Intel's words for machine checks; what is like them elsewhere has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Known to mean nothing.
    #[serde(rename = "NOISE")]
    Noise,
    /// Worth being told, and no more.
    #[serde(rename = "INFO")]
    Info,
    /// Corrected.
    #[serde(rename = "CE")]
    Corrected,
    /// Uncorrected, no action required.
    #[serde(rename = "UCNA")]
    Ucna,
    /// Uncorrected, and the record does not say more.
    #[serde(rename = "UE")]
    Uncorrected,
    /// Uncorrected data that nobody has used yet (AMD).
    #[serde(rename = "DEFERRED")]
    Deferred,
    /// Uncorrected, action optional: found by a patrol scrub, or when a cache wrote it back (Intel).
    #[serde(rename = "SRAO")]
    Srao,
    /// Uncorrected, action required: a program wanted to use it.
    #[serde(rename = "SRAR")]
    Srar,
    /// The host cannot go on.
    #[serde(rename = "FATAL")]
    Fatal,
}

impl Class {
    /// Whether something was lost, or may be.
    #[must_use]
    pub fn is_uncorrected(self) -> bool {
        self > Class::Corrected
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Noise => "NOISE",
            Class::Info => "INFO",
            Class::Corrected => "CE",
            Class::Ucna => "UCNA",
            Class::Uncorrected => "UE",
            Class::Deferred => "DEFERRED",
            Class::Srao => "SRAO",
            Class::Srar => "SRAR",
            Class::Fatal => "FATAL",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What kind of part has the fault; each has thresholds of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// A memory module, or the way to it.
    Memory,
    /// A processor: its caches, its TLB, its buses, and what is not known better.
    Processor,
    /// A PCI Express device.
    Pci,
    /// A disk.
    Block,
    /// Cooling.
    Thermal,
    /// A network card.
    Network,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Component::Memory => "memory",
            Component::Processor => "processor",
            Component::Pci => "pci",
            Component::Block => "block",
            Component::Thermal => "thermal",
            Component::Network => "network",
        })
    }
}

/// Which part it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// What kind.
    pub component: Component,
    /// Its name: a DIMM's label, `cpu3 L2 cache`, a device.
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.component, self.name)
    }
}

/// How well a place is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Only the address of the fault.
    Nothing,
    /// What the part hangs on: a socket, a controller, a channel.
    Unit,
    /// The part that can be replaced.
    Part,
}

/// What a record was, which says whether it can be another one of the same fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Registers of a bank.
    MachineCheck,
    /// Registers that the kernel has made up from what the firmware told.
    MadeUp,
    /// EDAC.
    Edac,
    /// The firmware.
    Firmware,
    /// A page was taken out of use.
    MemoryFailure,
    /// Anything else.
    Other,
}

/// Who tells of a fault: records of different witnesses may be about the same one, two records of one witness are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Witness {
    /// What was told.
    pub kind: Kind,
    /// On which way.
    pub channel: Channel,
}

/// One record of a fault (or of several that it counts).
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it was told.
    pub at: Moment,
    /// How bad.
    pub class: Class,
    /// What has it.
    pub place: Place,
    /// How well `place` is known.
    pub precision: Precision,
    /// Its physical address.
    pub address: Option<u64>,
    /// How many faults.
    pub count: u64,
    /// Whether it happened before this host booted: registers keep it over a reset.
    pub leftover: bool,
    /// Who tells.
    pub witness: Witness,
    /// For the operator.
    pub detail: String,
}

impl Fault {
    /// Whether this is no reason to do anything.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.class <= Class::Info
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}", self.class, self.place)?;
        if self.count != 1 {
            write!(f, " x{}", self.count)?;
        }
        if let Some(address) = self.address {
            write!(f, " at {address:#x}")?;
        }
        if self.leftover {
            f.write_str(" (from before this boot)")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// What a record says about the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// A fault.
    Fault(Fault),
    /// The kernel is flooded by corrected errors, or is not any more.
    Storm {
        /// When it said so.
        at: Moment,
        /// Whether it begins.
        begins: bool,
    },
    /// Something is too hot, or is not any more.
    Throttle {
        /// When it was told.
        at: Moment,
        /// What.
        place: Place,
        /// Whether it is too hot.
        hot: bool,
    },
    /// Something was too hot for a while that nobody has told of.
    Throttled {
        /// When it was known.
        at: Moment,
        /// What.
        place: Place,
        /// For how long.
        span: Duration,
    },
    /// A network interface has lost its carrier, or has it back.
    Link {
        /// When.
        at: Moment,
        /// Which.
        interface: String,
        /// Whether it has a carrier.
        up: bool,
    },
}
