//! Every field of the vCPUs' saved state, set by a guest to what it is not at a reset, comes back byte for byte from another machine.
//!
//! On a KVM by real hardware, or an emulation of it: where ring 0 is emulated instruction by instruction, as by KVM without VT-x or
//! AMD-V, much of this state does not exist.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{ENTRY, Guest, booted, has_kvm, unbooted};

/// Where the guest says that it is ready.
const READY: u64 = 0x9000;
const HANDLER: u64 = 0x11_0000;
const DESCRIPTORS: u64 = 0x12_0000;
const INTERRUPTS: u64 = 0x12_1000;
const DATA: u64 = 0x12_2000;
/// The page at which the second vCPU starts.
const STARTED: u64 = 0x8000;

const LAPIC: u32 = 0xfee0_0000;
const LAPIC_REGISTERS: [(u32, u32); 10] = [
    (0x80, 0x20),        // TPR
    (0xd0, 0x0200_0000), // LDR
    (0xf0, 0x1fe),       // spurious vector, enabled
    (0x320, 0x4_00ec),   // timer: by TSC deadline
    (0x340, 0x1_00ed),   // counters, masked
    (0x350, 0x700),      // LINT0: ExtINT
    (0x360, 0x1_0400),   // LINT1: NMI, masked
    (0x370, 0xfe),       // errors
    (0x3e0, 0xb),        // divider
    (0x380, 0),          // initial count
];
/// Number, high and low half: of those that Linux uses.
const MSRS: [(u32, u32, u32); 17] = [
    (0x277, 0x0007_0106, 0x0007_0106),       // PAT
    (0x2ff, 0, 0xc06),                       // MTRR default type
    (0x250, 0x0606_0606, 0x0606_0606),       // MTRR of the first 512 KiB
    (0x200, 0, 0xc000_0000),                 // MTRR 0: base
    (0x201, 0xff, 0xc000_0800),              // and mask
    (0xc000_0080, 0, 0x801),                 // EFER: SCE, NXE
    (0xc000_0081, 0x0023_0010, 0x1234),      // STAR
    (0xc000_0082, 0xffff_ffff, 0x8100_1234), // LSTAR
    (0xc000_0083, 0xffff_ffff, 0x8100_5678), // CSTAR
    (0xc000_0084, 0, 0x4_7700),              // SFMASK
    (0xc000_0102, 0xffff_8880, 0x1234_5000), // KernelGSBase
    (0xc000_0103, 0, 7),                     // TSC_AUX
    (0x174, 0, 0x10),                        // SYSENTER_CS
    (0x175, 0, 0x1111_0000),                 // and its stack
    (0x176, 0, 0x2222_0000),                 // and its entry
    (0x4b56_4d01, 0, 0xa001),                // kvmclock
    (0x6e0, 0x7000_0000, 0x1234),            // TSC deadline, far away
];
const DEBUG_ADDRESSES: [u32; 4] = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444];
/// Local breakpoint 0, by execution.
const DR7: u32 = 0x401;
const MXCSR: u32 = 0x1f81;

/// `mov dword [address], value`
fn store(address: u32, value: u32) -> Vec<u8> {
    [&[0xc7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// `mov eax, value` and what follows
fn with_eax(value: u32, then: &[u8]) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), then].concat()
}

fn wrmsr((msr, high, low): (u32, u32, u32)) -> Vec<u8> {
    [&[0xb9][..], &msr.to_le_bytes(), &[0xba], &high.to_le_bytes(), &with_eax(low, &[0x0f, 0x30])].concat()
}

/// An interrupt to the vCPU with this APIC's number.
fn send(to: u32, command: u32) -> Vec<u8> {
    [store(LAPIC + 0x310, to << 24), store(LAPIC + 0x300, command)].concat()
}

fn at(address: u64) -> [u8; 4] {
    (address as u32).to_le_bytes()
}

