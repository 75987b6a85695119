//! The tracepoints that are listened to: one line each says all that there is to know of an event.

use super::{Fields, decode, text};
use crate::record::Record;

/// A tracepoint.
pub(crate) struct Tracepoint {
    /// Its name.
    pub(crate) name: &'static str,
    /// The groups in which kernels have it.
    pub(crate) groups: &'static [&'static str],
    /// What a record says; none if what it is about is missing.
    binary: fn(&Fields<'_>) -> Option<Record>,
    /// What the printed form of a record says, if this program reads it: see [`text`].
    printed: Option<fn(&str) -> Option<Record>>,
}

const fn event(
    name: &'static str,
    groups: &'static [&'static str],
    binary: fn(&Fields<'_>) -> Option<Record>,
    printed: Option<fn(&str) -> Option<Record>>,
) -> Tracepoint {
    Tracepoint { name, groups, binary, printed }
}

/// All of them.
pub(crate) static TRACEPOINTS: [Tracepoint; 18] = [
    event("mce_record", &["mce"], decode::machine_check, Some(text::machine_check)),
    event("mc_event", &["ras"], decode::memory, Some(text::memory)),
    event("aer_event", &["ras"], decode::aer, Some(text::aer)),
    event("extlog_mem_event", &["ras"], decode::extlog, Some(text::extlog)),
    event("non_standard_event", &["ras"], decode::non_standard, None),
    event("memory_failure_event", &["memory_failure", "ras"], decode::memory_failure, Some(text::memory_failure)),
    event("block_rq_error", &["block"], decode::block, Some(text::block)),
    event("nvme_async_event", &["nvme"], decode::nvme, None),
    event("thermal_zone_trip", &["thermal"], decode::trip, None),
    event("net_dev_xmit_timeout", &["net"], decode::transmit_timeout, None),
    event("devlink_health_report", &["devlink"], decode::devlink, None),
    event("cxl_general_media", &["cxl"], decode::cxl_memory, None),
    event("cxl_dram", &["cxl"], decode::cxl_memory, None),
    event("cxl_aer_correctable_error", &["cxl"], decode::cxl_corrected, None),
    event("cxl_aer_uncorrectable_error", &["cxl"], decode::cxl_uncorrected, None),
    event("cxl_port_aer_correctable_error", &["cxl"], decode::cxl_corrected, None),
    event("cxl_port_aer_uncorrectable_error", &["cxl"], decode::cxl_uncorrected, None),
    event("cxl_overflow", &["cxl"], decode::cxl_overflow, None),
];

fn named(name: &str) -> Option<&'static Tracepoint> {
    TRACEPOINTS.iter().find(|event| event.name == name)
}

/// What a record says; none if this program does not know the event, or if what it is about is missing.
pub(crate) fn record(fields: &Fields<'_>) -> Option<Record> {
    named(fields.event()).and_then(|event| (event.binary)(fields))
}

/// The same of a record that was printed.
pub(super) fn printed(event: &str, text: &str) -> Option<Record> {
    named(event).and_then(|event| event.printed).and_then(|read| read(text))
}
