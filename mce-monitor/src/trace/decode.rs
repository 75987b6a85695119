//! From the fields of a tracepoint to what was said.

use super::Fields;
use crate::record::{
    AerError, BlockError, FirmwareError, MachineCheck, MemoryError, MemoryFailure, Record, Severity, Trip, Vendor,
};

/// What became of a page: `enum mf_result` in linux/mm.h.
const OUTCOMES: [&str; 4] = ["Ignored", "Failed", "Delayed", "Recovered"];
/// `enum thermal_trip_type` in linux/thermal.h: from here on the host is in danger.
const TRIP_HOT: u64 = 2;

fn remark(fields: &Fields<'_>, what: &str, name: &str) -> Option<Record> {
    let about = fields.text(name).unwrap_or_default();
    Some(Record::Remark(format!("{what}: {about}")))
}

pub(super) fn non_standard(fields: &Fields<'_>) -> Option<Record> {
    remark(fields, "the firmware has told of an error of no standard kind", "fru_text")
}

pub(super) fn devlink(fields: &Fields<'_>) -> Option<Record> {
    remark(fields, "a device has reported bad health", "dev_name")
}

pub(super) fn machine_check(fields: &Fields<'_>) -> Option<Record> {
    let signature = fields.small("cpuid").unwrap_or(0);
    let vendor = fields.number("cpuvendor").map_or_else(|| Vendor::from_signature(signature), Vendor::from_number);
    let or_zero = |name| fields.number(name).unwrap_or(0);
    let code_segment = or_zero("cs");
    Some(Record::MachineCheck(MachineCheck {
        vendor,
        signature,
        cpu: fields.small("cpu").unwrap_or(0),
        socket: fields.small("socketid").unwrap_or(0),
        bank: u8::try_from(or_zero("bank")).unwrap_or(u8::MAX),
        status: fields.number("status")?,
        mcg_status: or_zero("mcgstatus"),
        address: or_zero("addr"),
        misc: or_zero("misc"),
        ipid: or_zero("ipid"),
        // A selector's lowest bits are the privilege level; without one it was no exception.
        in_kernel: code_segment != 0 && code_segment & 3 == 0,
        unix_s: or_zero("walltime"),
    }))
}

pub(super) fn memory(fields: &Fields<'_>) -> Option<Record> {
    // enum hw_event_mc_err_type in linux/edac.h.
    let severity = match fields.number("error_type")? {
        0 => Severity::Corrected,
        1 => Severity::Uncorrected,
        2 => Severity::Deferred,
        3 => Severity::Fatal,
        _ => Severity::Info,
    };
    Some(Record::Memory(MemoryError {
        severity,
        controller: fields.small("mc_index").unwrap_or(0),
        label: fields.text("label").unwrap_or_default(),
        message: fields.text("msg").unwrap_or_default(),
        count: fields.number("error_count").unwrap_or(1),
        address: fields.number("address").filter(|address| *address != 0),
    }))
}

pub(super) fn aer(fields: &Fields<'_>) -> Option<Record> {
    // AER_* in linux/aer.h. The printed text has been wrong about the corrected ones.
    let severity = match fields.number("severity")? {
        0 => Severity::Uncorrected,
        1 => Severity::Fatal,
        2 => Severity::Corrected,
        _ => Severity::Info,
    };
    let (device, status) = (fields.text("dev_name")?, fields.small("status").unwrap_or(0));
    Some(Record::Aer(AerError { device, severity, status, count: 1 }))
}

pub(super) fn extlog(fields: &Fields<'_>) -> Option<Record> {
    // CPER_SEV_* in linux/cper.h.
    let severity = match fields.number("sev")? {
        0 => Severity::Uncorrected,
        1 => Severity::Fatal,
        2 => Severity::Corrected,
        _ => Severity::Info,
    };
    Some(Record::Firmware(FirmwareError {
        severity,
        memory: true,
        part: fields.text("fru_text").unwrap_or_default().trim().to_owned(),
        address: fields.number("pa").filter(|address| *address != 0 && *address != u64::MAX),
    }))
}

