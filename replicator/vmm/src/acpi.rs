//! The ACPI tables: how a guest finds its processors, interrupt lines and devices, how it turns itself off, and how it learns that it is
//! asked to (ACPI 6.5).
//!
//! The hardware is full ACPI with PM1 registers, not "hardware-reduced". Reduced, Linux takes it that there is neither PIC nor PIT
//! (`acpi_generic_reduced_hw_init`), and is left with the LAPIC timer, which it can only calibrate if KVM has TSC_DEADLINE; here
//! both are in the kernel anyway, and saved with every checkpoint. And the fixed power button needs no AML, no GPE and no event device:
//! a status bit and an interrupt. There is no PM timer and no RTC: guests keep time by kvmclock or the TSC, and KVM tells them the time of day.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use kemari_devices::{I8042, MMIO_BYTES, PowerManagement, Pvpanic, Serial, Watchdog};

use crate::boot::Slot;
use crate::devices::{
    KEYBOARD_IRQ, KEYBOARD_PORT, PANIC_PORT, POWER_IRQ, POWER_PORT, SERIAL_IRQ, SERIAL_PORT, WATCHDOG_PORT,
};
use crate::mptable::{IOAPIC_ADDRESS, LAPIC_ADDRESS};

const OEM: [u8; 6] = *b"KEMARI";
const OEM_TABLE: [u8; 8] = *b"GUEST   ";
const OEM_REVISION: u32 = 1;
/// Bytes of a table's header.
const HEADER_BYTES: u32 = 36;
/// The revision of a DSDT from which on integers have 64 bits, and that of a MADT of ACPI 6.5.
const DSDT_REVISION: u8 = 2;
const MADT_REVISION: u8 = 5;
const WDAT_REVISION: u8 = 1;

/// MADT: there are PICs, too.
const PCAT_COMPAT: u32 = 1;
/// MADT, interrupts: polarity active-high, triggered by edge.
const HIGH_EDGE: u16 = 1 | 1 << 2;
/// IA-PC boot flags: devices on ISA's ports; a keyboard controller; no VGA; no RTC.
const BOOT_ARCH: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 5;
/// What makes the keyboard controller reset the machine.
const RESET_VALUE: u8 = 0xfe;

/// Tables by address, beginning at `start`, where the root pointer is. `start` is a multiple of 64.
pub(crate) fn tables(start: u64, vcpus: u8, slots: &[Slot], watchdog: bool) -> Vec<u8> {
    let mut place = Place { start, bytes: vec![0; Rsdp::len()] };
    let facs = place.add(&bytes_of(&FACS::new()));
    let dsdt = place.add(dsdt(slots).as_slice());
    let fadt = place.add(&fadt(dsdt, facs));
    let madt = place.add(madt(vcpus).as_slice());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if watchdog {
        xsdt.add_entry(place.add(wdat().as_slice()));
    }
    let xsdt = place.add(&bytes_of(&xsdt));
    place.bytes[..Rsdp::len()].copy_from_slice(&bytes_of(&Rsdp::new(OEM, xsdt)));
    place.bytes
}

/// Where tables are put, one behind the other.
struct Place {
    start: u64,
    bytes: Vec<u8>,
}

impl Place {
    /// Adds a table. Returns its address: a multiple of 64, as a FACS must have.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = self.start + self.bytes.len() as u64;
        self.bytes.extend(table);
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: &[u8; 4], revision: u8, content: &[u8]) -> Sdt {
    let mut table = Sdt::new(*signature, HEADER_BYTES, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(content);
    table
}

/// The fixed hardware. Without SMI command port the machine is always in ACPI mode.
fn fadt(dsdt: u64, facs: u64) -> Vec<u8> {
    let [event, control] = PowerManagement::REGISTERS.map(|(offset, bytes)| (POWER_PORT + offset, bytes));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_64(facs)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // There is no sleep button, and no RTC to be woken by. That the flag of the power button is not set says that it is one.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = (POWER_IRQ as u16).into();
    fadt.pm1a_evt_blk = (event.0 as u32).into();
    fadt.pm1_evt_len = event.1;
    fadt.pm1a_cnt_blk = (control.0 as u32).into();
    fadt.pm1_cnt_len = control.1;
    // As extended addresses, too: those are looked at first.
    let ports = |(port, bytes)| GAS::new(AddressSpace::SystemIo, bytes * 8, 0, AccessSize::WordAccess, port);
    fadt.x_pm1a_evt_blk = ports(event);
    fadt.x_pm1a_cnt_blk = ports(control);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    let command = KEYBOARD_PORT + I8042::COMMAND_PORT;
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, command);
    fadt.reset_value = RESET_VALUE;
    // No C2 and C3 (ACPI 6.5, table 5.9).
    (fadt.p_lvl2_lat, fadt.p_lvl3_lat) = (0x0fff.into(), 0x0fff.into());
    bytes_of(&fadt.finalize())
}

