use std::time::Duration;

use super::*;
use crate::moment::Moment;
use crate::record::{MachineCheck, Record, Severity};

fn records(lines: &[&str]) -> Vec<Record> {
    let mut assembler = Assembler::default();
    let mut whole: Vec<_> =
        lines.iter().flat_map(|line| assembler.line(Moment::default(), stamped(line).text)).collect();
    whole.extend(assembler.flush());
    whole.into_iter().map(|(_, record)| record).collect()
}

fn checks(lines: &[&str]) -> Vec<MachineCheck> {
    let only = |record| if let Record::MachineCheck(check) = record { Some(check) } else { None };
    records(lines).into_iter().filter_map(only).collect()
}

#[test]
fn a_line_of_something_else_does_not_go_on_with_a_machine_check() {
    let found = records(&[
        "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00000000000135",
        "EDAC MC0: 1 UE TRIP on ADDR 5 (csrow:0 page:0x1)",
    ]);
    assert!(matches!(found[..], [Record::MachineCheck(_), Record::Memory(_)]), "{found:?}");
}

#[test]
fn stamps_of_every_form() {
    let cases = [
        ("6,1042,5781651,-;text", Some(5781), "text"),
        ("[   12.5] text", Some(12_500), "text"),
        ("Mar 29 04:10:35 a4 kernel: [ 6542.5] [Hardware Error]: text", Some(6_542_500), "[Hardware Error]: text"),
        ("[  +0.000004] text", None, "text"),
        ("kernel: text", None, "text"),
        (" kernel:[Hardware Error]: text", None, "[Hardware Error]: text"),
        ("text", None, "text"),
        ("[Hardware Error]: text", None, "[Hardware Error]: text"),
    ];
    for (line, ms, text) in cases {
        let found = stamped(line);
        assert_eq!((found.at.map(|at| at.as_millis()), found.text), (ms, text), "{line}");
    }
    let at = |line| stamped(line).at.expect("a date");
    let span = at("[Mon Oct  3 13:52:44 2022] x") - at("Oct  3 13:52:42 host kernel: x");
    assert_eq!(span, Duration::from_secs(2));
}

#[test]
fn what_a_program_wrote_is_known_as_such() {
    assert!(!stamped("6,1,1,-;x").by_program);
    assert!(stamped("12,1,1,-;x").by_program);
}

#[test]
fn a_machine_check_takes_three_lines() {
    let found = checks(&[
        "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: 8c00004000010090",
        "mce: [Hardware Error]: TSC 0 ADDR 23456000 MISC 8c ",
        "mce: [Hardware Error]: PROCESSOR 0:50654 TIME 1795372652 SOCKET 1 APIC 0 microcode 1",
    ]);
    let [check] = &found[..] else { panic!("{found:?}") };
    assert_eq!((check.cpu, check.bank, check.status), (3, 7, 0x8c00_0040_0001_0090));
    assert_eq!((check.address, check.misc, check.socket, check.unix_s), (0x2345_6000, 0x8c, 1, 1_795_372_652));
}

#[test]
fn two_without_an_end_are_two() {
    let line = "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00000000000135";
    assert_eq!(checks(&[line, line, "something else"]).len(), 2);
}

#[test]
fn errors_of_requests_have_their_names() {
    for (name, errno) in [("I/O error", 5), ("critical medium error", 61), ("critical space allocation error", 28)] {
        let found =
            records(&[&format!("{name}, dev sda, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2")]);
        let [Record::Block(error)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((error.device.as_str(), error.sector, error.errno), ("sda", 2048, errno));
    }
    assert!(records(&["some program wrote: I/O error, dev sda, sector 1"]).is_empty());
}

#[test]
fn who_is_told_early_has_not_used_the_page() {
    for (what, consumed) in [("Killing", true), ("Sending SIGBUS to", false)] {
        let line = format!("Memory failure: 0x104cb: {what} kemari-replicat:196 due to hardware memory corruption");
        let found = records(&[&line]);
        let [Record::MemoryFailure(failure)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((failure.frame, failure.consumed), (0x104cb, consumed), "{what}");
    }
}

#[test]
fn a_page_of_a_lazy_userfault_handler_is_only_told() {
    let found = records(&["MCE: Killing qemu:77 due to hardware memory corruption fault at 7f0000000000"]);
    assert!(matches!(found[..], [Record::Remark(_)]), "{found:?}");
}

#[test]
fn severities_of_pci_express() {
    for (text, severity) in [
        ("Corrected", Severity::Corrected),
        ("Correctable", Severity::Corrected),
        ("Uncorrected (Non-Fatal)", Severity::Uncorrected),
        ("Uncorrectable (Fatal)", Severity::Fatal),
    ] {
        let line =
            format!("pcieport 0000:00:1b.2: AER: PCIe Bus Error: severity={text}, type=Physical Layer, (Receiver ID)");
        let found = records(&[&line]);
        let [Record::Aer(error)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((error.device.as_str(), error.severity), ("0000:00:1b.2", severity), "{text}");
    }
}
