//! KVM of this host: what it can do, and the requests that kvm-ioctls has no methods for.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
    kvm_sregs2,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use crate::Error;

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// What a machine needs, and since when Linux has it.
const NEEDED: [(Cap, &str, &str); 15] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "2.6.25"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP", "2.6.20"),
    (Cap::Pit2, "KVM_CAP_PIT2", "2.6.31"),
    (Cap::Irqfd, "KVM_CAP_IRQFD", "2.6.32"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD", "2.6.32"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR", "2.6.25"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID", "2.6.26"),
    (Cap::MpState, "KVM_CAP_MP_STATE", "2.6.27"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS", "2.6.33"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS", "2.6.35"),
    (Cap::Xcrs, "KVM_CAP_XCRS", "2.6.35"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ", "2.6.39"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK", "2.6.33"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "4.13"),
    (Cap::Xsave2, "KVM_CAP_XSAVE2", "5.17"),
];

/// Opens `/dev/kvm` and checks that it has what a machine needs.
pub(crate) fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::KvmPermission,
        _ => Error::KvmOpen(error),
    })?;
    for (capability, name, since) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(Error::Capability { capability: name, since });
        }
    }
    if kvm.check_extension_raw(kvm_bindings::KVM_CAP_SREGS2.into()) <= 0 {
        return Err(Error::Capability { capability: "KVM_CAP_SREGS2", since: "5.14" });
    }
    Ok(kvm)
}

/// Has KVM tell, with a vCPU's events, of exceptions that are not yet delivered and of a triple fault on its way.
pub(crate) fn enable_events(vm: &VmFd) -> Result<(), Error> {
    for cap in [kvm_bindings::KVM_CAP_EXCEPTION_PAYLOAD, kvm_bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT] {
        if vm.check_extension_raw(cap.into()) > 0 {
            let enable = kvm_bindings::kvm_enable_cap { cap, args: [1, 0, 0, 0], ..Default::default() };
            vm.enable_cap(&enable).map_err(failed("KVM_ENABLE_CAP"))?;
        }
    }
    Ok(())
}

/// An error of KVM, for use with `map_err`.
pub(crate) fn failed(ioctl: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |source| Error::Kvm { ioctl, source }
}

fn checked(result: libc::c_int) -> Result<(), errno::Error> {
    if result < 0 { Err(errno::Error::last()) } else { Ok(()) }
}

/// Reads and clears the dirty log of a slot of `pages` pages into `log`, bit *n* of word *m* for page 64 *m* + *n*.
///
/// Not `VmFd::get_dirty_log`, which allocates each time.
pub(crate) fn get_dirty_log(vm: &VmFd, slot: u32, pages: u64, log: &mut Vec<u64>) -> Result<(), errno::Error> {
    log.resize(pages.div_ceil(64) as usize, 0);
    let request = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: log.as_mut_ptr().cast() },
    };
    // SAFETY: the kernel writes one bit a page, rounded up to longs, and `log` has room for that.
    checked(unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &request) })
}

/// Segment and control registers, with the PDPTRs of a 32-bit guest with PAE.
pub(crate) fn get_sregs2(vcpu: &VcpuFd) -> Result<kvm_sregs2, errno::Error> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the kernel writes a kvm_sregs2.
    checked(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut sregs) })?;
    Ok(sregs)
}

/// The opposite of [`get_sregs2`].
pub(crate) fn set_sregs2(vcpu: &VcpuFd, sregs: &kvm_sregs2) -> Result<(), errno::Error> {
    // SAFETY: the kernel reads a kvm_sregs2.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2(), sregs) })
}

/// Gives a vCPU so many machine check banks; by itself it has 32, whose MSRs are in every checkpoint.
pub(crate) fn set_mce_banks(vcpu: &VcpuFd, banks: u8) -> Result<(), errno::Error> {
    let capability = u64::from(banks);
    // SAFETY: the kernel reads 64 bits.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &capability) })
}

fn tsc_offset_attr(offset: *mut u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr: offset as u64 }
}

/// What is added to the host's TSC to make that of the guest.
pub(crate) fn tsc_offset(vcpu: &impl AsRawFd) -> Result<u64, errno::Error> {
    let mut offset = 0;
    // SAFETY: the kernel writes 64 bits to the address in the attribute, which is that of `offset`.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &tsc_offset_attr(&raw mut offset)) })?;
    Ok(offset)
}

/// Sets it, to the tick; a write to IA32_TSC would be rounded by KVM's guess that vCPUs want to be in step.
pub(crate) fn set_tsc_offset(vcpu: &impl AsRawFd, mut offset: u64) -> Result<(), errno::Error> {
    // SAFETY: the kernel reads 64 bits from the address in the attribute, which is that of `offset`.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &tsc_offset_attr(&raw mut offset)) })
}
