//! The MP table: how a guest without ACPI finds its processors and interrupt lines (Intel MultiProcessor Specification 1.4).

/// Where every LAPIC is.
pub(crate) const LAPIC_ADDRESS: u32 = 0xfee0_0000;
/// Where the IOAPIC is.
pub(crate) const IOAPIC_ADDRESS: u32 = 0xfec0_0000;
/// Of the LAPIC and IOAPIC that KVM has.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const IOAPIC_PINS: u8 = 24;
const ISA_BUS: u8 = 0;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const TYPE_INT: u8 = 0;
const TYPE_NMI: u8 = 1;
const TYPE_EXTINT: u8 = 3;

const POINTER_BYTES: u64 = 16;
const CHECKSUM_AT: usize = 7;
const POINTER_CHECKSUM_AT: usize = 10;

/// The floating pointer, to be put at `address`, and behind it the table for `vcpus` processors.
pub(crate) fn table(address: u64, vcpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        const ENABLED: u8 = 1;
        const BOOTS: u8 = 2;
        let flags = if id == 0 { ENABLED | BOOTS } else { ENABLED };
        // Signature and features: a Pentium Pro with FPU, CX8 and APIC. A guest asks CPUID.
        add(&[PROCESSOR, id, LAPIC_VERSION, flags, 0, 6, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    add(b"\x01\x00ISA   ");
    let ioapic_id = vcpus;
    let [a, b, c, d] = IOAPIC_ADDRESS.to_le_bytes();
    add(&[IOAPIC, ioapic_id, IOAPIC_VERSION, 1, a, b, c, d]);
    for line in 0..IOAPIC_PINS {
        // Polarity and trigger as the bus has it: ISA's lines are edge-triggered. KVM wires line n to pin n.
        add(&[INTERRUPT, TYPE_INT, 0, 0, ISA_BUS, line, ioapic_id, line]);
    }
    add(&[LOCAL_INTERRUPT, TYPE_EXTINT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[LOCAL_INTERRUPT, TYPE_NMI, 0, 0, ISA_BUS, 0, 0xff, 1]);
    debug_assert_eq!(entries.get(usize::from(vcpus) * 20), Some(&BUS));

    let mut table = Vec::new();
    table.extend(b"PCMP");
    table.extend((44 + entries.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"KEMARI  GUEST       ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LAPIC_ADDRESS.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[CHECKSUM_AT] = checksum(&table);

    let mut all = Vec::new();
    all.extend(b"_MP_");
    all.extend(((address + POINTER_BYTES) as u32).to_le_bytes());
    all.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    all[POINTER_CHECKSUM_AT] = checksum(&all);
    all.extend(table);
    all
}

/// The byte that makes all bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_adds_up_and_fits_its_kibibyte() {
        for vcpus in 1..=crate::VCPUS_MAX {
            let all = table(0x9_fc00, vcpus);
            assert!(all.len() <= 1024);
            let (pointer, table) = all.split_at(16);
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(pointer), sum(table)), (0, 0));
            assert_eq!(u32::from_le_bytes(pointer[4..8].try_into().expect("four")), 0x9_fc10);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert_eq!(u16::from_le_bytes([table[34], table[35]]), u16::from(vcpus) + 2 + 24 + 2);
            assert_eq!(table.len(), 44 + usize::from(vcpus) * 20 + (2 + 24 + 2) * 8);
        }
    }
}