/// The first vCPU: 32 bits, flat.
fn first() -> Vec<u8> {
    let mut code = Vec::new();
    let own_code = [&[0xea][..], &at(ENTRY + 14), &[8, 0]].concat();
    code.extend([&[0x0f, 0x01, 0x15][..], &at(DATA + 0x100), &own_code].concat()); // lgdt; jmp 8:
    code.extend(with_eax(0x10, &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0])); // ds, es, ss
    code.extend([0xbc, 0, 0, 0x13, 0]); // mov esp, 0x130000
    code.extend([&[0x0f, 0x01, 0x1d][..], &at(DATA + 0x110)].concat()); // lidt
    code.extend([0x0f, 0x20, 0xc0, 0x25, 0xf3, 0xff, 0xff, 0xff, 0x0f, 0x22, 0xc0]); // cr0: no EM, no TS
    code.extend([0x0f, 0x20, 0xe0, 0x0d, 0, 6, 0, 0, 0x0f, 0x22, 0xe0]); // cr4: OSFXSR, OSXMMEXCPT
    code.extend([0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb]); // fninit; fld1; fldpi
    code.extend([&[0x0f, 0xae, 0x15][..], &at(DATA + 0x120)].concat()); // ldmxcsr
    for register in 0..8 {
        code.extend([&[0x0f, 0x10, 0x05 | register << 3][..], &at(DATA + u64::from(register) * 16)].concat()); // movups
    }
    for (register, address) in (0..).zip(DEBUG_ADDRESSES) {
        code.extend(with_eax(address, &[0x0f, 0x23, 0xc0 | register << 3]));
    }
    code.extend(with_eax(DR7, &[0x0f, 0x23, 0xf8]));
    LAPIC_REGISTERS.iter().for_each(|(register, value)| code.extend(store(LAPIC + register, *value)));
    MSRS.iter().for_each(|msr| code.extend(wrmsr(*msr)));
    code.extend(send(1, 0x4500)); // INIT
    code.extend(send(1, 0x4600 | (STARTED >> 12) as u32));
    code.extend(send(2, 0x4500));
    code.extend(send(0, 0x4400)); // NMI
    code.extend([0xeb, 0xfe]);
    code
}

/// The handler of the NMI, during which another one comes, which waits.
fn handler() -> Vec<u8> {
    [send(0, 0x4400), store(READY as u32, 1), vec![0xeb, 0xfe]].concat()
}

fn pieces() -> Vec<(u64, Vec<u8>)> {
    let descriptors = [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    let mut gates = vec![0; 3 * 8];
    gates[16..24].copy_from_slice(&(HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32 | (HANDLER >> 16) << 48).to_le_bytes());
    let mut data: Vec<u8> = (0..0x80).map(|byte| byte ^ 0xa5).collect();
    data.resize(0x130, 0);
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x100, &[&23u16.to_le_bytes()[..], &at(DESCRIPTORS)].concat());
    put(0x110, &[&23u16.to_le_bytes()[..], &at(INTERRUPTS)].concat());
    put(0x120, &MXCSR.to_le_bytes());
    vec![
        (ENTRY, first()),
        (HANDLER, handler()),
        (DESCRIPTORS, descriptors.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect()),
        (INTERRUPTS, gates),
        (DATA, data),
        (STARTED, vec![0xfa, 0xf4, 0xeb, 0xfd]), // cli; hlt
    ]
}

/// The sections of a saved state: `kind length u8 | kind | instance u8 | version u16 | length u32 | bytes`, and where its bytes are.
fn sections(state: &[u8]) -> BTreeMap<String, std::ops::Range<usize>> {
    let mut sections = BTreeMap::new();
    let mut next = 4;
    while next < state.len() {
        let kind = next + 1..next + 1 + usize::from(state[next]);
        let name = format!("{}{}", std::str::from_utf8(&state[kind.clone()]).expect("text"), state[kind.end]);
        let length = u32::from_le_bytes(state[kind.end + 3..kind.end + 7].try_into().expect("four bytes"));
        let bytes = kind.end + 7..kind.end + 7 + length as usize;
        next = bytes.end;
        sections.insert(name, bytes);
    }
    sections
}