/// The processors and interrupt lines. KVM wires line n to pin n, also the timer's.
fn madt(vcpus: u8) -> Sdt {
    let mut content = Vec::new();
    content.extend(LAPIC_ADDRESS.to_le_bytes());
    content.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut content);
    }
    IoApic::new(vcpus, IOAPIC_ADDRESS, 0).to_aml_bytes(&mut content);
    // Interrupt source override: that of ACPI events would be triggered by level, and what raises it here gives a pulse.
    let [flags_low, flags_high] = HIGH_EDGE.to_le_bytes();
    content.extend([2, 10, 0, POWER_IRQ as u8]);
    content.extend(POWER_IRQ.to_le_bytes());
    content.extend([flags_low, flags_high]);
    // The NMI, at LINT1 of every LAPIC.
    content.extend([4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", MADT_REVISION, &content)
}

/// The watchdog: how it is worked, as a list of actions and the register and value for each.
fn wdat() -> Sdt {
    /// It is enabled; it does not count in sleep states.
    const FLAGS: u8 = 1 | 1 << 7;
    /// No PCI device.
    const LOCATION: [u8; 5] = [0xff, 0, 0xff, 0xff, 0xff];
    const READ_VALUE: u8 = 0;
    const READ_COUNTDOWN: u8 = 1;
    const WRITE_VALUE: u8 = 2;
    const WRITE_COUNTDOWN: u8 = 3;
    let [countdown, left, control] = Watchdog::REGISTERS.map(|offset| WATCHDOG_PORT + offset);
    let words = |port| GAS::new(AddressSpace::SystemIo, 16, 0, AccessSize::WordAccess, port);
    let bytes = |port| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port);
    // Action, instruction, register, value, mask.
    let actions = [
        (1, WRITE_VALUE, words(left), 0, 0xffff),          // come by
        (4, READ_COUNTDOWN, words(left), 0, 0xffff),       // what is left
        (5, READ_COUNTDOWN, words(countdown), 0, 0xffff),  // what was set
        (6, WRITE_COUNTDOWN, words(countdown), 0, 0xffff), // set
        (8, READ_VALUE, bytes(control), 1, 1),             // whether it runs
        (9, WRITE_VALUE, bytes(control), 1, 1),            // set it going
        (10, READ_VALUE, bytes(control), 0, 1),            // whether it stands
        (11, WRITE_VALUE, bytes(control), 0, 1),           // stop it
    ];
    let mut content = Vec::new();
    content.extend(32u32.to_le_bytes());
    content.extend(LOCATION);
    content.extend([0; 3]);
    content.extend(Watchdog::TICK_MS.to_le_bytes());
    content.extend(u32::from(Watchdog::TICKS_MAX).to_le_bytes());
    content.extend(u32::from(Watchdog::TICKS_MIN).to_le_bytes());
    content.extend([FLAGS, 0, 0, 0]);
    content.extend((actions.len() as u32).to_le_bytes());
    for (action, instruction, register, value, mask) in actions {
        content.extend([action, instruction, 0, 0]);
        register.to_aml_bytes(&mut content);
        content.extend(u32::to_le_bytes(value));
        content.extend(u32::to_le_bytes(mask));
    }
    table(b"WDAT", WDAT_REVISION, &content)
}

/// The devices: virtio over MMIO, serial port, keyboard, panic notifier; and what to write to PM1 control to be off.
fn dsdt(slots: &[Slot]) -> Sdt {
    let mut devices = Vec::new();
    for (index, slot) in (0u8..).zip(slots) {
        add_virtio(index, slot, &mut devices);
    }
    add_isa("COM1", "PNP0501", &[(SERIAL_PORT, Serial::PORTS)], SERIAL_IRQ, &mut devices);
    let keyboard = [(KEYBOARD_PORT, 1), (KEYBOARD_PORT + I8042::COMMAND_PORT, 1)];
    add_isa("PS2K", "PNP0303", &keyboard, KEYBOARD_IRQ, &mut devices);
    let ports = IO::new(PANIC_PORT as u16, PANIC_PORT as u16, 1, Pvpanic::PORTS as u8);
    add_device("PEVT", &"QEMU0001", 0, vec![&ports], &mut devices);
    let mut content = Scope::raw(Path::new("_SB_"), devices);
    let sleep_type = PowerManagement::SLEEP_TYPE_OFF;
    Name::new(Path::new("_S5_"), &Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8])).to_aml_bytes(&mut content);
    table(b"DSDT", DSDT_REVISION, &content)
}

/// A virtio device, by the name that Linux's driver virtio_mmio knows.
fn add_virtio(index: u8, slot: &Slot, into: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, slot.base as u32, MMIO_BYTES as u32);
    let interrupt = edge(slot.irq);
    let name = format!("VR{index:02X}");
    add_device(&name, &"LNRO0005", index, vec![&registers, &interrupt], into);
}

