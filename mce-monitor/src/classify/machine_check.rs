//! Machine checks: the first row that matches says the class.

use std::time::Duration;

use super::Host;
use super::code::Part;
use crate::fault::{Class, Component, Fault, Finding, Kind, Place, Witness};
use crate::record::{Channel, Heard, MachineCheck, Vendor};

/// Bits of MCi_STATUS (asm/mce.h). EN is not among them: it means nothing outside an exception.
mod bit {
    pub(super) const VALID: u32 = 63;
    pub(super) const OVERFLOW: u32 = 62;
    pub(super) const UNCORRECTED: u32 = 61;
    pub(super) const MISC_VALID: u32 = 59;
    pub(super) const ADDRESS_VALID: u32 = 58;
    pub(super) const CONTEXT_CORRUPT: u32 = 57;
    /// Intel: signalled, and action required.
    pub(super) const SIGNALLED: u32 = 56;
    pub(super) const ACTION_REQUIRED: u32 = 55;
    pub(super) const AMD_DEFERRED: u32 = 44;
}

/// Bits of MCG_STATUS.
const RESTART_VALID: u64 = 1;
const ERROR_VALID: u64 = 1 << 1;
const IN_PROGRESS: u64 = 1 << 2;

/// The bank that the kernel makes up for what the firmware tells (`apei_mce_report_mem_error` in mce/apei.c).
const MADE_UP_BANK: u8 = 255;

/// An erratum of Haswell (HSD131, HSM142): running a VM makes it report this internal parity error, which is none. The kernel's
/// own filter for it is `intel_filter_mce` in mce/intel.c.
const HASWELL_ERRATUM: u64 = 0x9000_0040_000f_0005;
/// The parts of it that count: the corrected count does not.
const HASWELL_ERRATUM_MASK: u64 = 0xb000_0000_ffff_ffff;

/// How long after the boot registers are read that have kept what they had before it.
const LEFTOVER: Duration = Duration::from_secs(120);

/// `MCi_STATUS` and what goes with it.
struct Registers<'a>(&'a MachineCheck);

impl Registers<'_> {
    fn has(&self, bit: u32) -> bool {
        self.0.status >> bit & 1 == 1
    }

    fn code(&self) -> u64 {
        self.0.status & 0xefff
    }

    fn has_address(&self) -> bool {
        self.has(bit::ADDRESS_VALID)
    }

    /// "Machine check in progress", and neither the program nor the error can be told.
    fn is_lost(&self) -> bool {
        self.0.mcg_status & (RESTART_VALID | ERROR_VALID | IN_PROGRESS) == IN_PROGRESS
    }

    /// A patrol scrub of Skylake-SP and later writes an uncorrected error as if it were corrected ("Uncorrected Patrol Scrub
    /// Error" in mce/severity.c).
    fn is_scrub_in_disguise(&self) -> bool {
        self.has_address()
            && self.has(bit::MISC_VALID)
            && self.0.status & 0xffff_eff0 == 0x0010_00c0
            && (13..=18).contains(&self.0.bank)
    }

    fn is_noise(&self) -> Option<&'static str> {
        if !self.has(bit::VALID) {
            return Some("the record is empty");
        }
        let haswell = self.0.status & HASWELL_ERRATUM_MASK == HASWELL_ERRATUM & HASWELL_ERRATUM_MASK;
        (haswell && self.0.vendor != Vendor::Amd).then_some("an erratum of Haswell, caused by running guests")
    }

    /// The class of what is no noise.
    fn class(&self) -> Class {
        if self.has(bit::CONTEXT_CORRUPT) || self.is_lost() {
            return Class::Fatal;
        }
        match self.0.vendor {
            Vendor::Amd => self.amd(),
            Vendor::Intel | Vendor::Other => self.intel(),
        }
    }

    fn amd(&self) -> Class {
        if self.has(bit::AMD_DEFERRED) {
            Class::Deferred
        } else if !self.has(bit::UNCORRECTED) {
            Class::Corrected
        } else if self.0.in_kernel {
            Class::Fatal
        } else {
            Class::Srar
        }
    }

    fn intel(&self) -> Class {
        let (signalled, required) = (self.has(bit::SIGNALLED), self.has(bit::ACTION_REQUIRED));
        let by_scrub_or_write_back = self.code() & !0xf == 0xc0 || self.code() == 0x17a;
        match (self.has(bit::UNCORRECTED), signalled, required) {
            (false, _, _) if self.is_scrub_in_disguise() => Class::Srao,
            (false, _, _) => Class::Corrected,
            (true, _, false) if by_scrub_or_write_back => Class::Srao,
            (true, false, _) => Class::Ucna,
            (true, true, false) => Class::Srao,
            (true, true, true) if self.has(bit::OVERFLOW) => Class::Fatal,
            (true, true, true) if self.is_load_or_fetch() => Class::Srar,
            // The kernel does not know what is required either, and panics.
            (true, true, true) => Class::Fatal,
        }
    }

    fn is_load_or_fetch(&self) -> bool {
        [0x134, 0x150].contains(&self.code()) && self.has_address() && self.has(bit::MISC_VALID)
    }

    /// How many errors the record stands for. Only Intel counts in bits 52:38, and only corrected ones.
    fn count(&self) -> u64 {
        let counts = self.0.vendor == Vendor::Intel && !self.has(bit::UNCORRECTED);
        if counts { (self.0.status >> 38 & 0x7fff).max(1) } else { 1 }
    }
}

pub(super) fn classify(check: &MachineCheck, heard: &Heard, host: &Host) -> Finding {
    let registers = Registers(check);
    let part = Part::of(check);
    let noise = registers.is_noise();
    let class = if noise.is_some() { Class::Noise } else { registers.class() };
    let (name, precision) = part.name(check);
    let component = if matches!(part, Part::Memory { .. }) { Component::Memory } else { Component::Processor };
    let kind = if check.bank == MADE_UP_BANK { Kind::MadeUp } else { Kind::MachineCheck };
    Finding::Fault(Fault {
        at: heard.at,
        class,
        place: Place { component, name },
        precision,
        address: Some(check.address).filter(|address| registers.has_address() && *address != 0),
        count: registers.count(),
        leftover: is_leftover(check, heard, host),
        witness: Witness { kind, channel: heard.channel },
        detail: match noise {
            Some(why) => format!("cpu {} bank {} status {:016x}: {why}", check.cpu, check.bank, check.status),
            None => format!("cpu {} bank {} status {:016x}", check.cpu, check.bank, check.status),
        },
    })
}

/// Whether it happened before this boot.
///
/// The kernel reads what the registers have kept while it boots, and not in an exception. A tracepoint tells only of what happens
/// while somebody listens; the log has the time since the boot. `/dev/mcelog` has neither: it begins with what the boot before has
/// written into the firmware's storage (ERST), exceptions included, and all that it says is the wall clock's time.
fn is_leftover(check: &MachineCheck, heard: &Heard, host: &Host) -> bool {
    let Some(booted) = host.booted_unix_s else { return false };
    let uncorrected = check.status >> bit::UNCORRECTED & 1 == 1;
    let in_exception = check.mcg_status & IN_PROGRESS != 0;
    uncorrected
        && match heard.channel {
            Channel::Log => !in_exception && heard.at.since_boot() < LEFTOVER,
            Channel::Mcelog if check.unix_s == 0 => false,
            Channel::Mcelog => check.unix_s < booted || !in_exception && check.unix_s < booted + LEFTOVER.as_secs(),
            Channel::Trace | Channel::Counter | Channel::Netlink => false,
        }
}
