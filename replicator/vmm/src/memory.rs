//! Guest memory: where it lies, who wrote to it, and its content by page.

use std::io;

use kemari_core::sabotage::{Bug, planted};
use kemari_core::{PAGE_SIZE, PageRun, PageSet};
use kemari_devices::Memory;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use crate::Error;
use crate::kvm::{failed, get_dirty_log};

/// Where RAM below 4 GiB ends and the hole for devices begins.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// Where the hole ends and the rest of RAM begins.
pub(crate) const HOLE_END: u64 = 4 << 30;
/// Least memory that a machine may have, in MiB: room for what boot puts below the kernel, and a kernel.
pub const MEMORY_MIB_MIN: u64 = 16;
/// Most, in MiB; beyond, KVM's limit of 2^31 pages in a slot would come into view.
pub const MEMORY_MIB_MAX: u64 = 4 << 20;

/// Most pages that a part of a reset changes: 16 MiB, which one checkpoint carries in some milliseconds.
pub const RESET_PAGES: u64 = 4096;
/// Most pages that it looks at: 64 MiB.
const CLEAR_PAGES_SEEN: u64 = 16384;
/// At a time: what fits a cache.
const CLEAR_STEP_PAGES: u64 = 32;

/// The guest's RAM: one memory slot below the hole and, if it does not fit there, one above.
pub(crate) struct Ram {
    memory: Memory,
    pages: u64,
    /// Reused from one harvest to the next.
    log: Vec<u64>,
}

impl Ram {
    /// Maps and populates `mib` MiB, and gives them to `vm`, with dirty logging on.
    ///
    /// Private anonymous memory in small pages: the log is by 4 KiB page in any case, and a first touch costs least.
    pub(crate) fn new(vm: &VmFd, mib: u64) -> Result<Ram, Error> {
        if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&mib) {
            let remedy = format!("it must be {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX}");
            return Err(Error::Config { key: "memory_mib", value: mib.to_string(), remedy });
        }
        let memory = Ram::map(mib)?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: KVM_MEM_LOG_DIRTY_PAGES,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the mapping stays where it is until `Ram` is dropped; `Machine` drops the VM before.
            unsafe { vm.set_user_memory_region(slot) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(Ram { memory, pages: (mib << 20) / PAGE_SIZE as u64, log: Vec::new() })
    }

    /// Maps and populates `mib` MiB.
    pub(crate) fn map(mib: u64) -> Result<Memory, Error> {
        let memory = Ram::map_unpopulated(mib)?;
        for region in memory.iter() {
            if let Err(error) = lock(region.as_ptr().cast(), region.len() as usize) {
                log::warn!(
                    "guest memory is not locked, and may be swapped out: {error}; allow {mib} MiB and some by RLIMIT_MEMLOCK \
                     (LimitMEMLOCK= of a systemd unit), or give the capability CAP_IPC_LOCK"
                );
            }
            advise(region.as_ptr().cast(), region.len() as usize).map_err(|source| Error::Memory { mib, source })?;
        }
        Ok(memory)
    }

