//! A VM with one vCPU and the tiny guest in its memory.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use super::abi::*;
use super::{guest, state};
use crate::error::Error;
use crate::memory::{Mapping, PAGE};

/// Room for the leaves of KVM_GET_SUPPORTED_CPUID, each a `struct kvm_cpuid_entry2` of 40 bytes.
const CPUID_LEAVES: usize = 256;

/// `struct kvm_cpuid2`.
#[repr(C)]
struct Cpuid {
    count: u32,
    pad: u32,
    leaves: [[u32; 10]; CPUID_LEAVES],
}

/// The VM. It does not own its memory, so that another can be made with the same.
pub(super) struct Vm {
    // In the order in which they must be dropped.
    run: RunPage,
    pub(super) vcpu: OwnedFd,
    pub(super) fd: OwnedFd,
    /// The MSRs to be saved and restored.
    pub(super) msrs: Vec<u32>,
    pub(super) xsave_bytes: usize,
    pages: usize,
}

/// Puts the guest into fresh memory.
pub(super) fn prepare(mib: usize) -> Result<Mapping, Error> {
    let mut memory = Mapping::populated(mib)?;
    guest::write(&mut memory);
    Ok(memory)
}

impl Vm {
    /// A VM with `memory`, interrupt controllers, timer, and one vCPU of this host's kind. Writes to memory are logged.
    pub(super) fn new(memory: &Mapping) -> Result<Vm, Error> {
        let options = OpenOptions::new().read(true).write(true).clone();
        let kvm: OwnedFd = options.open("/dev/kvm").map_err(Error::of("/dev/kvm"))?.into();
        let fd = made(call(&kvm, KVM_CREATE_VM, 0)?);
        let mut region = MemoryRegion {
            slot: 0,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_address: 0,
            bytes: memory.bytes() as u64,
            host_address: memory.address(),
        };
        pass(&fd, KVM_SET_USER_MEMORY_REGION, &mut region)?;
        // Where Intel's VMX keeps what it needs, just below 4 GiB.
        pass(&fd, KVM_SET_IDENTITY_MAP_ADDR, &mut 0xfffb_c000u64)?;
        call(&fd, KVM_SET_TSS_ADDR, 0xfffb_d000)?;
        call(&fd, KVM_CREATE_IRQCHIP, 0)?;
        pass(&fd, KVM_CREATE_PIT2, &mut [0u32; 16])?;
        let vcpu = made(call(&fd, KVM_CREATE_VCPU, 0)?);
        let mut cpuid = Box::new(Cpuid { count: CPUID_LEAVES as u32, pad: 0, leaves: [[0; 10]; CPUID_LEAVES] });
        pass(&kvm, KVM_GET_SUPPORTED_CPUID, &mut *cpuid)?;
        pass(&vcpu, KVM_SET_CPUID2, &mut *cpuid)?;
        let run = RunPage::new(&vcpu)?;
        let xsave_bytes = call(&fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2)?;
        let xsave_bytes = usize::try_from(xsave_bytes).unwrap_or_default().max(4096);
        let msrs = state::msrs(&kvm, &vcpu)?;
        Ok(Vm { run, vcpu, fd, msrs, xsave_bytes, pages: memory.bytes() / PAGE })
    }

    /// Puts the vCPU at the guest's beginning; the guest will write to that many pages.
    pub(super) fn begin(&self, pages: usize) -> Result<(), Error> {
        let mut reset = Sregs::default();
        pass(&self.vcpu, KVM_GET_SREGS, &mut reset)?;
        pass(&self.vcpu, KVM_SET_SREGS, &mut guest::sregs(&reset))?;
        pass(&self.vcpu, KVM_SET_REGS, &mut guest::regs(pages)).map(drop)
    }

    /// Keeps the guest from being entered, or not.
    pub(super) fn set_immediate_exit(&self, on: bool) {
        self.run.immediate_exit().store(on.into(), Ordering::Release);
    }

    /// Reads and clears the dirty log. `bitmap` has a bit for each page.
    pub(super) fn dirty_log(&self, bitmap: &mut [u64]) -> Result<(), Error> {
        assert!(bitmap.len() * 64 >= self.pages, "a bitmap too short for the guest");
        let mut request = DirtyLog { slot: 0, pad: 0, bitmap: bitmap.as_mut_ptr() };
        pass(&self.fd, KVM_GET_DIRTY_LOG, &mut request).map(drop)
    }
}

/// A file descriptor that the kernel has just made.
fn made(fd: i32) -> OwnedFd {
    // SAFETY: the result of a request that returns a new descriptor, which nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The first page of the vCPU's `struct kvm_run`.
struct RunPage(NonNull<u8>);

// SAFETY: the page is only used through an atomic.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn new(vcpu: &OwnedFd) -> Result<RunPage, Error> {
        // SAFETY: a new mapping at an address that the kernel chooses; kvm_run is at least a page.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        match NonNull::new(address.cast::<u8>()) {
            Some(page) if address != libc::MAP_FAILED => Ok(RunPage(page)),
            _ => Err(Error::last("mmap of a vCPU")),
        }
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as `self`; nobody accesses the byte otherwise, but the kernel.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(IMMEDIATE_EXIT)) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
