//! Captured streams, each classified as what was injected, or as its `expect` says.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use kemari_mce_monitor::health::{Colour, Health, Thresholds};
use kemari_mce_monitor::replay::{Replay, decide, from_text, replay};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mce").join(name)
}

fn fixture(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn replayed(text: &str) -> Replay {
    decide(from_text(text), Health::new(Thresholds::default(), 64))
}

/// Class and place of every fault, with its count if that is not one.
fn faults(replay: &Replay) -> Vec<String> {
    let word = |class| serde_json::to_value(class).expect("a word").as_str().unwrap_or_default().to_owned();
    replay
        .steps
        .iter()
        .filter_map(|step| {
            let count = if step.count == 1 { String::new() } else { format!(" x{}", step.count) };
            Some(format!("{} {}{count}", word(step.class?), step.place.as_ref()?))
        })
        .collect()
}

const HYPERVISOR: [&str; 9] = [
    "CE processor cpu0 L1 cache",
    "CE processor cpu1 L1 cache",
    "CE memory socket0 bank7 channel0",
    "CE processor cpu0 L1 cache",
    "DEFERRED processor cpu0 L1 cache",
    "SRAO memory of an unknown DIMM",
    "CE processor cpu0 L1 cache",
    "CE processor cpu0 bank4",
    "SRAO memory of an unknown DIMM",
];

#[test]
fn amd_injected_one_by_one() {
    let replay = replayed(&fixture("mce-epyc-hypervisor.trace"));
    assert_eq!(faults(&replay), HYPERVISOR);
    let colours: Vec<Colour> = replay.steps.iter().map(|step| step.colour).collect();
    // Green until the deferred error.
    assert_eq!(colours[..4], [Colour::Green; 4]);
    assert_eq!(colours[4..], [Colour::Red; 5]);
    // The page that was taken out of use is the deferred error's, and is not counted again; the other one is.
    assert_eq!(replay.parts.iter().find(|part| part.place.contains("unknown DIMM")).map(|part| part.faults), Some(1));
}

#[test]
fn the_same_by_the_kernels_log() {
    for name in ["mce-epyc-hypervisor.kmsg", "mce-epyc-hypervisor.dmesg"] {
        let mut by_log = faults(&replayed(&fixture(name)));
        let mut by_trace = HYPERVISOR.map(str::to_owned);
        by_log.sort();
        by_trace.sort();
        assert_eq!(by_log, by_trace, "{name}");
    }
}

#[test]
fn amd_decoded_by_the_kernel() {
    let expected = [
        "CE memory socket0 bank4",
        "CE processor cpu1 L1 cache",
        "CE memory socket0 bank4",
        "DEFERRED memory socket0 bank4",
        "SRAO memory of an unknown DIMM",
    ];
    assert_eq!(faults(&replayed(&fixture("mce-epyc-fam15h-edac-decode.trace"))), expected);
    let mut by_log = faults(&replayed(&fixture("mce-epyc-fam15h-edac-decode.kmsg")));
    by_log.sort();
    let mut expected = expected;
    expected.sort_unstable();
    assert_eq!(by_log, expected);
}

/// What was to be seen on the serial console, all that there is of it.
#[test]
fn a_console_is_read_as_the_log_is() {
    let decoded = replayed(&fixture("mce-epyc-fam15h-edac-decode.console"));
    let expected = [
        "CE memory socket0 bank4",
        "CE processor cpu1 L1 cache",
        "CE memory socket0 bank4",
        "SRAO memory of an unknown DIMM",
        "DEFERRED memory socket0 bank4",
    ];
    assert_eq!(faults(&decoded), expected);
    let panic = replayed(&fixture("panic-amd-epyc-UC-PCC.console"));
    assert_eq!((faults(&panic), panic.verdict.colour), (vec!["FATAL memory socket0 bank4".to_owned()], Colour::Red));
}

#[test]
fn intel_recovered() {
    let expected = [
        "CE memory socket0 bank7 channel0",
        "CE processor cpu1 L2 cache",
        "SRAO memory socket0 bank9 channel0",
        "SRAO memory of an unknown DIMM",
        "UCNA processor cpu1 bank1",
        "SRAR processor cpu0 cache",
        "SRAO memory of an unknown DIMM",
        "UCNA processor cpu1 bank1",
    ];
    let replay = replayed(&fixture("mce-intel-SRAO-SRAR-recovered.trace"));
    assert_eq!(faults(&replay), expected);
    assert_eq!((replay.steps[1].colour, replay.steps[2].colour), (Colour::Green, Colour::Red));
}

#[test]
fn edac_names_the_dimm() {
    let expected = [
        "CE memory DIMM_P0_B1",
        "CE memory DIMM_P0_C2",
        "UE memory DIMM_P0_D1",
        "UE memory DIMM_P0_D1",
        "CE memory socket0 bank4",
        "CE processor cpu1 L1 cache",
    ];
    let replay = replayed(&fixture("edac-ie31200-epyc-rasdaemon-ok.trace"));
    assert_eq!(faults(&replay), expected);
    assert!(replay.verdict.why.starts_with("red: memory DIMM_P0_D1: UE"), "{}", replay.verdict.why);
    assert_eq!(faults(&replayed(&fixture("edac-ie31200-epyc-rasdaemon-ok.kmsg"))), expected);
}

#[test]
fn a_trace_and_a_log_of_the_same_faults_count_them_once() {
    let (trace, log) = (path("mce-epyc-hypervisor.trace"), path("mce-epyc-hypervisor.kmsg"));
    let counted = |paths: &[PathBuf]| {
        let replay = replay(paths, Health::new(Thresholds::default(), 64)).expect("readable");
        replay.parts.into_iter().map(|part| (part.place, part.faults)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(counted(&[trace.clone(), log]), counted(&[trace]));
}

#[test]
fn a_boot_without_errors_is_green() {
    let replay = replayed(&fixture("panic-amd-epyc-UC-PCC.kmsg"));
    assert_eq!((faults(&replay).len(), replay.verdict.colour), (0, Colour::Green));
}

/// What each group of samples is, in their order: the beginning of its `expect`, the faults found, and the health after it.
const SAMPLES: [(&str, &[&str], Colour); 29] = [
    (
        "CE count=1 dimm=CPU_SrcID#1_Ha#0_Chan#0_DIMM#0",
        &["CE memory socket1 bank11 channel2", "CE memory CPU_SrcID#1_Ha#0_Chan#0_DIMM#0"],
        Colour::Green,
    ),
    (
        "CE count=262, storm",
        &["CE memory socket0 bank7 channel1 x262", "CE memory CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 x262"],
        Colour::Red,
    ),
    ("storm marker", &[], Colour::Yellow),
    ("UE (non-fatal)", &["UE memory CPU_SrcID#1_MC#1_Chan#2_DIMM#0"], Colour::Red),
    ("FATAL (VAL|UC|EN|PCC", &["FATAL processor cpu0 bank0"], Colour::Red),
    ("FATAL", &["FATAL processor socket0 bus"], Colour::Red),
    (
        "DEFERRED (UECC|Deferred|Scrub, OVER) + memory failure Delayed",
        &["SRAO memory of an unknown DIMM", "DEFERRED memory socket0 bank18", "UE memory mc#0csrow#0channel#1"],
        Colour::Red,
    ),
    ("CE component=cpu L2", &["CE processor cpu143 L2 cache"], Colour::Green),
    ("CE with OVER", &["CE memory socket0 bank4"], Colour::Green),
    ("AER CE", &["CE pci 0000:03:04.0"], Colour::Green),
    ("AER CE", &["CE pci 10003:00:00.0"], Colour::Green),
    ("AER FATAL", &["FATAL pci 0000:00:03.0"], Colour::Red),
    ("CE fru=D2", &["CE memory D2"], Colour::Green),
    ("UE recoverable", &["UE memory B2"], Colour::Red),
    ("PCIe recoverable", &["UE pci 0000:5e:00.0"], Colour::Yellow),
    ("SRAR/poison consumed", &["SRAR memory of an unknown DIMM"], Colour::Red),
    (
        "CE count=1 bank 13; second = GHES-faked duplicate",
        &["CE memory socket0 bank13 channel0", "CE memory socket0 bank255"],
        Colour::Green,
    ),
    ("CE count=1 mc=0", &["CE memory mc#0csrow#0channel#9"], Colour::Green),
    ("AER CE. First line is WRONG", &["CE pci 0000:00:05.0", "CE pci 0000:00:05.0"], Colour::Green),
    ("memory failure Delayed", &["SRAO memory of an unknown DIMM"], Colour::Red),
    ("CE same address repeating", &["CE memory socket0 bank17", "CE memory socket0 bank17"], Colour::Green),
    ("thermal core/package", &[], Colour::Green),
    ("NVMe controller lost", &["UE block nvme0", "UE block nvme0n1"], Colour::Yellow),
    ("NVMe dead", &["UE block nvme2", "FATAL block nvme2"], Colour::Red),
    ("ATA UNC", &["UE block ata3.00"], Colour::Yellow),
    ("NOISE: Haswell erratum", &["NOISE processor cpu0 bank0"], Colour::Green),
    ("NOISE: STATUS 0", &["NOISE processor cpu0 bank9"], Colour::Green),
    ("link down", &[], Colour::Green),
    ("tx timeout", &["UE network eth0"], Colour::Yellow),
];

#[test]
fn every_sample_is_what_its_expect_says() {
    let text = fixture("samples.txt");
    let groups: Vec<&str> = text.split("# source: ").skip(1).filter(|group| group.contains("expect:")).collect();
    let known = SAMPLES.iter();
    assert_eq!(groups.len(), SAMPLES.len());
    for (group, (expect, found, colour)) in groups.iter().zip(known) {
        let wanted = group.split_once("expect: ").map_or("", |(_, rest)| rest);
        assert!(wanted.starts_with(expect), "{expect} is not the expectation of: {group}");
        let lines: String =
            group.lines().skip(1).filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let replay = replayed(&lines);
        assert_eq!(faults(&replay), *found, "{group}");
        assert_eq!(replay.verdict.colour, *colour, "{group}");
    }
}

#[test]
fn a_duplicate_made_up_by_the_kernel_is_counted_once() {
    let text = fixture("samples.txt");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("mce_record: CPU: 0, MCGc/s: f000c15")).collect();
    let replay = replayed(&lines.join("\n"));
    assert_eq!((lines.len(), replay.parts.len()), (2, 1));
    assert_eq!(replay.parts[0].faults, 1);
}
