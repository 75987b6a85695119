//! Printed lines of a trace. Only captured streams are read by these: the text has changed twice for `mce_record`, and has been
//! wrong about corrected errors of PCI Express.

use std::time::Duration;

use super::events::printed;
use crate::lines::{Words, hex};
use crate::moment::Moment;
use crate::record::{
    AerError, BlockError, FirmwareError, MachineCheck, MemoryError, MemoryFailure, Record, Severity, Vendor,
};

/// Names of corrected errors: whatever severity is printed before them, they are none other.
const CORRECTED: [&str; 8] = [
    "Receiver Error",
    "Bad TLP",
    "Bad DLLP",
    "RELAY_NUM Rollover",
    "Replay Timer Timeout",
    "Advisory Non-Fatal",
    "Corrected Internal Error",
    "Header Log Overflow",
];

/// Reads a line such as `kworker/0:1-17 [000] ..... 5.781651: mce_record: CPU: 0, …`; none if it is no line of a trace.
pub(crate) fn parse_line(line: &str) -> Option<(Moment, Option<Record>)> {
    let (head, rest) = line.split_once(": ")?;
    let cpu = head.find(" [")?;
    head[cpu + 2..].split_once(']')?.0.parse::<u32>().ok()?;
    let seconds: f64 = head.split_whitespace().next_back()?.parse().ok()?;
    let since_boot = Duration::try_from_secs_f64(seconds).ok()?;
    let (event, text) = rest.trim_start().split_once(": ")?;
    let event = event.split_once(':').map_or(event, |(_, event)| event);
    Some((Moment::after_boot(since_boot), printed(event, text)))
}

pub(super) fn machine_check(text: &str) -> Option<Record> {
    let words = Words(text);
    // The status follows the bank's number: `MC4: 9c00…`. MCGc/s comes first.
    let banked = Words(Words(words.after("MCGc/s: ")?).after(", MC")?);
    let (bank, status) = banked.0.split_once(": ")?;
    let triple = words.after("ADDR/MISC/SYND: ");
    let mut values = triple.unwrap_or_default().split('/');
    let address = values.next().and_then(hex).or_else(|| words.hex(", ADDR: ")).unwrap_or(0);
    let misc = values.next().and_then(hex).or_else(|| words.hex("MISC: ")).unwrap_or(0);
    let signature = words.after("PROCESSOR: ").and_then(|text| Words(text).hex(":")).or_else(|| words.hex("CPUID: "));
    let signature = signature.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    let vendor = words.decimal("PROCESSOR: ").or_else(|| words.decimal("VENDOR: "));
    let code_segment = words.hex("RIP: ").unwrap_or(0);
    Some(Record::MachineCheck(MachineCheck {
        vendor: vendor.map_or_else(|| Vendor::from_signature(signature), Vendor::from_number),
        signature,
        cpu: words.small("CPU: ").unwrap_or(0),
        socket: words.small("SOCKET: ").unwrap_or(0),
        bank: bank.trim().parse().ok()?,
        status: hex(status)?,
        mcg_status: words.after("MCGc/s: ").and_then(|text| Words(text).hex("/")).unwrap_or(0),
        address,
        misc,
        ipid: words.hex("IPID: ").unwrap_or(0),
        in_kernel: code_segment != 0 && code_segment & 3 == 0,
        unix_s: words.decimal("TIME: ").unwrap_or(0),
    }))
}

/// `1 Corrected error: ie31200 CE on DIMM_P0_B1 (mc:0 location:1:0:-1 address:0x00000000 grain:8 …)`.
pub(super) fn memory(text: &str) -> Option<Record> {
    let words = Words(text);
    let (count, rest) = text.trim_start().split_once(' ')?;
    let (kind, rest) = rest.split_once(" error")?;
    let (message, rest) = rest.trim_start_matches('s').trim_start_matches(':').split_once("on ")?;
    let severity = match kind {
        "Corrected" => Severity::Corrected,
        "Uncorrected" => Severity::Uncorrected,
        "Deferred" => Severity::Deferred,
        "Fatal" => Severity::Fatal,
        _ => Severity::Info,
    };
    Some(Record::Memory(MemoryError {
        severity,
        controller: words.small("(mc:").unwrap_or(0),
        label: rest.split(" (mc:").next()?.to_owned(),
        message: message.trim().to_owned(),
        count: count.parse().ok()?,
        address: words.hex("address:").filter(|address| *address != 0),
    }))
}

pub(super) fn aer(text: &str) -> Option<Record> {
    let (device, rest) = text.trim_start().split_once(' ')?;
    let severity = match Words(rest).after("severity=")? {
        _ if CORRECTED.iter().any(|name| rest.contains(name)) => Severity::Corrected,
        fatal if fatal.starts_with("Fatal") => Severity::Fatal,
        corrected if corrected.starts_with("Correct") => Severity::Corrected,
        _ => Severity::Uncorrected,
    };
    Some(Record::Aer(AerError { device: device.to_owned(), severity, status: 0, count: 1 }))
}

pub(super) fn extlog(text: &str) -> Option<Record> {
    let words = Words(text);
    let severity = match words.after("} ")? {
        text if text.starts_with("corrected") => Severity::Corrected,
        text if text.starts_with("fatal") => Severity::Fatal,
        text if text.starts_with("info") => Severity::Info,
        _ => Severity::Uncorrected,
    };
    let part = words.after("FRU: ").and_then(|text| text.split_once(' ')).map_or("", |(_, part)| part.trim());
    let (part, address) = (part.to_owned(), words.hex("physical addr: "));
    Some(Record::Firmware(FirmwareError { severity, memory: true, part, address }))
}

pub(super) fn memory_failure(text: &str) -> Option<Record> {
    let outcome = text.rsplit(": ").next()?.trim().to_owned();
    Some(Record::MemoryFailure(MemoryFailure { frame: Words(text).hex("pfn ")?, outcome, consumed: false }))
}

/// `7,0 R () 2048 + 8 none,0,0 [-5]`.
pub(super) fn block(text: &str) -> Option<Record> {
    let (device, rest) = text.trim_start().split_once(' ')?;
    let (major, minor) = device.split_once(',')?;
    let (before, after) = rest.split_once(" + ")?;
    let errno: i32 = after.rsplit_once('[')?.1.split(']').next()?.parse().ok()?;
    Some(Record::Block(BlockError {
        device: format!("{major}:{minor}"),
        sector: before.rsplit(' ').next()?.parse().ok()?,
        errno: errno.checked_abs()?,
        count: 1,
    }))
}
