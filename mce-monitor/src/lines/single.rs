//! What one line says by itself.

use rustix::io::Errno;

use super::words::{Words, hex};
use crate::record::{AerError, BlockError, DeviceGone, MemoryError, MemoryFailure, Record, Severity, Throttle};

/// What blk_errors[] in block/blk-core.c calls the errors that a request may fail with, and their numbers.
const BLOCK_ERRORS: [(&str, Errno); 12] = [
    ("operation not supported error", Errno::OPNOTSUPP),
    ("timeout error", Errno::TIMEDOUT),
    ("critical space allocation error", Errno::NOSPC),
    ("recoverable transport error", Errno::NOLINK),
    ("critical target error", Errno::REMOTEIO),
    ("reservation conflict error", Errno::BADE),
    ("critical nexus error", Errno::BADE),
    ("critical medium error", Errno::NODATA),
    ("protection error", Errno::ILSEQ),
    ("device offline error", Errno::NODEV),
    ("device resource error", Errno::NOSPC),
    ("I/O error", Errno::IO),
];

/// Reads a line; none if it says nothing of hardware, or only together with others.
pub(super) fn record(text: &str) -> Option<Record> {
    edac(text)
        .map(Record::Memory)
        .or_else(|| memory_failure(text))
        .or_else(|| aer(text).map(Record::Aer))
        .or_else(|| throttle(text).map(Record::Throttle))
        .or_else(|| storm(text))
        .or_else(|| block(text))
        .or_else(|| network(text))
}

/// `EDAC MC1: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x2031c14 offset:0x940 …)`.
fn edac(text: &str) -> Option<MemoryError> {
    let (controller, rest) = text.strip_prefix("EDAC MC")?.split_once(": ")?;
    let (count, rest) = rest.split_once(' ')?;
    let (kind, rest) = rest.split_at_checked(2)?;
    let severity = match kind {
        "CE" => Severity::Corrected,
        "UE" => Severity::Uncorrected,
        _ => return None,
    };
    let (what, tail) = rest.split_once(" (").unwrap_or((rest, ""));
    let (message, label) = what.rsplit_once("on ")?;
    let words = Words(tail);
    let (page, offset) = (words.hex("page:").unwrap_or(0), words.hex("offset:").unwrap_or(0));
    let address = page.checked_shl(crate::classify::PAGE_SHIFT).map(|page| page | offset);
    Some(MemoryError {
        severity,
        controller: controller.parse().ok()?,
        label: label.trim().to_owned(),
        message: message.trim().to_owned(),
        count: count.parse().ok()?,
        address: address.filter(|address| *address != 0),
    })
}

/// The kernel says `Memory failure:` about a page with an error. `MCE: Killing` it also says where there is none: a userfaultfd
/// can be made to answer like that (UFFDIO_POISON), so it is told and no more.
fn memory_failure(text: &str) -> Option<Record> {
    if text.contains("MCE: Killing") {
        return Some(Record::Remark(text.to_owned()));
    }
    let (frame, rest) = text.strip_prefix("Memory failure: ")?.split_once(": ")?;
    let frame = hex(frame)?;
    if let Some(action) = rest.strip_prefix("recovery action for ") {
        let outcome = action.rsplit(": ").next()?.to_owned();
        return Some(Record::MemoryFailure(MemoryFailure { frame, outcome, consumed: false }));
    }
    // By a signal it also tells those who want to know before they use the page (PR_MCE_KILL_EARLY).
    let (who, what, consumed) = match (rest.strip_prefix("Killing "), rest.strip_prefix("Sending SIGBUS to ")) {
        (Some(who), _) => (who, "used by", true),
        (None, Some(who)) => (who, "told to", false),
        (None, None) => return None,
    };
    let outcome = format!("{what} {}", who.split(' ').next().unwrap_or_default());
    Some(Record::MemoryFailure(MemoryFailure { frame, outcome, consumed }))
}