/// The fields of a vCPU's section, in their order, with their sizes; what is behind them is XSAVE's area and the MSRs.
const FIELDS: [(&str, usize); 11] = [
    ("shut_down", 1),
    ("mp_state", 4),
    ("regs", 144),
    ("sregs", 320),
    ("xcrs", 392),
    ("debugregs", 128),
    ("lapic", 1024),
    ("tsc", 8),
    ("tsc_offset", 8),
    ("tsc_deadline", 8),
    ("events", 64),
];

/// A state, and where its fields are.
struct Saved(Vec<u8>);

impl Saved {
    fn of(guest: &mut Guest) -> Saved {
        Saved(guest.machine.save().expect("saved"))
    }

    fn place(&self, vcpu: u8, name: &str) -> std::ops::Range<usize> {
        let mut begin = sections(&self.0)[&format!("vcpu{vcpu}")].start;
        for (field, bytes) in FIELDS {
            if field == name {
                return begin..begin + bytes;
            }
            begin += bytes;
        }
        begin..sections(&self.0)[&format!("vcpu{vcpu}")].end
    }

    fn field(&self, vcpu: u8, name: &str) -> &[u8] {
        &self.0[self.place(vcpu, name)]
    }

    fn u64(&self, vcpu: u8, name: &str) -> u64 {
        u64::from_le_bytes(self.field(vcpu, name).try_into().expect("eight bytes"))
    }

