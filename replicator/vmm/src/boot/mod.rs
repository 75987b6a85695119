//! How the guest begins: what is put into its memory, and where its first vCPU starts.
//!
//! A kernel is either an ELF with a PVH entry ([`pvh`]) or a bzImage, as distributions ship it ([`bzimage`]). Both find ACPI tables
//! and an MP table; an ELF kernel is also told on its command line where the virtio devices are, since it may be one without ACPI.

mod bzimage;
mod files;
mod pvh;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kemari_devices::Memory;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs2};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

pub(crate) use self::files::{Content, Files};
use crate::memory::{HOLE_END, HOLE_START, Ram};
use crate::{Error, MachineConfig, acpi, mptable};

/// The settings that name the files.
const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";

const CMDLINE: u64 = 0x2_0000;
/// Where the last KiB of base memory begins, in which a guest looks for the MP table.
const BASE_MEMORY_END: u64 = 0x9_fc00;
/// Where RAM goes on after video memory and BIOS.
const HIGH_MEMORY: u64 = 0x10_0000;
/// Of the BIOS, and where a guest looks for the ACPI root pointer if nobody tells it (ACPI 6.5, 5.2.5.1).
const ACPI_TABLES: u64 = 0xe_0000;

/// Where a kernel begins, by the way it wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// By the PVH entry of an ELF.
    Pvh(u64),
    /// By the 32-bit entry of a bzImage.
    Linux(u64),
}

/// Where a virtio device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// First address of its window of registers.
    pub(crate) base: u64,
    /// Its interrupt line.
    pub(crate) irq: u32,
}

/// What a kernel is to be told, whatever the way.
struct Handover<'a> {
    cmdline: &'a str,
    initrd: Option<&'a Path>,
    memory_map: Vec<MemoryRange>,
    rsdp: u64,
}

/// A piece of the guest's address space.
struct MemoryRange {
    start: u64,
    end: u64,
    is_ram: bool,
}

/// A RAM disk in memory.
#[derive(Clone, Copy)]
struct Initrd {
    address: u64,
    bytes: u64,
}

/// Loads kernel and initial RAM disk into `memory`, which is all zero, and what they must be told. Returns the kernel's entry.
pub(crate) fn load(config: &MachineConfig, slots: &[Slot], memory: &Memory) -> Result<Entry, Error> {
    let mut file = open(&config.kernel)?;
    let tables = acpi::tables(ACPI_TABLES, config.vcpus, slots, config.watchdog);
    write(memory, ACPI_TABLES, &tables, &config.kernel)?;
    write(memory, BASE_MEMORY_END, &mptable::table(BASE_MEMORY_END, config.vcpus), &config.kernel)?;
    let mut handover = Handover {
        cmdline: config.cmdline.trim(),
        initrd: config.initrd.as_deref(),
        memory_map: memory_map(memory),
        rsdp: ACPI_TABLES,
    };
    match KernelFormat::of(&file, &config.kernel)? {
        KernelFormat::Elf => {
            let cmdline = format!("{}{}", handover.cmdline, pvh::devices(slots));
            handover.cmdline = cmdline.trim();
            pvh::load(&mut file, &config.kernel, &handover, memory).map(Entry::Pvh)
        }
        KernelFormat::BzImage => bzimage::load(&mut file, &config.kernel, &handover, memory).map(Entry::Linux),
    }
}

/// Boots in memory of its own, which is thrown away: whether [`load`] would succeed.
pub(crate) fn rehearse(config: &MachineConfig, slots: &[Slot]) -> Result<(), Error> {
    load(config, slots, &Ram::map_unpopulated(config.memory_mib)?).map(drop)
}

/// Has the host read the files of a boot that comes soon, without waiting for it.
pub(crate) fn prefetch(config: &MachineConfig) {
    for path in [Some(&config.kernel), config.initrd.as_ref()].into_iter().flatten() {
        if let Ok(file) = File::open(path) {
            // SAFETY: an advice about a file that is open; 0 bytes are all of it.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
        }
    }
}

/// What kind of kernel a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelFormat {
    Elf,
    BzImage,
}