pub(super) fn memory_failure(fields: &Fields<'_>) -> Option<Record> {
    let result = fields.number("result").and_then(|result| usize::try_from(result).ok());
    let outcome = result.and_then(|result| OUTCOMES.get(result)).unwrap_or(&"unknown");
    let (frame, outcome) = (fields.number("pfn")?, (*outcome).to_owned());
    Some(Record::MemoryFailure(MemoryFailure { frame, outcome, consumed: false }))
}

pub(super) fn block(fields: &Fields<'_>) -> Option<Record> {
    let device = fields.number("dev")?;
    Some(Record::Block(BlockError {
        // The kernel's own numbers: 20 bits of minor.
        device: format!("{}:{}", device >> 20, device & 0xf_ffff),
        sector: fields.number("sector").unwrap_or(0),
        errno: i32::try_from(fields.signed("error")?.unsigned_abs()).ok()?,
        count: 1,
    }))
}

pub(super) fn nvme(fields: &Fields<'_>) -> Option<Record> {
    nvme_event(&format!("nvme{}", fields.number("ctrl_id")?), fields.small("result")?)
}

pub(super) fn trip(fields: &Fields<'_>) -> Option<Record> {
    Some(Record::Trip(Trip { zone: fields.text("thermal_zone")?, danger: fields.number("trip_type")? >= TRIP_HOT }))
}

pub(super) fn transmit_timeout(fields: &Fields<'_>) -> Option<Record> {
    Some(Record::TransmitTimeout { interface: fields.text("name")? })
}

/// A memory device on CXL tells of its own memory (drivers/cxl/core/trace.h). The lowest bit of the descriptor says whether data is lost,
/// the log that the record was in how bad the device itself finds it. `hpa` is the host's address, if the kernel can say which it is.
pub(super) fn cxl_memory(fields: &Fields<'_>) -> Option<Record> {
    const LOST: u64 = 1;
    const LOG_FATAL: u64 = 3;
    let severity = match (fields.number("descriptor")? & LOST, fields.number("log")) {
        (LOST, Some(LOG_FATAL)) => Severity::Fatal,
        (LOST, _) => Severity::Uncorrected,
        _ => Severity::Corrected,
    };
    Some(Record::Firmware(FirmwareError {
        severity,
        memory: true,
        part: fields.text("memdev")?,
        address: fields.number("hpa").filter(|address| *address != 0 && *address != u64::MAX),
    }))
}

pub(super) fn cxl_corrected(fields: &Fields<'_>) -> Option<Record> {
    cxl_link(fields, Severity::Corrected)
}

pub(super) fn cxl_uncorrected(fields: &Fields<'_>) -> Option<Record> {
    cxl_link(fields, Severity::Uncorrected)
}

/// What a device or a port finds wrong with the way to it. The PCI device behind it says the same as an internal error, by `aer_event`.
fn cxl_link(fields: &Fields<'_>, severity: Severity) -> Option<Record> {
    let part = fields.text("host").filter(|host| !host.is_empty()).or_else(|| fields.text("memdev"))?;
    Some(Record::Firmware(FirmwareError { severity, memory: false, part, address: None }))
}

pub(super) fn cxl_overflow(fields: &Fields<'_>) -> Option<Record> {
    remark(fields, "a CXL device has had more to tell than its log could keep", "memdev")
}

/// The lowest three bits are the kind of event: 0 is an error, 1 is SMART (NVM Express base specification, Asynchronous Event
/// Request); others are notices.
pub(crate) fn nvme_event(device: &str, event: u32) -> Option<Record> {
    let device = device.to_owned();
    (event & 7 <= 1).then_some(Record::Block(BlockError {
        device,
        sector: 0,
        errno: rustix::io::Errno::IO.raw_os_error(),
        count: 1,
    }))
}
