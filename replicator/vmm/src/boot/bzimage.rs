//! A bzImage, the kernel as distributions ship it, by its 32-bit entry (Linux `Documentation/x86/boot.rst`).
//!
//! Not the 64-bit one: that would need page tables made here, and spares the kernel nothing but the few instructions that make them.

use std::fs::File;
use std::path::Path;

use kemari_devices::Memory;
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{CMDLINE, HIGH_MEMORY, Handover, Initrd, load_initrd, out_of_place, refused, write, write_cmdline};
use crate::Error;

/// Where the kernel finds what it must be told: its "zero page".
pub(super) const BOOT_PARAMS: u64 = 0x7000;
/// Where its descriptor table is, and how long.
pub(super) const GDT: u64 = 0x500;
/// Four descriptors.
pub(super) const GDT_BYTES: u16 = 4 * 8;
/// The selector of code that the protocol wants; that of data follows.
pub(super) const CODE_SELECTOR: u16 = 0x10;

/// Two that nobody uses, flat code, flat data.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Protocol 2.10 (Linux 2.6.31): says how much memory the kernel needs, and where.
const VERSION_MIN: u16 = 0x020a;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `loadflags`: the kernel is to be quiet until it has a console.
const QUIET: u8 = 1 << 5;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Loads the kernel and what it is told. Returns its entry.
pub(super) fn load(file: &mut File, path: &Path, handover: &Handover<'_>, memory: &Memory) -> Result<u64, Error> {
    let loaded = BzImage::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY)))
        .map_err(|error| refused(path, format!("not a bzImage that fits memory: {error}")))?;
    let mut header = loaded.setup_header.ok_or_else(|| refused(path, "a bzImage without setup header"))?;
    if { header.version } < VERSION_MIN {
        return Err(refused(path, "a kernel older than Linux 2.6.31"));
    }
    let kernel_end = kernel_end(&header, memory).map_err(|reason| refused(path, reason))?;
    write_cmdline(memory, handover.cmdline, header.cmdline_size as usize, path)?;
    let initrd_limit = u64::from(header.initrd_addr_max) + 1;
    let initrd = handover.initrd.map(|initrd| load_initrd(initrd, memory, kernel_end, initrd_limit)).transpose()?;
    let entry = u64::from(header.code32_start);
    complete(&mut header, initrd);
    let params = boot_params { hdr: header, ..described(handover) };
    memory.write_obj(params, GuestAddress(BOOT_PARAMS)).map_err(|error| out_of_place(path, &error))?;
    let descriptors: Vec<u8> = DESCRIPTORS.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
    write(memory, GDT, &descriptors, path)?;
    Ok(entry)
}

/// Where the memory ends in which the kernel unpacks itself and runs before it knows of any other.
fn kernel_end(header: &setup_header, memory: &Memory) -> Result<u64, String> {
    let bytes = u64::from(header.init_size);
    let last = { header.pref_address }.checked_add(bytes).ok_or("a kernel beyond all memory")?;
    if bytes == 0 || !memory.address_in_range(GuestAddress(last - 1)) {
        return Err(format!("it needs {} MiB of memory to begin with: raise memory_mib", last.div_ceil(1 << 20)));
    }
    Ok(last)
}

fn complete(header: &mut setup_header, initrd: Option<Initrd>) {
    header.type_of_loader = LOADER_UNDEFINED;
    header.loadflags |= QUIET;
    header.cmd_line_ptr = CMDLINE as u32;
    if let Some(Initrd { address, bytes }) = initrd {
        // It lies below `initrd_addr_max`, so both fit.
        (header.ramdisk_image, header.ramdisk_size) = (address as u32, bytes as u32);
    }
}

fn described(handover: &Handover<'_>) -> boot_params {
    let mut params = boot_params { acpi_rsdp_addr: handover.rsdp, ..Default::default() };
    for range in &handover.memory_map {
        let type_ = if range.is_ram { E820_RAM } else { E820_RESERVED };
        let entry = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: type_ };
        params.e820_table[usize::from(params.e820_entries)] = entry;
        params.e820_entries += 1;
    }
    params
}
