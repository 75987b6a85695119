//! The guest: six instructions in ring 3 of long mode that write to some pages, one after the other, for ever.
//!
//! In ring 3, because that is where guests spend their time, and the same on every kind of KVM. There is no interrupt, no
//! exception and no descriptor table: nothing ever looks at one.

use super::abi::{Regs, Segment, Sregs};
use crate::memory::{Mapping, PAGE};

const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const CODE: usize = 0x10000;
/// The first word that it writes to.
pub(super) const FIRST_WORD: usize = 0x20_0000;
/// Present, writable, for ring 3.
const TABLE: u64 = 0b111;
/// The same, and it is a page of 2 MiB.
const LARGE_PAGE: u64 = 1 << 7 | TABLE;

const INSTRUCTIONS: [u8; 21] = [
    0x48, 0x89, 0xfe, // again: mov rsi, rdi
    0x89, 0xd1, //              mov ecx, edx
    0x48, 0xff, 0x06, // next:  inc qword [rsi]
    0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, // add rsi, 4096
    0xff, 0xc9, //              dec ecx
    0x75, 0xf2, //              jnz next
    0xeb, 0xeb, //              jmp again
];

/// Puts the guest and its page tables, which map the first GiB to itself, into memory.
pub(super) fn write(memory: &mut Mapping) {
    memory.write(PML4, &(PDPT as u64 | TABLE).to_le_bytes());
    memory.write(PDPT, &(PD as u64 | TABLE).to_le_bytes());
    for index in 0..512 {
        memory.write(PD + 8 * index, &((index as u64) << 21 | LARGE_PAGE).to_le_bytes());
    }
    memory.write(CODE, &INSTRUCTIONS);
}

/// Its registers at the beginning, if it is to write to that many pages.
pub(super) fn regs(pages: usize) -> Regs {
    assert!(FIRST_WORD + pages * PAGE <= 64 << 20, "more pages than the smallest guest has");
    Regs { rdi: FIRST_WORD as u64, rdx: pages as u64, rip: CODE as u64, rflags: 1 << 1, ..Regs::default() }
}

/// Its system registers, made from those after a reset.
pub(super) fn sregs(reset: &Sregs) -> Sregs {
    // Types: 11 is code that can be read, 3 is data that can be written, both accessed.
    let segment = Segment { limit: u32::MAX, present: 1, dpl: 3, s: 1, g: 1, ..Segment::default() };
    let code = Segment { selector: 0x33, kind: 11, l: 1, ..segment };
    let data = Segment { selector: 0x2b, kind: 3, db: 1, ..segment };
    Sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // PE, MP, ET, NE, WP, PG.
        cr0: 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31,
        cr3: PML4 as u64,
        // PAE, OSFXSR, OSXMMEXCPT.
        cr4: 1 << 5 | 1 << 9 | 1 << 10,
        // LME, LMA.
        efer: 1 << 8 | 1 << 10,
        ..*reset
    }
}