impl KernelFormat {
    /// Looks for the magic number of an ELF file, and for that of the setup header ("HdrS" at 0x202, Linux
    /// `Documentation/x86/boot.rst`).
    fn of(file: &File, path: &Path) -> Result<KernelFormat, Error> {
        let has = |magic: &[u8; 4], offset| {
            let mut found = [0; 4];
            match file.read_exact_at(&mut found, offset) {
                Ok(()) => Ok(found == *magic),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
                Err(source) => Err(unreadable(KERNEL, path)(source)),
            }
        };
        if has(b"\x7fELF", 0)? {
            Ok(KernelFormat::Elf)
        } else if has(b"HdrS", 0x202)? {
            Ok(KernelFormat::BzImage)
        } else {
            Err(refused(path, "neither a bzImage (/boot/vmlinuz-*) nor an ELF kernel"))
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(unreadable(KERNEL, path))
}

fn unreadable(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { key, path: path.to_owned(), source }
}

fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Boot { key: KERNEL, path: path.to_owned(), reason: reason.into() }
}

fn out_of_place(path: &Path, error: &GuestMemoryError) -> Error {
    refused(path, format!("what it must be told has no place in memory: {error}"))
}

fn write(memory: &Memory, address: u64, bytes: &[u8], kernel: &Path) -> Result<(), Error> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|error| out_of_place(kernel, &error))
}

/// Puts the command line in its place, which must have at most `bytes_max` bytes.
fn write_cmdline(memory: &Memory, cmdline: &str, bytes_max: usize, kernel: &Path) -> Result<(), Error> {
    if cmdline.len() > bytes_max || cmdline.contains('\0') {
        let remedy = format!("it must have at most {bytes_max} bytes and hold no zero byte");
        return Err(Error::Config { key: "cmdline", value: format!("{} bytes", cmdline.len()), remedy });
    }
    write(memory, CMDLINE, cmdline.as_bytes(), kernel)
}

/// Puts the RAM disk at the end of memory below the hole, between `from` and `to`.
fn load_initrd(path: &Path, memory: &Memory, from: u64, to: u64) -> Result<Initrd, Error> {
    let content = std::fs::read(path).map_err(unreadable(INITRD, path))?;
    let bytes = content.len() as u64;
    let end = memory.iter().next().map_or(0, |region| region.len()).min(HOLE_START).min(to);
    let too_large = || Error::Boot {
        key: INITRD,
        path: path.to_owned(),
        reason: format!("{bytes} bytes do not fit memory beside the kernel: raise memory_mib"),
    };
    let address = end.checked_sub(bytes).map(|begin| begin & !0xfff).filter(|begin| *begin >= from);
    let address = address.ok_or_else(too_large)?;
    memory.write_slice(&content, GuestAddress(address)).map_err(|_| too_large())?;
    Ok(Initrd { address, bytes })
}

fn memory_map(memory: &Memory) -> Vec<MemoryRange> {
    let bytes: u64 = memory.iter().map(|region| region.len()).sum();
    let range = |start, end, is_ram| MemoryRange { start, end, is_ram };
    let mut map = vec![
        range(0, BASE_MEMORY_END, true),
        range(BASE_MEMORY_END, HIGH_MEMORY, false),
        range(HIGH_MEMORY, bytes.min(HOLE_START), true),
    ];
    if bytes > HOLE_START {
        map.push(range(HOLE_END, HOLE_END + bytes - HOLE_START, true));
    }
    map
}

/// The registers at an entry: 32-bit protected mode, flat segments, no paging; EBX at PVH's start info, or ESI at Linux's boot
/// parameters, whose descriptor table must be there, too (Linux `Documentation/x86/boot.rst`, 32-bit boot protocol).
pub(crate) fn registers(entry: Entry, sregs: &kvm_sregs2) -> (kvm_regs, kvm_sregs2) {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const RFLAGS_ALWAYS: u64 = 1 << 1;
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
    let (rip, rbx, rsi, code_selector, gdt) = match entry {
        Entry::Pvh(entry) => (entry, pvh::START_INFO, 0, 0x8, sregs.gdt),
        Entry::Linux(entry) => {
            let gdt = kvm_dtable { base: bzimage::GDT, limit: bzimage::GDT_BYTES - 1, ..Default::default() };
            (entry, 0, bzimage::BOOT_PARAMS, bzimage::CODE_SELECTOR, gdt)
        }
    };
    // Types: 11 is code, read, accessed; 3 is data, written, accessed; 11 of a system segment is a busy TSS.
    let data = flat(code_selector + 8, 3);
    let task = kvm_segment { limit: 0x67, selector: code_selector + 16, type_: 11, present: 1, ..Default::default() };
    let regs = kvm_regs { rip, rbx, rsi, rflags: RFLAGS_ALWAYS, ..Default::default() };
    let sregs = kvm_sregs2 {
        cs: flat(code_selector, 11),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        gdt,
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..*sregs
    };
    (regs, sregs)
}