/// A device of old, with its ports.
fn add_isa(name: &str, id: &str, ports: &[(u64, u64)], irq: u32, into: &mut Vec<u8>) {
    let ports: Vec<IO> =
        ports.iter().map(|(port, bytes)| IO::new(*port as u16, *port as u16, 1, *bytes as u8)).collect();
    let interrupt = edge(irq);
    let resources = ports.iter().map(|ports| ports as &dyn Aml).chain([&interrupt as &dyn Aml]).collect();
    add_device(name, &EISAName::new(id), 0, resources, into);
}

fn add_device(name: &str, id: &dyn Aml, index: u8, resources: Vec<&dyn Aml>, into: &mut Vec<u8>) {
    let id = Name::new(Path::new("_HID"), id);
    let index = Name::new(Path::new("_UID"), &index);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    Device::new(Path::new(name), vec![&id, &index, &resources]).to_aml_bytes(into);
}

/// An interrupt line for one device, raised by a pulse.
fn edge(line: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0xe_0000;

    fn sample(vcpus: u8) -> Vec<u8> {
        tables(START, vcpus, &[Slot { base: 0xd000_0000, irq: 5 }, Slot { base: 0xd000_1000, irq: 16 }], true)
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// The table at an address, which must add up.
    fn table_at(all: &[u8], address: u32) -> &[u8] {
        let begin = (u64::from(address) - START) as usize;
        let table = &all[begin..begin + word(all, begin + 4) as usize];
        let is_facs = table.starts_with(b"FACS");
        assert!(is_facs || table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0, "{:x?}", &table[..4]);
        table
    }

    #[test]
    fn a_guest_finds_its_way_from_the_root_to_every_table() {
        let all = sample(2);
        assert!(all.starts_with(b"RSD PTR "));
        let xsdt = table_at(&all, word(&all, 24));
        assert!(xsdt.starts_with(b"XSDT"));
        let fadt = table_at(&all, word(xsdt, 36));
        assert!(fadt.starts_with(b"FACP"));
        let facs = word(fadt, 132);
        assert!(table_at(&all, facs).starts_with(b"FACS") && facs.is_multiple_of(64));
        assert!(table_at(&all, word(fadt, 140)).starts_with(b"DSDT"));
        assert!(table_at(&all, word(xsdt, 44)).starts_with(b"APIC"));
    }

    #[test]
    fn the_fixed_hardware_is_where_the_devices_are() {
        let all = sample(1);
        let fadt = table_at(&all, word(table_at(&all, word(&all, 24)), 36));
        let port = |at: usize| u64::from(word(fadt, at));
        assert_eq!((port(56), port(64)), (POWER_PORT, POWER_PORT + 4), "PM1a event and control");
        assert_eq!((port(148 + 4), port(172 + 4)), (POWER_PORT, POWER_PORT + 4), "the same, extended");
        assert_eq!(word(fadt, 112) & (1 << 20 | 1 << 4), 0, "full hardware with a power button");
        assert_eq!((port(116 + 4), fadt[128]), (0x64, 0xfe), "reset");
    }

    #[test]
    fn every_processor_has_its_entry() {
        for vcpus in 1..=crate::VCPUS_MAX {
            let all = sample(vcpus);
            let madt = table_at(&all, word(table_at(&all, word(&all, 24)), 44));
            let mut types = Vec::new();
            let mut at = 44;
            while at < madt.len() {
                types.push(madt[at]);
                at += usize::from(madt[at + 1]);
            }
            assert_eq!(types.iter().filter(|kind| **kind == 0).count(), usize::from(vcpus));
            assert_eq!(types[usize::from(vcpus)..], [1, 2, 4]);
        }
    }

    #[test]
    fn the_watchdog_is_where_its_registers_are() {
        let all = sample(1);
        let wdat = table_at(&all, word(table_at(&all, word(&all, 24)), 52));
        assert!(wdat.starts_with(b"WDAT") && wdat[40..45] == [0xff, 0, 0xff, 0xff, 0xff], "as Linux wants it");
        assert_eq!((word(wdat, 36), word(wdat, 48), wdat[60]), (32, Watchdog::TICK_MS, 0x81));
        let entries = word(wdat, 64) as usize;
        assert_eq!(wdat.len(), 68 + entries * 24);
        for entry in wdat[68..].chunks(24) {
            let (port, bytes) = (u64::from(word(entry, 8)), u64::from(entry[7]));
            let window = WATCHDOG_PORT..WATCHDOG_PORT + Watchdog::PORTS;
            assert!(entry[4] == 1 && window.contains(&port) && window.end >= port + bytes, "{entry:x?}");
        }
        assert!(!tables(START, 1, &[], false).windows(4).any(|name| name == b"WDAT"));
    }

    #[test]
    fn as_many_devices_fit_as_there_are_lines() {
        let slots: Vec<Slot> = crate::devices::VIRTIO_IRQS.map(|irq| Slot { base: 0xd000_0000, irq }).into();
        assert!(tables(START, crate::VCPUS_MAX, &slots, true).len() < 0x1_0000);
    }
}
