//! Lines that are about one machine check, or one error of the firmware, and where they begin.

use super::words::{Words, hex};
use crate::record::{FirmwareError, MachineCheck, Severity, Vendor};

/// The first line of a machine check, in one of the forms that kernels and tools have had.
pub(super) fn begins_check(text: &str) -> Option<MachineCheck> {
    banked(text).or_else(|| decoded(text)).or_else(|| terse(text))
}

/// `CPU 0: Machine Check: 0 Bank 4: 9c00000000000135`; an `Exception` or an `Event` it may be, too.
fn banked(text: &str) -> Option<MachineCheck> {
    let rest = Words(text).after("Machine Check")?;
    let (bank, status) = Words(rest).after("Bank ")?.split_once(": ")?;
    let (_, mcg_status) = rest.split_once(": ")?;
    Some(MachineCheck {
        cpu: Words(text).small("CPU ").unwrap_or(0),
        bank: bank.parse().ok()?,
        status: hex(status)?,
        mcg_status: hex(mcg_status)?,
        ..MachineCheck::default()
    })
}

/// `CPU:0 (19:21:0) MC18_STATUS[Over|…]: 0xdc2031000000011b`, as the kernel decodes those of AMD.
fn decoded(text: &str) -> Option<MachineCheck> {
    let (before, after) = text.split_once("_STATUS[")?;
    let bank = before.rsplit("MC").next()?.parse().ok()?;
    let signature = Words(before).after(" (").and_then(signature).unwrap_or(0xf00);
    Some(MachineCheck {
        vendor: Vendor::Amd,
        signature,
        cpu: Words(before).small("CPU:").unwrap_or(0),
        bank,
        status: hex(after.split_once("]: ")?.1)?,
        ..MachineCheck::default()
    })
}

/// `19:21:0)`: family, model and stepping as the signature of CPUID has them.
fn signature(text: &str) -> Option<u32> {
    let mut numbers = text.split(')').next()?.split(':').map(|number| u32::from_str_radix(number, 16).ok());
    let (family, model, stepping) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let extended = family.checked_sub(0xf).filter(|extended| *extended <= 0xff)?;
    Some(extended << 20 | (model >> 4 & 0xf) << 16 | 0xf << 8 | (model & 0xf) << 4 | stepping & 0xf)
}

/// What mcelog (`STATUS 90000040000f0005 MCGSTATUS 0`) and rasdaemon (`… mcgstatus=0, … status=0x9c…, addr=0x31…`) print.
fn terse(text: &str) -> Option<MachineCheck> {
    let words = Words(text);
    if let Some(status) = text.strip_prefix("STATUS ") {
        return Some(MachineCheck {
            status: hex(status)?,
            mcg_status: words.hex("MCGSTATUS ").unwrap_or(0),
            ..MachineCheck::default()
        });
    }
    let status = words.hex(" status=")?;
    let signature = words.hex("cpuid=").and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    Some(MachineCheck {
        vendor: Vendor::from_signature(signature),
        signature,
        cpu: words.small("CPU ").unwrap_or(0),
        bank: words.hex(" bank=").and_then(|bank| u8::try_from(bank).ok()).unwrap_or(0),
        status,
        mcg_status: words.hex("mcgstatus=").unwrap_or(0),
        address: words.hex("addr=").unwrap_or(0),
        misc: words.hex("misc=").unwrap_or(0),
        unix_s: words.hex("walltime=").unwrap_or(0),
        ..MachineCheck::default()
    })
}

/// A line that says more about `check`. Returns whether it does.
pub(super) fn continues_check(check: &mut MachineCheck, text: &str) -> bool {
    let words = Words(text);
    // Somewhere else in a line these may be parts of words: `TRIP`.
    let said = text.strip_prefix("mce: ").unwrap_or(text);
    let said = said.strip_prefix("EDAC ").and_then(|said| said.split_once(": ")).map_or(said, |(_, said)| said);
    let said = said.strip_prefix("[Hardware Error]: ").unwrap_or(said);
    let begins = ["TSC ", "ADDR ", "MISC ", "SYND ", "IPID", "RIP", "PROCESSOR ", "Error Addr"];
    if !begins.iter().any(|key| said.starts_with(key)) {
        return false;
    }
    let set = |value: &mut u64, key: &str| *value = words.hex(key).unwrap_or(*value);
    set(&mut check.address, "ADDR ");
    set(&mut check.address, "Error Addr: ");
    set(&mut check.misc, "MISC ");
    set(&mut check.ipid, "IPID ");
    set(&mut check.ipid, "IPID: ");
    if let Some(segment) = words.hex("RIP ").or_else(|| words.hex("RIP !INEXACT! ")) {
        check.in_kernel = segment != 0 && segment & 3 == 0;
    }
    if let Some((vendor, signature)) = words.word("PROCESSOR ").and_then(|word| word.split_once(':')) {
        check.vendor = vendor.parse().map_or(Vendor::Other, Vendor::from_number);
        check.signature = hex(signature).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        check.unix_s = words.decimal("TIME ").unwrap_or(0);
        check.socket = words.small("SOCKET ").unwrap_or(0);
    }
    true
}

/// Whether the kernel prints no more about a machine check after this line.
pub(super) fn ends_check(text: &str) -> bool {
    text.contains("PROCESSOR ")
}

/// An error of the firmware as far as it was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    number: u64,
    error: FirmwareError,
    has_section: bool,
}

impl Told {
    /// `{35}[Hardware Error]: event severity: corrected`: the number, and what is said.
    fn split(text: &str) -> Option<(u64, &str)> {
        let (number, rest) = text.strip_prefix('{')?.split_once("}[Hardware Error]:")?;
        Some((number.parse().ok()?, rest.trim()))
    }

    pub(super) fn begins(text: &str) -> Option<Told> {
        let (number, _) = Told::split(text)?;
        let error = FirmwareError { severity: Severity::Info, memory: false, part: String::new(), address: None };
        let mut told = Told { number, error, has_section: false };
        told.continues(text);
        Some(told)
    }

    /// Takes a line that belongs to it. Returns whether it does.
    pub(super) fn continues(&mut self, text: &str) -> bool {
        let Some((number, text)) = Told::split(text) else { return false };
        if number != self.number {
            return false;
        }
        let value = |key| text.strip_prefix(key).map(str::trim);
        if let Some(severity) = value("event severity:") {
            self.error.severity = match severity {
                "corrected" => Severity::Corrected,
                "recoverable" => Severity::Uncorrected,
                "fatal" => Severity::Fatal,
                _ => Severity::Info,
            };
        }
        if let Some(section) = value("section_type:") {
            self.error.memory = section == "memory error";
            self.has_section |= self.error.memory || section == "PCIe error";
        }
        if let Some(part) = value("fru_text:") {
            part.clone_into(&mut self.error.part);
        }
        if let Some(device) = value("device_id:").filter(|_| !self.error.memory) {
            device.clone_into(&mut self.error.part);
        }
        if let Some(address) = value("physical_address:") {
            self.error.address = hex(address);
        }
        true
    }

    /// The whole; none if it is of a section that is not about a part that is watched.
    pub(super) fn whole(self) -> Option<FirmwareError> {
        self.has_section.then_some(self.error)
    }
}
