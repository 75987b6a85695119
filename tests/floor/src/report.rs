//! What was measured, for people and for programs.

use std::fmt::Write;

use crate::kvm::state::{READS, WRITES};
use crate::{Floors, PAGES};

/// A table, with the calls that each figure is the time of.
pub(crate) fn text(floors: &Floors) -> String {
    let mut rows = vec![
        ("memcpy, 256 MiB".to_owned(), format!("{:.1} GB/s", floors.memcpy_gb_s), "memcpy".to_owned()),
        ("one TCP stream".to_owned(), format!("{:.1} GB/s", floors.stream_gb_s), "write, read of 1 MiB".to_owned()),
    ];
    let us = |value: f64| format!("{value:.1} µs");
    for (pages, time) in PAGES.iter().zip(&floors.memcpy_us).skip(1) {
        rows.push((format!("memcpy, {pages} pages"), us(*time), "memcpy".to_owned()));
    }
    for (pages, time) in PAGES.iter().zip(&floors.round_trip_us) {
        let calls = format!("write of {} bytes, read of 64", 64 + pages * crate::memory::PAGE);
        rows.push((format!("round trip, {pages} pages"), us(*time), calls));
    }
    let reads = READS.map(|ioctl| ioctl.name.trim_start_matches("KVM_GET_")).join(" ");
    let writes = WRITES.map(|ioctl| ioctl.name.trim_start_matches("KVM_SET_")).join(" ");
    let msrs = floors.msrs;
    rows.extend([
        ("write through".to_owned(), us(floors.write_through_us), "pwrite of 4096 bytes with O_DSYNC".to_owned()),
        ("kick".to_owned(), us(floors.kick_us), "pthread_kill to KVM_RUN's return".to_owned()),
        ("re-entry".to_owned(), us(floors.reentry_us), "KVM_RUN to the guest's first store".to_owned()),
        ("state read".to_owned(), us(floors.state_read_us), format!("KVM_GET_: {reads} (3 irqchips, {msrs} MSRs)")),
    ]);
    for machine in &floors.machines {
        let mib = machine.mib;
        rows.extend([
            (format!("dirty log, {mib} MiB"), us(machine.dirty_log_us), "KVM_GET_DIRTY_LOG, 16 pages dirty".to_owned()),
            (format!("restore, {mib} MiB"), us(machine.restore_us), format!("KVM_SET_: {writes}")),
            (
                format!("first entry, {mib} MiB"),
                us(machine.first_entry_us),
                "KVM_RUN to the first store after a restore into a new VM".to_owned(),
            ),
        ]);
    }
    let mut text = String::from("best of three medians; the calls made, with libc alone\n");
    for (name, value, calls) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:22} {value:>12}  {calls}");
    }
    text
}

/// One line of JSON. Lists by pages are for 0, 16, 128 and 1024 of them.
pub(crate) fn json(floors: &Floors) -> String {
    let list = |values: &[f64]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(",");
    let machines: Vec<String> = floors
        .machines
        .iter()
        .map(|machine| {
            format!(
                r#"{{"mib":{},"dirty_log_us":{:.3},"restore_us":{:.3},"first_entry_us":{:.3}}}"#,
                machine.mib, machine.dirty_log_us, machine.restore_us, machine.first_entry_us
            )
        })
        .collect();
    format!(
        concat!(
            r#"{{"msrs":{},"memcpy_gb_s":{:.3},"stream_gb_s":{:.3},"memcpy_us":[{}],"round_trip_us":[{}],"#,
            r#""write_through_us":{:.3},"kick_us":{:.3},"reentry_us":{:.3},"state_read_us":{:.3},"machines":[{}]}}"#
        ),
        floors.msrs,
        floors.memcpy_gb_s,
        floors.stream_gb_s,
        list(&floors.memcpy_us),
        list(&floors.round_trip_us),
        floors.write_through_us,
        floors.kick_us,
        floors.reentry_us,
        floors.state_read_us,
        machines.join(",")
    )
}
