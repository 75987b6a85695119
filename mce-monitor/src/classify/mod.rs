//! From what was said to what it means. Pure: the same record has the same meaning at any time.

mod code;
mod machine_check;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustix::io::Errno;

use crate::fault::{Class, Component, Fault, Finding, Kind, Place, Precision, Witness};
use crate::record::{
    AerError, BlockError, FirmwareError, Heard, MemoryError, MemoryFailure, Record, Severity, Throttle,
};

/// A page is 4 KiB on x86.
pub(crate) const PAGE_SHIFT: u32 = 12;

/// Requests that fail with these have met a broken part (block/blk-core.c has the list of what a request may fail with).
const BROKEN: [Errno; 6] = [Errno::IO, Errno::NODATA, Errno::REMOTEIO, Errno::TIMEDOUT, Errno::NOLINK, Errno::ILSEQ];
/// With these they have not: there is no space, the device does not know the command, the path is reserved.
const NO_FAULT: [Errno; 3] = [Errno::NOSPC, Errno::OPNOTSUPP, Errno::BADE];
/// These say that the device is not there.
const GONE: [Errno; 2] = [Errno::NODEV, Errno::NXIO];

/// What is known about the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// When it booted, in seconds since 1970; without it nothing can be told to be older than this boot.
    pub booted_unix_s: Option<u64>,
}

/// Says what a record means.
#[must_use]
pub fn classify(heard: &Heard, host: &Host) -> Finding {
    let about = |kind| About { heard, kind };
    match &heard.record {
        Record::MachineCheck(check) => machine_check::classify(check, heard, host),
        Record::Memory(error) => memory(about(Kind::Edac), error),
        Record::Firmware(error) => firmware(about(Kind::Firmware), error),
        Record::MemoryFailure(failure) => memory_failure(about(Kind::MemoryFailure), failure),
        Record::Aer(error) => aer(about(Kind::Other), error),
        Record::Block(error) => block(about(Kind::Other), error),
        Record::DeviceGone(gone) => {
            about(Kind::Other).fault(Class::Fatal, Component::Block, &gone.device, format!("gone: {}", gone.reason))
        }
        Record::Throttle(Throttle { cpu, package, hot }) => {
            Finding::Throttle { at: heard.at, place: throttled(*cpu, *package), hot: *hot }
        }
        Record::Throttled { cpu, package, ms } => {
            let (place, span) = (throttled(*cpu, *package), Duration::from_millis(*ms));
            Finding::Throttled { at: heard.at, place, span }
        }
        Record::Trip(trip) => {
            let class = if trip.danger { Class::Uncorrected } else { Class::Info };
            about(Kind::Other).fault(class, Component::Thermal, &trip.zone, "a trip point was passed".to_owned())
        }
        Record::Storm { begins } => Finding::Storm { at: heard.at, begins: *begins },
        Record::Link { interface, up } => Finding::Link { at: heard.at, interface: interface.clone(), up: *up },
        Record::TransmitTimeout { interface } => about(Kind::Other).fault(
            Class::Uncorrected,
            Component::Network,
            interface,
            "what it was given was not sent in time".to_owned(),
        ),
        Record::Remark(text) => about(Kind::Other).fault(Class::Info, Component::Processor, "this host", text.clone()),
    }
}

fn throttled(cpu: u32, package: bool) -> Place {
    let part = if package { "package" } else { "core" };
    Place { component: Component::Thermal, name: format!("cpu{cpu} {part}") }
}

/// What every fault has from its record.
struct About<'a> {
    heard: &'a Heard,
    kind: Kind,
}

impl About<'_> {
    fn fault(&self, class: Class, component: Component, name: &str, detail: String) -> Finding {
        Finding::Fault(self.plain(class, component, name, detail))
    }

    fn plain(&self, class: Class, component: Component, name: &str, detail: String) -> Fault {
        Fault {
            at: self.heard.at,
            class,
            place: Place { component, name: name.to_owned() },
            precision: Precision::Part,
            address: None,
            count: 1,
            leftover: false,
            witness: Witness { kind: self.kind, channel: self.heard.channel },
            detail,
        }
    }
}

fn class_of(severity: Severity) -> Class {
    match severity {
        Severity::Corrected => Class::Corrected,
        Severity::Uncorrected => Class::Uncorrected,
        Severity::Deferred => Class::Deferred,
        Severity::Fatal => Class::Fatal,
        Severity::Info => Class::Info,
    }
}

fn part_unless(unknown: bool) -> Precision {
    if unknown { Precision::Unit } else { Precision::Part }
}

fn memory(about: About<'_>, error: &MemoryError) -> Finding {
    let label = error.label.trim();
    let unknown = label.is_empty() || ["any memory", "unknown memory", "unknown label"].contains(&label);
    let name = if unknown { format!("mc{}", error.controller) } else { label.to_owned() };
    let fault = about.plain(class_of(error.severity), Component::Memory, &name, error.message.clone());
    Finding::Fault(Fault {
        precision: part_unless(unknown),
        address: error.address,
        count: error.count.max(1),
        ..fault
    })
}

fn firmware(about: About<'_>, error: &FirmwareError) -> Finding {
    let component = if error.memory { Component::Memory } else { Component::Pci };
    let name = if error.part.is_empty() { "unnamed by the firmware" } else { &error.part };
    let fault = about.plain(class_of(error.severity), component, name, "told by the firmware".to_owned());
    Finding::Fault(Fault { precision: part_unless(error.part.is_empty()), address: error.address, ..fault })
}

fn memory_failure(about: About<'_>, failure: &MemoryFailure) -> Finding {
    let class = if failure.consumed { Class::Srar } else { Class::Srao };
    let detail = format!("page {:#x}: {}", failure.frame, failure.outcome);
    let fault = about.plain(class, Component::Memory, "of an unknown DIMM", detail);
    Finding::Fault(Fault { precision: Precision::Nothing, address: failure.frame.checked_shl(PAGE_SHIFT), ..fault })
}

fn aer(about: About<'_>, error: &AerError) -> Finding {
    let detail = match error.status {
        0 => "PCI Express error".to_owned(),
        status => format!("PCI Express error, status {status:#010x}"),
    };
    let fault = about.plain(class_of(error.severity), Component::Pci, &error.device, detail);
    Finding::Fault(Fault { count: error.count, ..fault })
}

fn block(about: About<'_>, error: &BlockError) -> Finding {
    let errno = error.errno;
    let is_of = |list: &[Errno]| list.iter().any(|known| known.raw_os_error() == errno);
    let (class, what) = if is_of(&GONE) {
        (Class::Fatal, "the device is gone")
    } else if is_of(&BROKEN) {
        (Class::Uncorrected, "a request failed")
    } else if is_of(&NO_FAULT) {
        (Class::Noise, "no fault of the device")
    } else {
        (Class::Info, "a request failed, and it is not known why")
    };
    let name = std::io::Error::from_raw_os_error(errno);
    let detail = format!("{what}: sector {}: {name}", error.sector);
    let fault = about.plain(class, Component::Block, &error.device, detail);
    Finding::Fault(Fault { count: error.count, ..fault })
}
