//! An ELF kernel by its PVH entry (Xen `docs/misc/pvh.pandoc`, `public/arch-x86/hvm/start_info.h`).

use std::fs::File;
use std::path::Path;

use kemari_devices::{MMIO_BYTES, Memory};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress};

use super::{CMDLINE, Handover, Slot, load_initrd, out_of_place, refused, write_cmdline};
use crate::Error;

/// Where the kernel finds what it must be told.
pub(super) const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6100;
const MEMORY_MAP: u64 = 0x7000;
/// What Linux takes (`COMMAND_LINE_SIZE`, less the terminating zero); it would cut a longer one without a word.
const CMDLINE_BYTES_MAX: usize = 2047;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// What a command line must say for a kernel without ACPI to find the virtio devices. Linux with both finds them twice and says
/// of the second time that it is busy, which does no harm.
pub(super) fn devices(slots: &[Slot]) -> String {
    let device = |slot: &Slot| format!(" virtio_mmio.device={}K@{:#x}:{}", MMIO_BYTES >> 10, slot.base, slot.irq);
    slots.iter().map(device).collect()
}

/// Loads the kernel and what it is told. Returns its entry.
pub(super) fn load(file: &mut File, path: &Path, handover: &Handover<'_>, memory: &Memory) -> Result<u64, Error> {
    let loaded = Elf::load(memory, None, file, None)
        .map_err(|error| refused(path, format!("not an ELF kernel that fits memory: {error}")))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(refused(path, "it has no PVH entry note (Linux: CONFIG_PVH=y); use the kernel's bzImage"));
    };
    write_cmdline(memory, handover.cmdline, CMDLINE_BYTES_MAX, path)?;
    let initrd = handover.initrd.map(|initrd| load_initrd(initrd, memory, loaded.kernel_end, u64::MAX)).transpose()?;
    let module =
        initrd.map(|initrd| hvm_modlist_entry { paddr: initrd.address, size: initrd.bytes, ..Default::default() });
    write_start_info(memory, handover, module).map_err(|error| out_of_place(path, &error))?;
    Ok(entry.0)
}

fn write_start_info(
    memory: &Memory,
    handover: &Handover<'_>,
    module: Option<hvm_modlist_entry>,
) -> Result<(), vm_memory::GuestMemoryError> {
    let map = &handover.memory_map;
    for (address, range) in (MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(map) {
        let type_ = if range.is_ram { RAM } else { RESERVED };
        let entry = hvm_memmap_table_entry { addr: range.start, size: range.end - range.start, type_, reserved: 0 };
        memory.write_obj(entry, GuestAddress(address))?;
    }
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: CMDLINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        rsdp_paddr: handover.rsdp,
        ..Default::default()
    };
    if let Some(module) = module {
        (info.nr_modules, info.modlist_paddr) = (1, MODULES);
        memory.write_obj(module, GuestAddress(MODULES))?;
    }
    memory.write_obj(info, GuestAddress(START_INFO))
}