    fn lapic(&self, register: usize) -> u32 {
        let bytes = &self.field(0, "lapic")[register..register + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    fn has(&self, vcpu: u8, name: &str, bytes: &[u8]) -> bool {
        self.field(vcpu, name).windows(bytes.len()).any(|window| window == bytes)
    }
}

const VCPUS: u8 = 3;
const EVERYTHING_ELSE: &str = "xsave and msrs";

/// That the guest did set what it should have.
fn assert_set(saved: &Saved) {
    let mp_states: Vec<u8> = (0..VCPUS).map(|vcpu| saved.field(vcpu, "mp_state")[0]).collect();
    assert_eq!(mp_states, [0, 3, 2], "runnable, halted, INIT received");
    for register in 0..8u8 {
        let bytes: Vec<u8> = (register * 16..register * 16 + 16).map(|byte| byte ^ 0xa5).collect();
        assert!(saved.has(0, EVERYTHING_ELSE, &bytes), "xmm{register}");
    }
    assert!(saved.has(0, EVERYTHING_ELSE, &0x3fff_8000_0000_0000_0000_u128.to_le_bytes()[..10]), "1.0 in the FPU");
    for (register, address) in DEBUG_ADDRESSES.iter().enumerate() {
        assert_eq!(saved.field(0, "debugregs")[register * 8..register * 8 + 4], address.to_le_bytes(), "dr{register}");
    }
    assert!(saved.has(0, "debugregs", &DR7.to_le_bytes()), "dr7");
    for (register, value) in LAPIC_REGISTERS {
        assert_eq!(saved.lapic(register as usize), value, "lapic {register:#x}");
    }
    for (msr, high, low) in MSRS {
        let value = u64::from(high) << 32 | u64::from(low);
        if msr == 0x6e0 {
            assert_eq!(saved.u64(0, "tsc_deadline"), value);
        } else if msr == 0xc000_0080 {
            assert!(saved.has(0, "sregs", &value.to_le_bytes()), "EFER");
        } else {
            // kvm_msr_entry: index, reserved, data.
            let entry = [&msr.to_le_bytes()[..], &[0; 4], &value.to_le_bytes()].concat();
            assert!(saved.has(0, EVERYTHING_ELSE, &entry), "MSR {msr:#x}");
        }
    }
    let events = saved.field(0, "events");
    assert_eq!(events[12..15], [0, 1, 1], "an NMI is served, another waits: {events:?}");
}

/// That `later` is `earlier` in another machine: every byte but those of the fields where time shows, and these go on.
fn assert_same(earlier: &Saved, later: &Saved) {
    for vcpu in 0..VCPUS {
        for (name, _) in FIELDS.into_iter().chain([(EVERYTHING_ELSE, 0)]) {
            let (before, after) = (earlier.field(vcpu, name), later.field(vcpu, name));
            let differs: Vec<usize> =
                (0..before.len().max(after.len())).filter(|at| before.get(*at) != after.get(*at)).collect();
            match name {
                "tsc" => assert!(later.u64(vcpu, name) > earlier.u64(vcpu, name), "vcpu{vcpu}: the TSC goes on"),
                // Against the host's TSC, which went on since.
                "tsc_offset" => assert!(later.u64(vcpu, name) != earlier.u64(vcpu, name)),
                _ => assert!(differs.is_empty(), "vcpu{vcpu} {name} differs at {differs:x?}\n{before:x?}\n{after:x?}"),
            }
        }
        assert_eq!(later.u64(vcpu, "tsc_offset"), later.u64(0, "tsc_offset"), "vcpu{vcpu} is in step");
    }
    let (of_earlier, of_later) = (sections(&earlier.0), sections(&later.0));
    assert_eq!(of_earlier.keys().collect::<Vec<_>>(), of_later.keys().collect::<Vec<_>>());
    for (name, place) in of_earlier.iter().filter(|(name, _)| !name.starts_with("vcpu")) {
        let (mut before, mut after) = (earlier.0[place.clone()].to_vec(), later.0[of_later[name].clone()].to_vec());
        match name.as_str() {
            "clock0" => {
                let ns = |clock: &[u8]| u64::from_le_bytes(clock[..8].try_into().expect("eight bytes"));
                assert!(ns(&after) > ns(&before), "kvmclock goes on");
                [&mut before, &mut after].iter_mut().for_each(|clock| clock[..8].fill(0));
            }
            // `count_load_time` of the three channels of a kvm_pit_state2: by the host's clock.
            "chips0" => {
                for channel in 0..3 {
                    let time = channel * 24 + 16..channel * 24 + 24;
                    [&mut before, &mut after].iter_mut().for_each(|chips| chips[time.clone()].fill(0));
                }
            }
            _ => {}
        }
        assert_eq!(before, after, "{name}");
    }
}

/// The state in a machine that has never run.
fn moved(guest: &Guest, saved: &Saved, pieces: &[(u64, &[u8])]) -> Guest {
    let other = unbooted(pieces, VCPUS);
    other.write_memory(&guest.memory());
    let mut other = other;
    other.machine.load(&saved.0).expect("loaded");
    other
}

#[test]
fn every_field_comes_back() {
    if !has_kvm() {
        return;
    }
    if !["kvm_amd", "kvm_intel"].iter().any(|module| std::path::Path::new("/sys/module").join(module).exists()) {
        eprintln!("SKIPPED: not on kvm_amd or kvm_intel");
        return;
    }
    let pieces = pieces();
    let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(address, bytes)| (*address, &bytes[..])).collect();
    let mut guest = booted(&pieces, VCPUS);
    for _ in 0..50 {
        guest.run_for(Duration::from_millis(100));
        if guest.word(READY) == 1 {
            break;
        }
    }
    assert_eq!(guest.word(READY), 1, "the guest did not come to its end");
    let saved = Saved::of(&mut guest);
    assert_set(&saved);
    let mut other = moved(&guest, &saved, &pieces);
    assert_same(&saved, &Saved::of(&mut other));

    // An exception on its way, which no guest can be caught at: a general protection fault with an error code (kvm_vcpu_events).
    let mut faulting = Saved(saved.0.clone());
    let events = faulting.place(0, "events").start;
    faulting.0[events..events + 8].copy_from_slice(&[1, 13, 1, 0, 0x34, 0x12, 0, 0]);
    let mut third = moved(&guest, &faulting, &pieces);
    assert_same(&faulting, &Saved::of(&mut third));
}