/// `pcieport 0000:03:04.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)`. The line before it, of the
/// port that the message came to, is about the same error.
fn aer(text: &str) -> Option<AerError> {
    let (device, rest) = text.split_once("PCIe Bus Error: severity=")?;
    let device = device.trim_end_matches("AER: ").trim_end().trim_end_matches(':');
    let severity = match rest {
        corrected if corrected.starts_with("Correct") => Severity::Corrected,
        fatal if fatal.contains("(Fatal)") => Severity::Fatal,
        _ => Severity::Uncorrected,
    };
    Some(AerError { device: device.rsplit(' ').next()?.to_owned(), severity, status: 0, count: 1 })
}

/// `mce: CPU2: Core temperature is above threshold, cpu clock is throttled (total events = 2675)`.
fn throttle(text: &str) -> Option<Throttle> {
    let (cpu, rest) = Words(text).after("CPU")?.split_once(": ")?;
    let package = rest.starts_with("Package");
    if !package && !rest.starts_with("Core") {
        return None;
    }
    let hot = rest.contains("above threshold");
    (hot || rest.contains("temperature/speed normal")).then_some(())?;
    Some(Throttle { cpu: cpu.parse().ok()?, package, hot })
}

fn storm(text: &str) -> Option<Record> {
    let rest = Words(text).after("CMCI storm ")?;
    Some(Record::Storm { begins: rest.starts_with("detected") })
}

fn block(text: &str) -> Option<Record> {
    failed_request(text).map(Record::Block).or_else(|| nvme(text)).or_else(|| ata(text).map(Record::Block))
}

/// `critical medium error, dev sda, sector 2048 op 0x0:(READ) …`.
fn failed_request(text: &str) -> Option<BlockError> {
    let (what, rest) = text.split_once(", dev ")?;
    let what = what.strip_prefix("blk_update_request: ").unwrap_or(what);
    let (_, errno) = BLOCK_ERRORS.iter().find(|(name, _)| *name == what)?;
    let device = rest.split(',').next()?.to_owned();
    Some(BlockError {
        device,
        sector: Words(rest).decimal("sector ").unwrap_or(0),
        errno: errno.raw_os_error(),
        count: 1,
    })
}

fn nvme(text: &str) -> Option<Record> {
    let (device, what) = text.strip_prefix("nvme ")?.split_once(": ")?;
    let device = device.to_owned();
    if ["Removing after probe failure", "Disabling device after reset failure"]
        .iter()
        .any(|gone| what.starts_with(gone))
    {
        return Some(Record::DeviceGone(DeviceGone { device, reason: what.to_owned() }));
    }
    let timeout = what.starts_with("I/O ") && what.contains(" timeout, ");
    let down = what.starts_with("controller is down");
    (timeout || down).then_some(Record::Block(BlockError {
        device,
        sector: 0,
        errno: Errno::TIMEDOUT.raw_os_error(),
        count: 1,
    }))
}

/// `ata3.00: error: { UNC }`: the medium cannot be read.
fn ata(text: &str) -> Option<BlockError> {
    let (device, rest) = text.strip_prefix("ata")?.split_once(": error: {")?;
    let bad = rest.split_whitespace().any(|word| ["UNC", "IDNF", "AMNF"].contains(&word));
    bad.then(|| BlockError { device: format!("ata{device}"), sector: 0, errno: Errno::NODATA.raw_os_error(), count: 1 })
}

fn network(text: &str) -> Option<Record> {
    if let Some(interface) = Words(text).word("NETDEV WATCHDOG: ") {
        return text.contains("timed out").then(|| Record::TransmitTimeout { interface: interface.to_owned() });
    }
    let (before, state) = text.split_once(" NIC Link is ")?;
    let interface = before.rsplit(' ').next()?.trim_end_matches(':').to_owned();
    Some(Record::Link { interface, up: state.starts_with("Up") })
}
