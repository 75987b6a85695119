//! From the fields of a tracepoint to what was said.

use super::Fields;
use crate::record::{
    AerError, BlockError, FirmwareError, MachineCheck, MemoryError, MemoryFailure, Record, Severity, Trip, Vendor,
};

/// The events that are asked for, and the groups in which kernels have them.
pub(crate) const CANDIDATES: [(&str, &[&str]); 11] = [
    ("mce_record", &["mce"]),
    ("mc_event", &["ras"]),
    ("aer_event", &["ras"]),
    ("extlog_mem_event", &["ras"]),
    ("non_standard_event", &["ras"]),
    ("memory_failure_event", &["memory_failure", "ras"]),
    ("block_rq_error", &["block"]),
    ("nvme_async_event", &["nvme"]),
    ("thermal_zone_trip", &["thermal"]),
    ("net_dev_xmit_timeout", &["net"]),
    ("devlink_health_report", &["devlink"]),
];

/// What became of a page: `enum mf_result` in linux/mm.h.
const OUTCOMES: [&str; 4] = ["Ignored", "Failed", "Delayed", "Recovered"];
/// `enum thermal_trip_type` in linux/thermal.h: from here on the host is in danger.
const TRIP_HOT: u64 = 2;

/// What a record says; none if this program does not know the event, or if what it is about is missing.
pub(crate) fn record(fields: &Fields<'_>) -> Option<Record> {
    match fields.event() {
        "mce_record" => machine_check(fields).map(Record::MachineCheck),
        "mc_event" => memory(fields).map(Record::Memory),
        "aer_event" => aer(fields).map(Record::Aer),
        "extlog_mem_event" => extlog(fields).map(Record::Firmware),
        "non_standard_event" => {
            Some(remark(fields, "the firmware has told of an error of no standard kind", "fru_text"))
        }
        "memory_failure_event" => memory_failure(fields).map(Record::MemoryFailure),
        "block_rq_error" => block(fields).map(Record::Block),
        "nvme_async_event" => nvme_event(&format!("nvme{}", fields.number("ctrl_id")?), fields.small("result")?),
        "thermal_zone_trip" => Some(Record::Trip(Trip {
            zone: fields.text("thermal_zone")?,
            danger: fields.number("trip_type")? >= TRIP_HOT,
        })),
        "net_dev_xmit_timeout" => Some(Record::TransmitTimeout { interface: fields.text("name")? }),
        "devlink_health_report" => Some(remark(fields, "a device has reported bad health", "dev_name")),
        _ => None,
    }
}

fn remark(fields: &Fields<'_>, what: &str, name: &str) -> Record {
    let about = fields.text(name).unwrap_or_default();
    Record::Remark(format!("{what}: {about}"))
}

fn machine_check(fields: &Fields<'_>) -> Option<MachineCheck> {
    let signature = fields.small("cpuid").unwrap_or(0);
    let vendor = fields.number("cpuvendor").map_or_else(|| Vendor::from_signature(signature), Vendor::from_number);
    let or_zero = |name| fields.number(name).unwrap_or(0);
    let code_segment = or_zero("cs");
    Some(MachineCheck {
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
    })
}

fn memory(fields: &Fields<'_>) -> Option<MemoryError> {
    // enum hw_event_mc_err_type in linux/edac.h.
    let severity = match fields.number("error_type")? {
        0 => Severity::Corrected,
        1 => Severity::Uncorrected,
        2 => Severity::Deferred,
        3 => Severity::Fatal,
        _ => Severity::Info,
    };
    Some(MemoryError {
        severity,
        controller: fields.small("mc_index").unwrap_or(0),
        label: fields.text("label").unwrap_or_default(),
        message: fields.text("msg").unwrap_or_default(),
        count: fields.number("error_count").unwrap_or(1),
        address: fields.number("address").filter(|address| *address != 0),
    })
}

fn aer(fields: &Fields<'_>) -> Option<AerError> {
    // AER_* in linux/aer.h. The printed text has been wrong about the corrected ones.
    let severity = match fields.number("severity")? {
        0 => Severity::Uncorrected,
        1 => Severity::Fatal,
        2 => Severity::Corrected,
        _ => Severity::Info,
    };
    Some(AerError { device: fields.text("dev_name")?, severity, status: fields.small("status").unwrap_or(0), count: 1 })
}

fn extlog(fields: &Fields<'_>) -> Option<FirmwareError> {
    // CPER_SEV_* in linux/cper.h.
    let severity = match fields.number("sev")? {
        0 => Severity::Uncorrected,
        1 => Severity::Fatal,
        2 => Severity::Corrected,
        _ => Severity::Info,
    };
    Some(FirmwareError {
        severity,
        memory: true,
        part: fields.text("fru_text").unwrap_or_default().trim().to_owned(),
        address: fields.number("pa").filter(|address| *address != 0 && *address != u64::MAX),
    })
}

fn memory_failure(fields: &Fields<'_>) -> Option<MemoryFailure> {
    let result = fields.number("result").and_then(|result| usize::try_from(result).ok());
    let outcome = result.and_then(|result| OUTCOMES.get(result)).unwrap_or(&"unknown");
    Some(MemoryFailure { frame: fields.number("pfn")?, outcome: (*outcome).to_owned(), consumed: false })
}

fn block(fields: &Fields<'_>) -> Option<BlockError> {
    let device = fields.number("dev")?;
    Some(BlockError {
        // The kernel's own numbers: 20 bits of minor.
        device: format!("{}:{}", device >> 20, device & 0xf_ffff),
        sector: fields.number("sector").unwrap_or(0),
        errno: i32::try_from(fields.signed("error")?.unsigned_abs()).ok()?,
        count: 1,
    })
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
