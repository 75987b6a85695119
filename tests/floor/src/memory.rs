//! Memory: copied with memcpy, and mapped for a guest.

use std::convert::Infallible;
use std::hint::black_box;
use std::ptr::{self, NonNull};

use crate::error::Error;
use crate::sample::{Effort, best_median_us, timed};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// More than the last cache of a machine has, so that the speed is that of memory.
const COPY_BYTES: usize = 256 << 20;

/// memcpy of that many pages.
pub(crate) fn copy_us(pages: usize, effort: Effort) -> f64 {
    copying_us(pages * PAGE, effort.short)
}

/// memcpy of 256 MiB.
pub(crate) fn copy_gb_s(effort: Effort) -> f64 {
    COPY_BYTES as f64 / copying_us(COPY_BYTES, effort.long) / 1e3
}

fn copying_us(bytes: usize, count: usize) -> f64 {
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    let best = best_median_us(count, || {
        timed::<Infallible>(|| {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
            Ok(())
        })
    });
    let Ok(best) = best;
    best
}

/// Anonymous memory, every page of it there.
pub(crate) struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory; whoever reads what a guest writes does so through `watch`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps and populates that many MiB.
    pub(crate) fn populated(mib: usize) -> Result<Mapping, Error> {
        let bytes = mib << 20;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let mapping = match NonNull::new(address.cast::<u8>()) {
            Some(address_) if address != libc::MAP_FAILED => Mapping { address: address_, bytes },
            _ => return Err(Error::last("mmap of a guest's memory")),
        };
        // SAFETY: the range is the mapping just made.
        if unsafe { libc::madvise(address, bytes, libc::MADV_POPULATE_WRITE) } != 0 {
            return Err(Error::last("madvise(MADV_POPULATE_WRITE) of a guest's memory"));
        }
        Ok(mapping)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> u64 {
        self.address.as_ptr() as u64
    }

    /// How long.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts bytes there. Only while no guest runs in it.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) {
        assert!(at.checked_add(data.len()).is_some_and(|end| end <= self.bytes), "outside of the guest's memory");
        // SAFETY: the range was just checked, and `data` is not in the mapping, to which nobody has a reference.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.address.as_ptr().add(at), data.len()) };
    }

    /// The word at `at`, which a guest may be writing to.
    pub(crate) fn watch(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8) && at < self.bytes, "no word of the guest's memory");
        // SAFETY: aligned and inside, as just checked. A word that is written by a guest on another CPU changes as a whole.
        unsafe { self.address.as_ptr().add(at).cast::<u64>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}
