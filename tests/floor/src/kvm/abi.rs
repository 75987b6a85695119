//! What of `linux/kvm.h` and `asm/kvm.h` (x86) is needed here, as of Linux 6.1: request numbers and structures.
//!
//! A structure that is only taken out of KVM and put back in has no fields here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::Error;

const KVMIO: u64 = 0xae;
const READ: u64 = 2;
const WRITE: u64 = 1;

/// `_IOC` of `asm-generic/ioctl.h`.
const fn request(direction: u64, number: u64, bytes: usize) -> u64 {
    direction << 30 | (bytes as u64) << 16 | KVMIO << 8 | number
}

/// A request by its name and number.
#[derive(Clone, Copy)]
pub(crate) struct Ioctl {
    pub(crate) name: &'static str,
    number: u64,
}

macro_rules! requests {
    ($($name:ident = $direction:expr, $number:literal, $bytes:expr;)*) => {
        $(pub(crate) const $name: Ioctl = Ioctl { name: stringify!($name), number: request($direction, $number, $bytes) };)*
    };
}

requests! {
    KVM_CREATE_VM = 0, 0x01, 0;
    KVM_GET_MSR_INDEX_LIST = READ | WRITE, 0x02, 4;
    KVM_CHECK_EXTENSION = 0, 0x03, 0;
    KVM_GET_SUPPORTED_CPUID = READ | WRITE, 0x05, 8;
    KVM_CREATE_VCPU = 0, 0x41, 0;
    KVM_GET_DIRTY_LOG = WRITE, 0x42, size_of::<DirtyLog>();
    KVM_SET_USER_MEMORY_REGION = WRITE, 0x46, size_of::<MemoryRegion>();
    KVM_SET_TSS_ADDR = 0, 0x47, 0;
    KVM_SET_IDENTITY_MAP_ADDR = WRITE, 0x48, 8;
    KVM_CREATE_IRQCHIP = 0, 0x60, 0;
    KVM_GET_IRQCHIP = READ | WRITE, 0x62, size_of::<Irqchip>();
    KVM_SET_IRQCHIP = READ, 0x63, size_of::<Irqchip>();
    KVM_CREATE_PIT2 = WRITE, 0x77, 64;
    KVM_SET_CLOCK = WRITE, 0x7b, size_of::<Clock>();
    KVM_GET_CLOCK = READ, 0x7c, size_of::<Clock>();
    KVM_RUN = 0, 0x80, 0;
    KVM_GET_REGS = READ, 0x81, size_of::<Regs>();
    KVM_SET_REGS = WRITE, 0x82, size_of::<Regs>();
    KVM_GET_SREGS = READ, 0x83, size_of::<Sregs>();
    KVM_SET_SREGS = WRITE, 0x84, size_of::<Sregs>();
    KVM_GET_MSRS = READ | WRITE, 0x88, 8;
    KVM_SET_MSRS = WRITE, 0x89, 8;
    KVM_GET_LAPIC = READ, 0x8e, size_of::<Lapic>();
    KVM_SET_LAPIC = WRITE, 0x8f, size_of::<Lapic>();
    KVM_SET_CPUID2 = WRITE, 0x90, 8;
    KVM_GET_MP_STATE = READ, 0x98, size_of::<MpState>();
    KVM_SET_MP_STATE = WRITE, 0x99, size_of::<MpState>();
    KVM_GET_VCPU_EVENTS = READ, 0x9f, size_of::<VcpuEvents>();
    KVM_SET_VCPU_EVENTS = WRITE, 0xa0, size_of::<VcpuEvents>();
    KVM_GET_PIT2 = READ, 0x9f, size_of::<Pit>();
    KVM_SET_PIT2 = WRITE, 0xa0, size_of::<Pit>();
    KVM_GET_DEBUGREGS = READ, 0xa1, size_of::<Debugregs>();
    KVM_SET_DEBUGREGS = WRITE, 0xa2, size_of::<Debugregs>();
    KVM_SET_XSAVE = WRITE, 0xa5, 4096;
    KVM_GET_XCRS = READ, 0xa6, size_of::<Xcrs>();
    KVM_SET_XCRS = WRITE, 0xa7, size_of::<Xcrs>();
    KVM_GET_XSAVE2 = READ, 0xcf, 4096;
}

/// `KVM_CAP_XSAVE2`: how many bytes KVM_GET_XSAVE2 writes.
pub(crate) const KVM_CAP_XSAVE2: u64 = 208;
/// `KVM_MEM_LOG_DIRTY_PAGES`.
pub(crate) const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1;
/// In `struct kvm_run`: the offset of `immediate_exit`.
pub(crate) const IMMEDIATE_EXIT: usize = 1;

