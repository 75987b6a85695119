//! One vCPU: how it runs, and why it stops.

mod crew;
mod lapic;
mod state;

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_bindings::{Msrs, Xsave, kvm_msr_entry, kvm_regs, kvm_xsave};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

pub(crate) use self::crew::{Crew, Snapshot};
pub(crate) use self::state::{KIND, VERSION, VcpuState};
use crate::bus::Bus;
use crate::cpu::{CpuModel, MSR_TSC, MSR_TSC_DEADLINE};
use crate::damage::in_guest;
use crate::kvm::{failed, get_sregs2, set_mce_banks, set_sregs2, set_tsc_offset};
use crate::{Error, MachineEvent, boot};

/// Where port I/O and MMIO go.
pub(crate) struct Buses {
    /// By port.
    pub(crate) ports: Bus,
    /// By guest physical address.
    pub(crate) addresses: Bus,
}

/// Gives all vCPUs the TSC of the first, to the tick: KVM only guesses that they are to be in step, and does not where it finds the host's
/// TSC unstable. From here on they are loaded [relative](VcpuState::load) to each other.
pub(crate) fn align_tscs(vcpus: &[Vcpu]) -> Result<(), Error> {
    let Some((first, others)) = vcpus.split_first() else { return Ok(()) };
    let offset = first.tsc_offset()?;
    let failed = |vcpu: &Vcpu| {
        let vcpu = vcpu.index;
        move |source| Error::Vcpu { vcpu, ioctl: "KVM_SET_DEVICE_ATTR (TSC offset)", source }
    };
    others.iter().try_for_each(|vcpu| set_tsc_offset(&vcpu.fd, offset).map_err(failed(vcpu)))
}

/// Machine check banks: as many as QEMU gives, of which a guest sees nothing but that they are there.
const MCE_BANKS: u8 = 10;

/// Why a vCPU does not run until the machine is reset. Kept by us: KVM would not know any more. Saved with it by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Halt {
    /// It runs.
    #[default]
    No = 0,
    /// It shut down by a triple fault.
    TripleFault = 1,
    /// A reset is wanted, or has begun and is not done.
    Reset = 2,
}

impl Halt {
    /// The opposite of `as u8`.
    pub(crate) fn from_number(number: u8) -> Option<Halt> {
        [Halt::No, Halt::TripleFault, Halt::Reset].into_iter().find(|halt| *halt as u8 == number)
    }

    /// What the vCPU says instead of running.
    fn event(self) -> Option<MachineEvent> {
        match self {
            Halt::No => None,
            Halt::TripleFault => Some(MachineEvent::TripleFault),
            Halt::Reset => Some(MachineEvent::Reset),
        }
    }
}

/// A vCPU. Whoever has it may use it: its thread while the guest runs, the machine while it is paused.
pub(crate) struct Vcpu {
    pub(crate) index: u8,
    fd: VcpuFd,
    halt: Halt,
    /// Reused from one save to the next.
    msrs: Msrs,
    xsave: Xsave,
}