    /// Maps `mib` MiB, of which only what is used will cost memory.
    pub(crate) fn map_unpopulated(mib: u64) -> Result<Memory, Error> {
        let bytes = mib << 20;
        let mut ranges = vec![(0, bytes.min(HOLE_START))];
        if bytes > HOLE_START {
            ranges.push((HOLE_END, bytes - HOLE_START));
        }
        let regions = ranges
            .into_iter()
            .map(|(base, bytes)| region(base, bytes as usize))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| Error::Memory { mib, source })?;
        Memory::from_regions(regions).map_err(|error| Error::Memory { mib, source: io::Error::other(error) })
    }

    /// The memory itself.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Adds what KVM's log and vm-memory's bitmaps have to `into`, and clears both.
    ///
    /// They are two: the guest's writes (and KVM's own, as those to a kvmclock page) are only in KVM's log, those of the device
    /// models only in the bitmaps.
    pub(crate) fn harvest(&mut self, vm: &VmFd, into: &mut PageSet) -> Result<(), Error> {
        let mut first = 0;
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let pages = region.len() / PAGE_SIZE as u64;
            get_dirty_log(vm, slot, pages, &mut self.log).map_err(failed("KVM_GET_DIRTY_LOG"))?;
            insert_words(first, self.log.iter().copied(), into);
            let written = (**region).bitmap().get_and_reset();
            if !planted(Bug::LoseVmmWrites) {
                insert_words(first, written.into_iter(), into);
            }
            first += pages;
        }
        Ok(())
    }

    /// Appends the content of `run` to `into`.
    pub(crate) fn copy_pages(&self, run: PageRun, into: &mut Vec<u8>) -> Result<(), Error> {
        let begin = into.len();
        into.reserve(run.count.min(self.pages) as usize * PAGE_SIZE);
        let copied = self.for_each_part(run, |region, offset, _, bytes| {
            let slice = region.get_slice(offset, bytes)?;
            let at = into.len();
            let room = &mut into.spare_capacity_mut()[..bytes];
            // SAFETY: the guard keeps `bytes` bytes of guest memory readable, and `room` is as long. The two do not overlap. A
            // guest that runs may write at the same time: then the page is in the dirty log, and will be copied again.
            unsafe {
                std::ptr::copy_nonoverlapping(slice.ptr_guard().as_ptr(), room.as_mut_ptr().cast(), bytes);
                into.set_len(at + bytes);
            }
            Ok(())
        });
        if copied.is_err() {
            into.truncate(begin);
        }
        copied
    }

    /// Replaces the content of `run`.
    pub(crate) fn write_pages(&self, run: PageRun, data: &[u8]) -> Result<(), Error> {
        if run.count.checked_mul(PAGE_SIZE as u64) != Some(data.len() as u64) {
            return Err(Error::PageData { bytes: data.len(), count: run.count });
        }
        self.for_each_part(run, |region, offset, begin, bytes| region.write_slice(&data[begin..begin + bytes], offset))
    }

    /// Zeroes what is not zero, from page `first` on and as far as is done in some milliseconds. Returns the page to go on from.
    pub(crate) fn clear(&self, first: u64) -> Result<u64, Error> {
        let zeroes = [0; PAGE_SIZE];
        let end = self.pages.min(first + CLEAR_PAGES_SEEN);
        let mut content = Vec::with_capacity(CLEAR_STEP_PAGES as usize * PAGE_SIZE);
        let (mut next, mut written) = (first, 0);
        while next < end && written + CLEAR_STEP_PAGES <= RESET_PAGES {
            let step = PageRun { first: next, count: CLEAR_STEP_PAGES.min(end - next) };
            content.clear();
            self.copy_pages(step, &mut content)?;
            for (page, content) in (next..).zip(content.chunks_exact(PAGE_SIZE)) {
                if content != zeroes {
                    self.write_pages(PageRun { first: page, count: 1 }, &zeroes)?;
                    written += 1;
                }
            }
            next += step.count;
        }
        Ok(next)
    }

    /// The page that is mapped at an address of this process.
    pub(crate) fn page_at(&self, address: usize) -> Option<u64> {
        let mut first = 0;
        for region in self.memory.iter() {
            let offset = address.wrapping_sub(region.as_ptr() as usize) as u64;
            if offset < region.len() {
                return Some(first + offset / PAGE_SIZE as u64);
            }
            first += region.len() / PAGE_SIZE as u64;
        }
        None
    }

    /// Puts a new page of zeroes in the place of one that the hardware has lost.
    pub(crate) fn replace(&self, page: u64) -> Result<(), Error> {
        let mut result = Ok(());
        self.for_each_part(PageRun { first: page, count: 1 }, |region, offset, _, _| {
            result = replace(region.as_ptr() as usize + offset.raw_value() as usize);
            Ok(())
        })?;
        result.map_err(|source| Error::Resource { what: "a page in the place of a lost one", source })
    }

    /// Where pages are mapped in this process; those that do not exist are left out.
    pub(crate) fn addresses(&self, pages: &[u64]) -> Vec<usize> {
        let mut addresses = Vec::with_capacity(pages.len());
        for page in pages {
            let missing = self.for_each_part(PageRun { first: *page, count: 1 }, |region, offset, _, _| {
                addresses.push(region.as_ptr() as usize + offset.raw_value() as usize);
                Ok(())
            });
            debug_assert!(missing.is_ok(), "page {page} does not exist");
        }
        addresses
    }

    /// Writes the content of a page that was [replaced](Ram::replace), past both logs: for whoever follows them it is unchanged.
    pub(crate) fn put_back(&self, page: u64, data: &[u8]) -> Result<(), Error> {
        if data.len() != PAGE_SIZE {
            return Err(Error::PageData { bytes: data.len(), count: 1 });
        }
        self.for_each_part(PageRun { first: page, count: 1 }, |region, offset, _, bytes| {
            let slice = region.get_slice(offset, bytes)?;
            // SAFETY: the guard keeps a page of guest memory writable, and `data` is as long. The guest stands still.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), slice.ptr_guard_mut().as_ptr(), bytes);
            }
            Ok(())
        })
    }

    /// Calls `act` with each region that `run` has a part in: where the part begins in the region and in the run, and its
    /// bytes.
    fn for_each_part(
        &self,
        run: PageRun,
        mut act: impl FnMut(&Region, MemoryRegionAddress, usize, usize) -> vm_memory::GuestMemoryResult<()>,
    ) -> Result<(), Error> {
        let missing = || Error::NoSuchPages { first: run.first, count: run.count, pages: self.pages };
        let end = run.end().filter(|end| *end <= self.pages).ok_or_else(missing)?;
        let mut first = 0;
        for region in self.memory.iter() {
            let pages = region.len() / PAGE_SIZE as u64;
            let part = run.first.max(first)..end.min(first + pages);
            if part.start < part.end {
                let offset = MemoryRegionAddress((part.start - first) * PAGE_SIZE as u64);
                let begin = (part.start - run.first) as usize * PAGE_SIZE;
                let bytes = (part.end - part.start) as usize * PAGE_SIZE;
                act(region, offset, begin, bytes).map_err(|_| missing())?;
            }
            first += pages;
        }
        Ok(())
    }
}