/// `struct kvm_mp_state`.
pub(crate) type MpState = [u32; 1];
/// `struct kvm_vcpu_events`.
pub(crate) type VcpuEvents = [u64; 8];
/// `struct kvm_debugregs`.
pub(crate) type Debugregs = [u64; 16];
/// `struct kvm_xcrs`.
pub(crate) type Xcrs = [u64; 49];
/// `struct kvm_lapic_state`.
pub(crate) type Lapic = [u64; 128];
/// `struct kvm_pit_state2`.
pub(crate) type Pit = [u64; 14];
/// `struct kvm_clock_data`: nanoseconds, flags, host's time, host's TSC.
pub(crate) type Clock = [u64; 6];

/// `struct kvm_irqchip`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Irqchip {
    pub(crate) id: u32,
    pub(crate) pad: u32,
    pub(crate) chip: [u64; 64],
}

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
pub(crate) struct MemoryRegion {
    pub(crate) slot: u32,
    pub(crate) flags: u32,
    pub(crate) guest_address: u64,
    pub(crate) bytes: u64,
    pub(crate) host_address: u64,
}

/// `struct kvm_dirty_log`.
#[repr(C)]
pub(crate) struct DirtyLog {
    pub(crate) slot: u32,
    pub(crate) pad: u32,
    pub(crate) bitmap: *mut u64,
}

/// `struct kvm_regs`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Regs {
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) rsp: u64,
    pub(crate) rbp: u64,
    pub(crate) r8_to_r15: [u64; 8],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
}

/// `struct kvm_segment`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) limit: u32,
    pub(crate) selector: u16,
    pub(crate) kind: u8,
    pub(crate) present: u8,
    pub(crate) dpl: u8,
    pub(crate) db: u8,
    pub(crate) s: u8,
    pub(crate) l: u8,
    pub(crate) g: u8,
    pub(crate) avl: u8,
    pub(crate) unusable: u8,
    pub(crate) padding: u8,
}

/// `struct kvm_sregs`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Sregs {
    pub(crate) cs: Segment,
    pub(crate) ds: Segment,
    pub(crate) es: Segment,
    pub(crate) fs: Segment,
    pub(crate) gs: Segment,
    pub(crate) ss: Segment,
    pub(crate) tr: Segment,
    pub(crate) ldt: Segment,
    /// Two `struct kvm_dtable`: address, limit.
    pub(crate) gdt_idt: [u64; 4],
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) cr8: u64,
    pub(crate) efer: u64,
    pub(crate) apic_base: u64,
    pub(crate) interrupt_bitmap: [u64; 4],
}

/// `struct kvm_msr_entry`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MsrEntry {
    pub(crate) index: u32,
    pub(crate) reserved: u32,
    pub(crate) data: u64,
}

/// `struct kvm_msrs`, with room for all there are.
#[repr(C)]
#[derive(Clone)]
pub(crate) struct Msrs {
    pub(crate) count: u32,
    pub(crate) pad: u32,
    pub(crate) entries: [MsrEntry; 256],
}

/// Makes a request whose argument is a number. Returns what it returns.
pub(crate) fn call(fd: &OwnedFd, ioctl: Ioctl, argument: u64) -> Result<i32, Error> {
    // SAFETY: only requests whose argument is a number, or the address of something that is and stays valid, come here.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), ioctl.number, argument) };
    if result < 0 { Err(Error::last(ioctl.name)) } else { Ok(result) }
}

/// Makes a request whose argument is a structure, read or written by the kernel.
pub(crate) fn pass<T>(fd: &OwnedFd, ioctl: Ioctl, argument: &mut T) -> Result<i32, Error> {
    call(fd, ioctl, std::ptr::from_mut(argument) as u64)
}

/// KVM_RUN, until a signal comes.
pub(crate) fn run_until_signal(vcpu: &OwnedFd) -> Result<(), Error> {
    // SAFETY: KVM_RUN takes no argument.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_RUN.number, 0) };
    let error = io::Error::last_os_error();
    match (result, error.kind()) {
        (-1, io::ErrorKind::Interrupted) => Ok(()),
        (-1, _) => Err(Error::of(KVM_RUN.name)(error)),
        _ => Err(Error::other(KVM_RUN.name, "the guest left by itself".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_in_linux() {
        // sizeof in C, from linux/kvm.h and asm/kvm.h.
        assert_eq!(size_of::<Irqchip>(), 520);
        assert_eq!(size_of::<Regs>(), 144);
        assert_eq!(size_of::<Sregs>(), 312);
        assert_eq!(size_of::<Xcrs>(), 392);
        assert_eq!(size_of::<Pit>(), 112);
        assert_eq!(size_of::<Clock>(), 48);
        assert_eq!(size_of::<VcpuEvents>(), 64);
        assert_eq!(KVM_GET_REGS.number, 0x8090_ae81);
        assert_eq!(KVM_GET_DIRTY_LOG.number, 0x4010_ae42);
    }
}