impl Vcpu {
    /// Makes a vCPU. The first one of a machine finds out which MSRs `model` has.
    pub(crate) fn new(kvm: &kvm_ioctls::Kvm, vm: &VmFd, model: &mut CpuModel, index: u8) -> Result<Vcpu, Error> {
        let fd = vm.create_vcpu(index.into()).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&model.cpuid_of(index)?).map_err(failed("KVM_SET_CPUID2"))?;
        if let Err(error) = set_mce_banks(&fd, MCE_BANKS) {
            log::debug!("vcpu{index}: KVM_X86_SETUP_MCE: {error}; it keeps the banks that it has");
        }
        if index == 0 {
            model.find_msrs(kvm, &fd)?;
        }
        let entries: Vec<_> = model
            .msrs
            .iter()
            .chain(&[MSR_TSC, MSR_TSC_DEADLINE])
            .map(|msr| kvm_msr_entry { index: *msr, ..Default::default() })
            .collect();
        let too_many = || Error::Capability { capability: "that few MSRs", since: "any" };
        let msrs = Msrs::from_entries(&entries).map_err(|_| too_many())?;
        let extra = model.xsave_bytes.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        let xsave = Xsave::new(extra).map_err(|_| too_many())?;
        Ok(Vcpu { index, fd, halt: Halt::No, msrs, xsave })
    }

    /// Frequency of its TSC.
    pub(crate) fn tsc_khz(&self) -> Result<u32, Error> {
        self.fd.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ (the host's TSC must be stable)"))
    }

    /// Has it wait for the end of a reset that has begun.
    pub(crate) fn await_reset(&mut self) {
        self.halt = Halt::Reset;
    }

    /// Puts it at the entry of a kernel.
    pub(crate) fn begin_at(&mut self, entry: boot::Entry) -> Result<(), Error> {
        self.halt = Halt::No;
        let (regs, sregs) = boot::registers(entry, &get_sregs2(&self.fd).map_err(failed("KVM_GET_SREGS2"))?);
        set_sregs2(&self.fd, &sregs).map_err(failed("KVM_SET_SREGS2"))?;
        self.fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))
    }

    /// Tells the guest that it stood still, so that its watchdogs do not mind. Shows in its memory when it runs again.
    pub(crate) fn stood_still(&self) {
        // EINVAL: it does not use kvmclock.
        if let Err(error) = self.fd.kvmclock_ctrl() {
            log::debug!("vcpu{}: KVM_KVMCLOCK_CTRL: {error}", self.index);
        }
    }

    /// Runs the guest until it is kicked, or until it cannot go on.
    ///
    /// A kick sets `immediate_exit`, so that KVM_RUN ends with EINTR; before, KVM completes the port or MMIO exit that was
    /// served last. So when this returns for a kick no exit is pending, and the registers are whole.
    fn run(&mut self, buses: &Buses, kicked: impl Fn() -> bool) -> Option<MachineEvent> {
        if self.halt != Halt::No {
            return self.halt.event();
        }
        loop {
            match in_guest(|| self.fd.run()) {
                Ok(VcpuExit::IoIn(port, data)) => buses.ports.read(port.into(), data),
                Ok(VcpuExit::IoOut(port, data)) => buses.ports.write(port.into(), data),
                Ok(VcpuExit::MmioRead(address, data)) => buses.addresses.read(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => buses.addresses.write(address, data),
                Err(error) if error.errno() == libc::EINTR => {
                    if kicked() {
                        return None;
                    }
                }
                // A vCPU that waits to be started by another was woken.
                Err(error) if error.errno() == libc::EAGAIN => {}
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => {}
                Ok(VcpuExit::Shutdown) => {
                    log::warn!("{}", self.described("triple fault"));
                    self.halt = Halt::TripleFault;
                    return self.halt.event();
                }
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
                    self.halt = Halt::Reset;
                    return self.halt.event();
                }
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => return Some(MachineEvent::Shutdown),
                Ok(VcpuExit::InternalError) => {
                    let cause = self.internal_error();
                    return Some(MachineEvent::InternalError(self.described(&cause)));
                }
                Ok(exit) => {
                    let cause = format!("KVM_RUN ended with {exit:?}");
                    return Some(MachineEvent::Broken(self.described(&cause)));
                }
                Err(error) => return Some(MachineEvent::Broken(self.described(&format!("KVM_RUN failed: {error}")))),
            }
        }
    }

    fn described(&self, cause: &str) -> String {
        let registers =
            self.fd.get_regs().map_or_else(|error| format!("no registers: {error}"), |regs| describe(&regs));
        // Where a fault was, and in whose address space.
        let paging = self.fd.get_sregs().map_or_else(
            |error| format!("no system registers: {error}"),
            |sregs| {
                format!(
                    "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
                    sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer
                )
            },
        );
        format!("vcpu{}: {cause}; {registers} {paging}", self.index)
    }

    /// What KVM says about an exit with KVM_EXIT_INTERNAL_ERROR.
    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, which fills this member.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        let data = &internal.data[..count];
        if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
            return format!("KVM internal error {}, data {data:x?}", internal.suberror);
        }
        // data[0] is flags, data[1] on are the number of bytes, as one byte, and up to 15 bytes.
        let bytes: Vec<u8> = data.iter().skip(1).flat_map(|word| word.to_le_bytes()).collect();
        let (length, bytes) = bytes.split_first().map_or((0, &[][..]), |(length, bytes)| (usize::from(*length), bytes));
        let instruction = &bytes[..length.min(bytes.len()).min(15)];
        format!("KVM cannot emulate the instruction {instruction:02x?}")
    }
}

fn describe(regs: &kvm_regs) -> String {
    format!(
        "rip {:#x} rflags {:#x} rsp {:#x} rbp {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} r8 {:#x} \
         r9 {:#x} r10 {:#x} r11 {:#x} r12 {:#x} r13 {:#x} r14 {:#x} r15 {:#x}",
        regs.rip,
        regs.rflags,
        regs.rsp,
        regs.rbp,
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
    )
}