type Region = GuestRegionMmap<AtomicBitmap>;

fn insert_words(first: u64, words: impl Iterator<Item = u64>, into: &mut PageSet) {
    // The only region that others follow has 3 GiB, so that each begins at a multiple of 64 pages.
    for (index, word) in (0..).zip(words) {
        if word != 0 {
            into.insert_word(first + index * 64, word);
        }
    }
}

/// Maps a new page at `address`, which must be that of a page of guest memory. May be called in a signal handler.
pub(crate) fn replace(address: usize) -> io::Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED,
    );
    // SAFETY: in a mapping of `region`, a page gives way to one of the same kind; whoever works on it finds zeroes.
    let mapped = unsafe { libc::mmap(address as *mut _, PAGE_SIZE, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // What was locked is so again; if that is not allowed, it was not.
    let _ = lock(address as *mut _, PAGE_SIZE);
    advise(address as *mut _, PAGE_SIZE)
}

/// Has pages stay in memory from when they are there: the guest's clock runs on while one is read back from swap, and a standby that
/// has to read all of them back is no standby.
fn lock(start: *mut libc::c_void, bytes: usize) -> io::Result<()> {
    // SAFETY: locking does not change the content of a mapping.
    if unsafe { libc::mlock2(start, bytes, libc::MLOCK_ONFAULT) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Keeps guest memory out of core dumps, and has it populated: MAP_POPULATE would keep silent about memory that is not to be had.
fn advise(start: *mut libc::c_void, bytes: usize) -> io::Result<()> {
    for advice in [libc::MADV_DONTDUMP, libc::MADV_POPULATE_WRITE] {
        // SAFETY: neither advice changes the content of a mapping.
        if unsafe { libc::madvise(start, bytes, advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn region(base: u64, bytes: usize) -> io::Result<Region> {
    let mapping = MmapRegionBuilder::new_with_bitmap(bytes, AtomicBitmap::with_len(bytes))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)?;
    Region::new(mapping, GuestAddress(base)).ok_or_else(|| io::Error::other("address space overflow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says about the mapping that an address is in.
    fn mapping_of(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("proc");
        let mut mapping = String::new();
        for line in maps.lines() {
            let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bounds = bounds.and_then(|(from, to)| {
                Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
            });
            match bounds {
                Some(_) if !mapping.is_empty() => break,
                Some(bounds) if !bounds.contains(&address) => {}
                None if mapping.is_empty() => {}
                _ => mapping += &format!("{line}\n"),
            }
        }
        mapping
    }

    #[test]
    fn guest_memory_stays_in_memory_and_out_of_core_dumps_also_where_it_was_replaced() {
        let memory = Ram::map(16).expect("16 MiB");
        let begin = memory.iter().next().expect("a region").as_ptr() as usize;
        let page = begin + 100 * PAGE_SIZE;
        replace(page).expect("replaced");
        for address in [begin, page, page + PAGE_SIZE] {
            let mapping = mapping_of(address);
            let flags = mapping.lines().find_map(|line| line.strip_prefix("VmFlags:")).expect("flags");
            let has = |wanted| flags.split_whitespace().any(|flag| flag == wanted);
            assert!(has("dd"), "{mapping}");
            // Where it may: root may.
            // SAFETY: it only asks.
            assert!(has("lo") || unsafe { libc::geteuid() } != 0, "{mapping}");
            let kib = |key: &str| {
                mapping.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
            };
            assert_eq!(kib("Size:"), kib("Rss:"), "{mapping}");
        }
    }
}
