//! How the guest begins: an ELF kernel by its PVH entry (Xen `docs/misc/pvh.pandoc`, `public/arch-x86/hvm/start_info.h`).

use std::fs::File;
use std::path::Path;

use kemari_devices::Memory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs2};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{HOLE_END, HOLE_START};
use crate::{Error, MachineConfig, mptable};

const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6100;
const MEMORY_MAP: u64 = 0x7000;
const CMDLINE: u64 = 0x2_0000;
/// Linux takes no more than 2048.
const CMDLINE_BYTES_MAX: usize = 0x1_0000;
/// Where the last KiB of base memory begins, in which a guest looks for the MP table.
const BASE_MEMORY_END: u64 = 0x9_fc00;
/// Where RAM goes on after video memory and BIOS.
const HIGH_MEMORY: u64 = 0x10_0000;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Loads kernel and initial RAM disk into `memory`, which is all zero, and what they must be told. Returns the kernel's entry.
pub(crate) fn load(config: &MachineConfig, devices: &str, memory: &Memory) -> Result<u64, Error> {
    let entry = load_kernel(&config.kernel, memory)?;
    let initrd = config.initrd.as_deref().map(|path| load_initrd(path, memory)).transpose()?;
    let cmdline = format!("{}{devices}", config.cmdline);
    if cmdline.len() >= CMDLINE_BYTES_MAX || cmdline.contains('\0') {
        let remedy = format!("it must be shorter than {CMDLINE_BYTES_MAX} bytes and hold no zero byte");
        return Err(Error::Config { key: "cmdline", value: format!("{} bytes", cmdline.len()), remedy });
    }
    let placed = (|| {
        memory.write_slice(cmdline.trim_start().as_bytes(), GuestAddress(CMDLINE))?;
        memory.write_slice(&mptable::table(BASE_MEMORY_END, config.vcpus), GuestAddress(BASE_MEMORY_END))?;
        write_start_info(memory, initrd)
    })();
    placed.map_err(|error: vm_memory::GuestMemoryError| Error::Kernel {
        path: config.kernel.clone(),
        reason: format!("what it must be told has no place in memory: {error}"),
    })?;
    Ok(entry)
}

fn load_kernel(path: &Path, memory: &Memory) -> Result<u64, Error> {
    let mut file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let refused = |reason| Error::Kernel { path: path.to_owned(), reason };
    let loaded = Elf::load(memory, None, &mut file, None)
        .map_err(|error| refused(format!("not an ELF kernel that fits memory: {error}")))?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Ok(entry.0),
        _ => Err(refused(
            "it has no PVH entry note; a Linux kernel needs CONFIG_PVH=y, and its vmlinux, not a bzImage".to_owned(),
        )),
    }
}

/// Puts the RAM disk at the end of memory below the hole.
fn load_initrd(path: &Path, memory: &Memory) -> Result<hvm_modlist_entry, Error> {
    let content = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let size = content.len() as u64;
    let end = memory.iter().next().map_or(0, |region| region.len()).min(HOLE_START);
    let too_large = || Error::Kernel { path: path.to_owned(), reason: format!("{size} bytes do not fit memory") };
    let paddr = end.checked_sub(size).filter(|begin| *begin > HIGH_MEMORY).ok_or_else(too_large)? & !0xfff;
    memory.write_slice(&content, GuestAddress(paddr)).map_err(|_| too_large())?;
    Ok(hvm_modlist_entry { paddr, size, ..Default::default() })
}

fn write_start_info(memory: &Memory, initrd: Option<hvm_modlist_entry>) -> Result<(), vm_memory::GuestMemoryError> {
    let map = memory_map(memory);
    for (address, entry) in (MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(&map) {
        memory.write_obj(*entry, GuestAddress(address))?;
    }
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: CMDLINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        (info.nr_modules, info.modlist_paddr) = (1, MODULES);
        memory.write_obj(initrd, GuestAddress(MODULES))?;
    }
    memory.write_obj(info, GuestAddress(START_INFO))
}

fn memory_map(memory: &Memory) -> Vec<hvm_memmap_table_entry> {
    let bytes: u64 = memory.iter().map(|region| region.len()).sum();
    let entry = |addr, end, type_| hvm_memmap_table_entry { addr, size: end - addr, type_, reserved: 0 };
    let mut map = vec![
        entry(0, BASE_MEMORY_END, RAM),
        entry(BASE_MEMORY_END, HIGH_MEMORY, RESERVED),
        entry(HIGH_MEMORY, bytes.min(HOLE_START), RAM),
    ];
    if bytes > HOLE_START {
        map.push(entry(HOLE_END, HOLE_END + bytes - HOLE_START, RAM));
    }
    map
}

/// The registers at the PVH entry: 32-bit protected mode, flat segments, no paging, EBX at the start info.
pub(crate) fn registers(entry: u64, sregs: &kvm_sregs2) -> (kvm_regs, kvm_sregs2) {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const RFLAGS_ALWAYS: u64 = 1 << 1;
    let regs = kvm_regs { rip: entry, rbx: START_INFO, rflags: RFLAGS_ALWAYS, ..Default::default() };
    let flat = |selector, type_| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // Types: 11 is code, read, accessed; 3 is data, written, accessed; 11 of a system segment is a busy TSS.
    let data = flat(0x10, 3);
    let task = kvm_segment { limit: 0x67, selector: 0x18, type_: 11, present: 1, ..Default::default() };
    let sregs = kvm_sregs2 {
        cs: flat(0x8, 11),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..*sregs
    };
    (regs, sregs)
}
