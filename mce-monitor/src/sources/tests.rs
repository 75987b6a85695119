use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::{MemoryError, Severity, Throttle, Vendor};

/// A message about a link, as rtnetlink(7) has it.
fn link_message(flags: u32, name: &str) -> Vec<u8> {
    let mut attribute = vec![0; 4];
    attribute.extend_from_slice(name.as_bytes());
    attribute.push(0);
    let length = u16::try_from(attribute.len()).expect("short");
    attribute[..2].copy_from_slice(&length.to_le_bytes());
    attribute[2..4].copy_from_slice(&3u16.to_le_bytes());
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    // An attribute before it that is of no interest.
    let mut message = vec![0; 32];
    message.extend_from_slice(&[8, 0, 7, 0, 1, 2, 3, 4]);
    message.extend(attribute);
    let length = u32::try_from(message.len()).expect("short");
    message[..4].copy_from_slice(&length.to_le_bytes());
    message[4..6].copy_from_slice(&16u16.to_le_bytes());
    message[24..28].copy_from_slice(&flags.to_le_bytes());
    message
}

#[test]
fn links_that_lose_their_carrier() {
    let (up, down, taken_down) = (1 | 1 << 16, 1, 0);
    let both = [link_message(up, "eth0"), link_message(down, "eth1"), link_message(taken_down, "eth2")].concat();
    let link = |interface: &str, up| Record::Link { interface: interface.to_owned(), up };
    assert_eq!(netlink::links(&both), [link("eth0", true), link("eth1", false)]);
}

#[test]
fn a_datagram_socket_stands_in_for_the_kernel() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (links, uevents) = (directory.path().join("links"), directory.path().join("uevents"));
    let sender = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let mut heard = Vec::new();
    let mut source = netlink::Links::open(&Some(links.clone())).expect("a new socket");
    sender.send_to(&link_message(1, "eth1"), &links).expect("it listens");
    assert_eq!(source.read(at(7), &mut heard).expect("readable"), Turn { more: false, lost: 0 });
    let mut source = netlink::Uevents::open(&Some(uevents.clone())).expect("a new socket");
    sender.send_to(b"change@/x\0SUBSYSTEM=nvme\0DEVNAME=nvme3\0NVME_AEN=0x020101\0", &uevents).expect("it listens");
    source.read(at(8), &mut heard).expect("readable");
    let [link, Heard { record: Record::Block(error), .. }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((link.at, &link.record), (at(7), &Record::Link { interface: "eth1".into(), up: false }));
    assert_eq!(error.device, "nvme3");
}

/// What was so before the monitor listened is told by the kernel if it is asked.
#[test]
fn links_are_known_from_the_beginning() {
    let is_up = fs::read_to_string("/sys/class/net/lo/flags").is_ok_and(|flags| {
        u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1)
    });
    if !is_up {
        return eprintln!("SKIPPED: lo is down");
    }
    let mut source = netlink::Links::open(&None).expect("everybody may listen to rtnetlink");
    let mut heard = Vec::new();
    for _ in 0..100 {
        source.read(at(1), &mut heard).expect("readable");
        if heard.iter().any(|heard| heard.record == Record::Link { interface: "lo".into(), up: true }) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{heard:?}");
}

#[test]
fn devices_that_cannot_be_recovered() {
    let failed =
        b"change@/devices/x\0ACTION=change\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:5e:00.0\0ERROR_EVENT=FAILED_RECOVERY\0";
    let Some(Record::Aer(error)) = netlink::uevent(failed) else { panic!("not told") };
    assert_eq!((error.device.as_str(), error.severity), ("0000:5e:00.0", Severity::Fatal));
    let smart = b"change@/x\0SUBSYSTEM=nvme\0DEVNAME=nvme3\0NVME_AEN=0x020101\0";
    assert!(matches!(netlink::uevent(smart), Some(Record::Block(_))));
    let notice = b"change@/x\0SUBSYSTEM=nvme\0DEVNAME=nvme3\0NVME_AEN=0x0c0002\0";
    assert_eq!(netlink::uevent(notice), None);
}

