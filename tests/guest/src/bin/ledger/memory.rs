//! Memory: what the loader says there is, a heap in it, DMA (physical is virtual), and the routines compilers call.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::slice;
use linked_list_allocator::Heap;
use virtio_drivers::{BufferDirection, PhysAddr};

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;
/// Heap for everything but the ledger and the memory workload.
const HEAP_BYTES: u64 = 4 << 20;
/// Above are devices; boot.s maps this part uncached.
const RAM_LIMIT: u64 = 3 << 30;

/// `hvm_start_info` of Xen's `include/public/arch-x86/hvm/start_info.h`.
#[repr(C)]
pub(crate) struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: *const i8,
    rsdp: u64,
    memory_map: *const MemoryMapEntry,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`, of the same file.
#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const START_MAGIC: u32 = 0x336e_c578;
const KIND_RAM: u32 = 1;

unsafe extern "C" {
    /// From ledger.ld: the first byte after the image.
    static image_end: u8;
}

/// The command line, and the RAM from the end of the image on.
///
/// # Safety
/// `info` is what a PVH loader passed, and no memory but the image has been written.
pub(crate) unsafe fn describe(info: *const StartInfo) -> (&'static str, Range<u64>) {
    // SAFETY: by the PVH boot protocol these structures are valid, and low memory is not used for anything else.
    unsafe {
        let info = &*info;
        assert!(info.magic == START_MAGIC && info.version >= 1, "no PVH start info with a memory map");
        let line = if info.cmdline.is_null() { c"" } else { CStr::from_ptr(info.cmdline) };
        let map = slice::from_raw_parts(info.memory_map, info.memory_map_entries as usize);
        let start = ptr::from_ref(&image_end) as u64;
        let holds = |entry: &&MemoryMapEntry| {
            entry.kind == KIND_RAM && (entry.address..entry.address + entry.size).contains(&start)
        };
        let entry = map.iter().find(holds).unwrap_or_else(|| panic!("no RAM at {start:#x}"));
        let line = line.to_str().unwrap_or_else(|_| panic!("the command line is not UTF-8"));
        (line, start..(entry.address + entry.size).min(RAM_LIMIT))
    }
}

/// Gives half of `ram` to the heap. Returns how much of that is the ledger's, and the other half.
pub(crate) fn init_heap(ram: Range<u64>) -> (u64, Range<u64>) {
    let bytes = (ram.end - ram.start) / 2;
    assert!(bytes > HEAP_BYTES, "too little memory: {} MiB are needed beyond the image", (2 * HEAP_BYTES) >> 20);
    // SAFETY: this part of RAM is nobody else's, for ever; there is one thread.
    unsafe { (*ALLOCATOR.0.get()).init(ram.start as *mut u8, bytes as usize) };
    (bytes - HEAP_BYTES, ram.start + bytes..ram.end)
}

struct Allocator(UnsafeCell<Heap>);

// SAFETY: there is one thread, and interrupt handlers do not allocate.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Heap::empty()));

// SAFETY: `Heap` keeps the contract; no reference to it outlives a call.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, see above.
        unsafe { (*self.0.get()).allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: one thread, and the caller returns what `alloc` gave.
            unsafe { (*self.0.get()).deallocate(pointer, layout) }
        }
    }
}

/// DMA: memory is mapped where it is.
#[derive(Debug)]
pub(crate) struct Hal;

// SAFETY: allocations are page-aligned, zeroed and unique; addresses are the same on both sides.
unsafe impl virtio_drivers::Hal for Hal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = zeroed(pages * PAGE, PAGE);
        (memory.as_ptr() as u64, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        let Ok(layout) = Layout::from_size_align(pages * PAGE, PAGE) else { return -1 };
        // SAFETY: allocated above with this layout.
        unsafe { alloc::alloc::dealloc(pointer.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("registers at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Zeroed memory for devices, never returned unless by `dma_dealloc`.
pub(crate) fn zeroed(bytes: usize, align: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, align).expect("a power of two");
    // SAFETY: sizes here are not zero.
    let memory = unsafe { alloc::alloc::alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| alloc::alloc::handle_alloc_error(layout))
}

// What compilers call and a C library would have. Plain loops would be compiled into calls of themselves.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's, as in C.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= bytes {
        // SAFETY: copying upwards never overwrites what is still to be read.
        return unsafe { memcpy(to, from, bytes) };
    }
    // SAFETY: the caller's, as in C; downwards, with the direction flag put back.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") bytes => _, inout("rdi") to.add(bytes).wrapping_sub(1) => _,
            inout("rsi") from.add(bytes).wrapping_sub(1) => _, options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's, as in C.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    for i in 0..bytes {
        // SAFETY: the caller's, as in C; volatile, so that no call of memcmp is made of it.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    // SAFETY: the caller's, as in C.
    unsafe { memcmp(a, b, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut bytes = 0;
    // SAFETY: the caller's, as in C; volatile as above.
    while unsafe { text.add(bytes).read_volatile() } != 0 {
        bytes += 1;
    }
    bytes
}
