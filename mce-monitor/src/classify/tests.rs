use super::*;
use crate::moment::Moment;
use crate::record::{Channel, MachineCheck, Vendor};

fn fault(check: MachineCheck) -> Fault {
    of(Record::MachineCheck(check), &Host::default())
}

fn of(record: Record, host: &Host) -> Fault {
    match classify(&Heard { at: Moment::default(), channel: Channel::Trace, record }, host) {
        Finding::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

fn intel(status: u64) -> MachineCheck {
    MachineCheck { vendor: Vendor::Intel, status, signature: 0x50654, address: 0x1000, ..MachineCheck::default() }
}

fn amd(status: u64) -> MachineCheck {
    MachineCheck { vendor: Vendor::Amd, status, signature: 0x80_0f12, address: 0x1000, ..MachineCheck::default() }
}

const VAL: u64 = 1 << 63;
const OVER: u64 = 1 << 62;
const UC: u64 = 1 << 61;
const MISCV: u64 = 1 << 59;
const ADDRV: u64 = 1 << 58;
const PCC: u64 = 1 << 57;
const S: u64 = 1 << 56;
const AR: u64 = 1 << 55;

#[test]
fn every_row_of_intel() {
    let rows = [
        (0, Class::Noise),
        (UC | PCC | 0x134, Class::Noise),
        (VAL | PCC, Class::Fatal),
        (VAL | 0x90, Class::Corrected),
        (VAL | UC, Class::Ucna),
        (VAL | UC | S | 0xc0, Class::Srao),
        (VAL | UC | S | 0xcf, Class::Srao),
        (VAL | UC | S | 0x17a, Class::Srao),
        (VAL | UC | 0x17a, Class::Srao),
        (VAL | UC | S | 0x90, Class::Srao),
        (VAL | UC | S | AR | ADDRV | MISCV | 0x134, Class::Srar),
        (VAL | UC | S | AR | ADDRV | MISCV | 0x150, Class::Srar),
        (VAL | UC | S | AR | ADDRV | 0x134, Class::Fatal),
        (VAL | UC | S | AR | ADDRV | MISCV | 0x135, Class::Fatal),
        (VAL | OVER | UC | S | AR | ADDRV | MISCV | 0x134, Class::Fatal),
        (VAL | UC | S | AR | ADDRV | MISCV | 0x1134, Class::Srar),
    ];
    for (status, class) in rows {
        assert_eq!(fault(intel(status)).class, class, "{status:#x}");
    }
}

#[test]
fn every_row_of_amd() {
    let deferred = 1 << 44;
    let rows = [
        (VAL | deferred | 0x135, Class::Deferred),
        (VAL | UC | deferred, Class::Deferred),
        (VAL | 0x135, Class::Corrected),
        (VAL | UC | 0x135, Class::Srar),
        (VAL | UC | PCC | deferred, Class::Fatal),
    ];
    for (status, class) in rows {
        assert_eq!(fault(amd(status)).class, class, "{status:#x}");
    }
    assert_eq!(fault(MachineCheck { in_kernel: true, ..amd(VAL | UC) }).class, Class::Fatal);
}

#[test]
fn an_exception_without_a_place_to_go_on_is_fatal() {
    assert_eq!(fault(MachineCheck { mcg_status: 4, ..intel(VAL | UC | S) }).class, Class::Fatal);
    assert_eq!(fault(MachineCheck { mcg_status: 5, ..intel(VAL | UC | S) }).class, Class::Srao);
}

#[test]
fn only_intel_counts_in_the_status() {
    let counted = VAL | 262 << 38 | 0x91;
    assert_eq!(fault(intel(counted)).count, 262);
    assert_eq!(fault(amd(counted & !(1 << 44))).count, 1);
    assert_eq!(fault(intel(counted | UC)).count, 1);
}

#[test]
fn a_scrub_that_writes_uncorrected_as_corrected() {
    let status = VAL | ADDRV | MISCV | 0x0010_00c1;
    assert_eq!(fault(MachineCheck { bank: 13, ..intel(status) }).class, Class::Srao);
    assert_eq!(fault(MachineCheck { bank: 12, ..intel(status) }).class, Class::Corrected);
    assert_eq!(fault(MachineCheck { bank: 13, ..intel(VAL | ADDRV | MISCV | 0x0008_00c2) }).class, Class::Corrected);
}

#[test]
fn the_erratum_is_noise_however_often_it_has_happened() {
    assert_eq!(fault(intel(0x9000_0040_000f_0005)).class, Class::Noise);
    assert_eq!(fault(intel(0xd000_1140_000f_0005)).class, Class::Noise);
    assert_eq!(fault(intel(0xb000_0040_000f_0005)).class, Class::Ucna);
    assert_eq!(fault(intel(0x9000_0040_000f_0006)).class, Class::Corrected);
}

#[test]
fn the_part_is_named() {
    let names = [
        (intel(VAL | 0x90), "memory socket0 bank0 channel0"),
        (intel(VAL | 0x9f), "memory socket0 bank0"),
        (intel(VAL | 0x280), "memory socket0 bank0 channel0"),
        (intel(VAL | 0x17a), "processor cpu0 L2 cache"),
        (intel(VAL | 0x135), "processor cpu0 L1 cache"),
        (intel(VAL | 0x134), "processor cpu0 cache"),
        (intel(VAL | 0x10f), "processor socket0 L3 cache"),
        (intel(VAL | 0x0f), "processor socket0 L3 cache"),
        (intel(VAL | 0x14), "processor cpu0 TLB"),
        (intel(VAL | 0xa13), "processor socket0 bus"),
        (intel(VAL | 0x400), "processor cpu0 bank0"),
        (intel(VAL | 0x1090), "memory socket0 bank0 channel0"),
        (amd(VAL | 0xa13), "memory socket0 bank0"),
        (amd(VAL | 0x135), "processor cpu0 L1 cache"),
        (amd(VAL | 0x11b), "memory socket0 bank0"),
        (MachineCheck { ipid: 0x96_0015_0f00, ..amd(VAL | 0x10a) }, "memory socket0 bank0"),
        (MachineCheck { ipid: 0xb0_0000_0000, ..amd(VAL | 0x11b) }, "processor socket0 L3 cache"),
    ];
    for (check, name) in names {
        assert_eq!(fault(check.clone()).place.to_string(), name, "{:#x}", check.status);
    }
}

#[test]
fn what_registers_have_kept_over_a_reset_is_told_from_what_is_new() {
    const BOOTED: u64 = 1_000_000;
    let host = Host { booted_unix_s: Some(BOOTED) };
    let leftover = |channel, since_boot_s, host: &Host, check| {
        let at = Moment::after_boot(std::time::Duration::from_secs(since_boot_s));
        match classify(&Heard { at, channel, record: Record::MachineCheck(check) }, host) {
            Finding::Fault(fault) => fault.leftover,
            other => panic!("{other:?}"),
        }
    };
    let at = |unix_s| MachineCheck { unix_s, ..intel(VAL | UC | PCC) };
    let in_exception = |unix_s| MachineCheck { mcg_status: 4, ..at(unix_s) };
    // All that mcelog knows is the wall clock. What was stored by the boot before was an exception.
    assert!(leftover(Channel::Mcelog, 500, &host, at(BOOTED + 3)));
    assert!(!leftover(Channel::Mcelog, 500, &host, at(BOOTED + 500)));
    assert!(!leftover(Channel::Mcelog, 500, &host, in_exception(BOOTED + 3)));
    assert!(leftover(Channel::Mcelog, 500, &host, in_exception(BOOTED - 3)));
    assert!(!leftover(Channel::Mcelog, 500, &Host::default(), at(BOOTED - 3)));
    // The log has the time since the boot, whatever the wall clock said.
    assert!(leftover(Channel::Log, 3, &host, at(BOOTED + 5000)));
    assert!(!leftover(Channel::Log, 500, &host, at(BOOTED - 5000)));
    assert!(!leftover(Channel::Log, 3, &host, in_exception(BOOTED + 3)));
    // What a tracepoint tells happens now.
    assert!(!leftover(Channel::Trace, 3, &host, at(BOOTED - 5000)));
}

#[test]
fn errors_of_requests_that_are_no_fault_of_the_device() {
    let class = |errno| {
        of(Record::Block(BlockError { device: "sda".into(), sector: 1, errno, count: 1 }), &Host::default()).class
    };
    for errno in [5, 61, 121, 110, 67, 84] {
        assert_eq!(class(errno), Class::Uncorrected, "{errno}");
    }
    for errno in [28, 95, 52] {
        assert_eq!(class(errno), Class::Noise, "{errno}");
    }
    for errno in [12, 16, 4095] {
        assert_eq!(class(errno), Class::Info, "{errno}");
    }
    assert_eq!(class(19), Class::Fatal);
}