#[test]
fn a_record_of_mcelog() {
    let mut record = [0; 128];
    record[..8].copy_from_slice(&0x8c00_0040_0001_0090u64.to_le_bytes());
    record[16..24].copy_from_slice(&0x2345_6000u64.to_le_bytes());
    record[60..64].copy_from_slice(&0x50654u32.to_le_bytes());
    record[65] = 7;
    record[68..72].copy_from_slice(&3u32.to_le_bytes());
    let check = mcelog::parse(&record).expect("a record");
    assert_eq!((check.vendor, check.cpu, check.bank, check.address), (Vendor::Intel, 3, 7, 0x2345_6000));
    assert_eq!(mcelog::parse(&record[..70]), None);
}

fn at(seconds: u64) -> Moment {
    Moment::after_boot(Duration::from_secs(seconds))
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
    fs::write(path, text).expect("writable");
}

const CE_COUNT: &str = "devices/system/edac/mc/mc0/ce_count";

fn told(count: u64, channel: Channel) -> Heard {
    let error = MemoryError {
        severity: Severity::Corrected,
        controller: 0,
        label: "A1".into(),
        message: String::new(),
        count,
        address: None,
    };
    Heard { at: at(1), channel, record: Record::Memory(error) }
}

#[test]
fn what_was_counted_and_not_told_is_found_at_the_second_look() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    write(sysfs.path(), CE_COUNT, "1000\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &BTreeMap::new());
    write(sysfs.path(), CE_COUNT, "1005\n");
    // Three were told, each on two ways.
    counters.heard(&told(3, Channel::Trace));
    counters.heard(&told(3, Channel::Log));
    assert_eq!(counters.reconcile(at(60)), []);
    let found = counters.reconcile(at(120));
    let [Heard { record: Record::Memory(error), channel: Channel::Counter, .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(error.count, 2);
    assert_eq!(counters.reconcile(at(180)), []);
    // What comes next is told, and not missing because of what was found.
    write(sysfs.path(), CE_COUNT, "1006\n");
    counters.heard(&told(1, Channel::Trace));
    assert_eq!((counters.reconcile(at(240)), counters.reconcile(at(300))), (vec![], vec![]));
}

#[test]
fn what_is_counted_of_a_dimm_is_found_there() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    let mc = "devices/system/edac/mc/mc0";
    let count = |dimm: &str, count: &str| write(sysfs.path(), &format!("{mc}/{dimm}/dimm_ue_count"), count);
    for (dimm, label) in [("dimm0", "A1\n"), ("dimm3", "B1\n")] {
        write(sysfs.path(), &format!("{mc}/{dimm}/dimm_label"), label);
        count(dimm, "0\n");
    }
    write(sysfs.path(), &format!("{mc}/ue_count"), "0\n");
    write(sysfs.path(), &format!("{mc}/ce_noinfo_count"), "0\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &BTreeMap::new());
    count("dimm3", "2\n");
    write(sysfs.path(), &format!("{mc}/ue_count"), "2\n");
    counters.reconcile(at(60));
    let found = counters.reconcile(at(120));
    let [Heard { record: Record::Memory(error), .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((error.label.as_str(), error.count, error.severity), ("B1", 2, Severity::Uncorrected));
    // One that is told of no DIMM is of those that are counted of none.
    write(sysfs.path(), &format!("{mc}/ce_noinfo_count"), "3\n");
    counters.heard(&told(3, Channel::Trace));
    assert_eq!((counters.reconcile(at(180)), counters.reconcile(at(240))), (vec![], vec![]));
}

#[test]
fn what_came_while_nobody_watched_is_found() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    write(sysfs.path(), CE_COUNT, "1000\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &BTreeMap::new());
    write(sysfs.path(), CE_COUNT, "1003\n");
    counters.heard(&told(3, Channel::Trace));
    let accounted = counters.accounted();
    drop(counters);
    write(sysfs.path(), CE_COUNT, "1010\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &accounted);
    // Two of the seven are in the log, which is read from where it was left.
    counters.heard(&told(2, Channel::Log));
    counters.reconcile(at(60));
    let found = counters.reconcile(at(120));
    let [Heard { record: Record::Memory(error), .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(error.count, 5);
}

#[test]
fn a_record_that_is_late_is_not_missing() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    write(sysfs.path(), CE_COUNT, "0\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &BTreeMap::new());
    write(sysfs.path(), CE_COUNT, "1\n");
    assert_eq!(counters.reconcile(at(60)), []);
    counters.heard(&told(1, Channel::Trace));
    assert_eq!(counters.reconcile(at(120)), []);
}

#[test]
fn counters_of_other_parts() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    let (aer, disk) = ("bus/pci/devices/0000:5e:00.0/aer_dev_fatal", "block/sda/device/ioerr_cnt");
    write(sysfs.path(), aer, "Undefined 0\nDLP 0\nTOTAL_ERR_FATAL 0\n");
    write(sysfs.path(), disk, "0xe\n");
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &BTreeMap::new());
    write(sysfs.path(), aer, "Undefined 0\nDLP 2\nTOTAL_ERR_FATAL 2\n");
    write(sysfs.path(), disk, "0x10\n");
    counters.reconcile(at(60));
    let found = counters.reconcile(at(120));
    let [Heard { record: Record::Aer(pci), .. }, Heard { record: Record::Block(block), .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((pci.count, block.count), (2, 2));
    // Beside a tracepoint a disk's counter is of retries, too.
    let mut counters = Counters::new(sysfs.path(), &["block_rq_error"], at(0), &BTreeMap::new());
    write(sysfs.path(), disk, "0x20\n");
    assert_eq!((counters.reconcile(at(60)), counters.reconcile(at(120))), (vec![], vec![]));
}

#[test]
fn throttling_that_no_record_has_told() {
    let sysfs = tempfile::tempdir().expect("temporary directory");
    let core = |cpu: u32, ms: &str| {
        write(sysfs.path(), &format!("devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_total_time_ms"), ms);
    };
    let throttle = |seconds, hot| {
        let record = Record::Throttle(Throttle { cpu: 3, package: false, hot });
        Heard { at: at(seconds), channel: Channel::Log, record }
    };
    (0..4).for_each(|cpu| core(cpu, "5000\n"));
    let before = BTreeMap::from([("throttled cpu2 core".to_owned(), 1000)]);
    let mut counters = Counters::new(sysfs.path(), &[], at(0), &before);
    assert_eq!((counters.reconcile(at(1)), counters.reconcile(at(2))), (vec![], vec![]), "it is over");
    // Of one the kernel tells when it begins and ends, and counts it then.
    counters.heard(&throttle(10, true));
    counters.heard(&throttle(20, true));
    counters.heard(&throttle(40, false));
    core(3, "35000\n");
    core(1, "17000\n");
    assert_eq!(counters.reconcile(at(60)), []);
    let found = counters.reconcile(at(120));
    let [Heard { record: Record::Throttled { cpu, package, ms }, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((*cpu, *package, *ms), (1, false, 12_000));
}

proptest! {
    #[test]
    fn no_message_is_fatal(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0u32..400) {
        netlink::links(&bytes);
        netlink::uevent(&bytes);
        mcelog::parse(&bytes);
        let mut link = link_message(1, "eth0");
        link[..4].copy_from_slice(&length.to_le_bytes());
        netlink::links(&link);
        link.splice(32..34, u16::try_from(length).unwrap_or(0).to_le_bytes());
        netlink::links(&link);
    }
}
