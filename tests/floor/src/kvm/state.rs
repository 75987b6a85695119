//! All of the state of a VM with one vCPU but its memory: read with one ioctl for each part, and written likewise.

use std::os::fd::OwnedFd;

use super::abi::*;
use super::vm::Vm;
use crate::error::Error;

/// Each PIC, and the IOAPIC.
const IRQCHIPS: [u32; 3] = [0, 1, 2];
/// Hyper-V's, which are for guests that know it.
const MSRS_HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;

/// The requests that read the state, in their order.
pub(crate) const READS: [Ioctl; 12] = [
    KVM_GET_IRQCHIP,
    KVM_GET_PIT2,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_XSAVE2,
    KVM_GET_XCRS,
    KVM_GET_DEBUGREGS,
    KVM_GET_LAPIC,
    KVM_GET_MSRS,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_CLOCK,
];

/// The requests that write it, in their order.
pub(crate) const WRITES: [Ioctl; 12] = [
    KVM_SET_MP_STATE,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_XSAVE,
    KVM_SET_XCRS,
    KVM_SET_DEBUGREGS,
    KVM_SET_LAPIC,
    KVM_SET_MSRS,
    KVM_SET_VCPU_EVENTS,
    KVM_SET_IRQCHIP,
    KVM_SET_PIT2,
    KVM_SET_CLOCK,
];

/// The state.
#[derive(Clone)]
pub(super) struct State {
    mp_state: MpState,
    regs: Regs,
    sregs: Sregs,
    xsave: Vec<u64>,
    xcrs: Xcrs,
    debugregs: Debugregs,
    lapic: Lapic,
    msrs: Box<Msrs>,
    events: VcpuEvents,
    irqchips: [Irqchip; 3],
    pit: Pit,
    clock: Clock,
}

impl State {
    /// Room for the state of such a VM.
    pub(super) fn of(vm: &Vm) -> State {
        State {
            mp_state: [0; 1],
            regs: Regs::default(),
            sregs: Sregs::default(),
            xsave: vec![0; vm.xsave_bytes.div_ceil(8)],
            xcrs: [0; 49],
            debugregs: [0; 16],
            lapic: [0; 128],
            msrs: batch(&vm.msrs),
            events: [0; 8],
            irqchips: IRQCHIPS.map(|id| Irqchip { id, pad: 0, chip: [0; 64] }),
            pit: [0; 14],
            clock: [0; 6],
        }
    }

    /// Reads it.
    pub(super) fn read(&mut self, vm: &Vm) -> Result<(), Error> {
        for irqchip in &mut self.irqchips {
            pass(&vm.fd, KVM_GET_IRQCHIP, irqchip)?;
        }
        pass(&vm.fd, KVM_GET_PIT2, &mut self.pit)?;
        pass(&vm.vcpu, KVM_GET_MP_STATE, &mut self.mp_state)?;
        pass(&vm.vcpu, KVM_GET_REGS, &mut self.regs)?;
        pass(&vm.vcpu, KVM_GET_SREGS, &mut self.sregs)?;
        call(&vm.vcpu, KVM_GET_XSAVE2, self.xsave.as_mut_ptr() as u64)?;
        pass(&vm.vcpu, KVM_GET_XCRS, &mut self.xcrs)?;
        pass(&vm.vcpu, KVM_GET_DEBUGREGS, &mut self.debugregs)?;
        pass(&vm.vcpu, KVM_GET_LAPIC, &mut self.lapic)?;
        let read = pass(&vm.vcpu, KVM_GET_MSRS, &mut *self.msrs)?;
        all(&self.msrs, read, KVM_GET_MSRS)?;
        pass(&vm.vcpu, KVM_GET_VCPU_EVENTS, &mut self.events)?;
        pass(&vm.fd, KVM_GET_CLOCK, &mut self.clock).map(drop)
    }

    /// Writes it.
    pub(super) fn write(&mut self, vm: &Vm) -> Result<(), Error> {
        pass(&vm.vcpu, KVM_SET_MP_STATE, &mut self.mp_state)?;
        pass(&vm.vcpu, KVM_SET_REGS, &mut self.regs)?;
        pass(&vm.vcpu, KVM_SET_SREGS, &mut self.sregs)?;
        call(&vm.vcpu, KVM_SET_XSAVE, self.xsave.as_mut_ptr() as u64)?;
        pass(&vm.vcpu, KVM_SET_XCRS, &mut self.xcrs)?;
        pass(&vm.vcpu, KVM_SET_DEBUGREGS, &mut self.debugregs)?;
        pass(&vm.vcpu, KVM_SET_LAPIC, &mut self.lapic)?;
        let written = pass(&vm.vcpu, KVM_SET_MSRS, &mut *self.msrs)?;
        all(&self.msrs, written, KVM_SET_MSRS)?;
        pass(&vm.vcpu, KVM_SET_VCPU_EVENTS, &mut self.events)?;
        for irqchip in &mut self.irqchips {
            pass(&vm.fd, KVM_SET_IRQCHIP, irqchip)?;
        }
        pass(&vm.fd, KVM_SET_PIT2, &mut self.pit)?;
        // Only the nanoseconds: the flags that KVM_GET_CLOCK sets say what else it has told.
        self.clock[1..].fill(0);
        pass(&vm.fd, KVM_SET_CLOCK, &mut self.clock).map(drop)
    }
}

/// The MSRs that can be read and written back: those of KVM_GET_MSR_INDEX_LIST, and what that lacks, the MTRRs and the machine
/// check banks (`asm/msr-index.h`).
pub(super) fn msrs(kvm: &OwnedFd, vcpu: &OwnedFd) -> Result<Vec<u32>, Error> {
    // `struct kvm_msr_list`: the count, and the numbers.
    let mut list = [0u32; 513];
    list[0] = 512;
    pass(kvm, KVM_GET_MSR_INDEX_LIST, &mut list)?;
    let mtrrs = (0x200..0x210).chain([0x250, 0x258, 0x259]).chain(0x268..0x270).chain([0x277, 0x2ff]);
    let banks = 0x400..0x400 + 4 * 32;
    let mut msrs: Vec<u32> = list[1..].iter().take(list[0] as usize).copied().chain(mtrrs).chain(banks).collect();
    msrs.sort_unstable();
    msrs.dedup();
    msrs.retain(|msr| !MSRS_HYPERV.contains(msr));
    msrs.retain(|msr| {
        let mut one = batch(&[*msr]);
        let read = pass(vcpu, KVM_GET_MSRS, &mut *one);
        let written = pass(vcpu, KVM_SET_MSRS, &mut *one);
        matches!((read, written), (Ok(1), Ok(1)))
    });
    Ok(msrs)
}

fn batch(msrs: &[u32]) -> Box<Msrs> {
    let mut batch = Box::new(Msrs { count: msrs.len() as u32, pad: 0, entries: [MsrEntry::default(); 256] });
    for (entry, msr) in batch.entries.iter_mut().zip(msrs) {
        entry.index = *msr;
    }
    batch
}

/// A batch that KVM stopped in the middle of is no floor.
fn all(msrs: &Msrs, done: i32, ioctl: Ioctl) -> Result<(), Error> {
    if done.cast_unsigned() == msrs.count {
        return Ok(());
    }
    Err(Error::other(ioctl.name, format!("{done} of {} MSRs", msrs.count)))
}
