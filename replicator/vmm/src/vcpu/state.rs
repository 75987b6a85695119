//! The state of one vCPU: taken out of KVM, put into it, and as bytes.

use kvm_bindings::{
    KVM_MAX_MSR_ENTRIES, Msrs, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs2, kvm_vcpu_events, kvm_xcrs,
};
use vmm_sys_util::errno;

use super::{Halt, Vcpu, lapic};
use crate::cpu::{MSR_SYSENTER_POINTERS, MSR_SYSTEM_TIME, MSR_TSC, MSR_TSC_DEADLINE, MSR_WALL_CLOCK};
use crate::kvm::{get_sregs2, set_sregs2, set_tsc_offset, tsc_offset};
use crate::plain::Plain;
use crate::sections::{Reader, append_all};
use crate::{Error, LoadError};

/// Kind of the section.
pub(crate) const KIND: &str = "vcpu";
/// Version of the section.
pub(crate) const VERSION: u16 = 1;

/// Most bytes of extended state: AMX, the largest there is, has 11 KiB.
const XSAVE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a `pvclock_wall_clock`.
const WALL_CLOCK_BYTES: usize = 12;
/// Bytes of a `pvclock_vcpu_time_info`.
const SYSTEM_TIME_BYTES: usize = 32;
/// Nanoseconds that a rehearsal may take before its TSC looks as if it had not been set.
const TSC_TOLERANCE_NS: u64 = 1_000_000_000;

/// All that KVM knows of a vCPU, but what every vCPU of the machine has in common.
#[derive(Clone, Debug)]
pub(crate) struct VcpuState {
    halt: Halt,
    pub(crate) mp_state: kvm_mp_state,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs2,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    /// As the guest reads it.
    tsc: u64,
    /// Against the host's; tells how the TSCs of several vCPUs stand to each other.
    tsc_offset: u64,
    tsc_deadline: u64,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Takes the state out of a vCPU that does not run and has no exit pending.
    ///
    /// Order: what may change the rest goes first (KVM_GET_MP_STATE takes in an INIT that is on its way); the deadline
    /// before the LAPIC, so that a timer that fires in between is in one of the two.
    pub(crate) fn save(vcpu: &mut Vcpu) -> Result<VcpuState, Error> {
        let index = vcpu.index;
        let failed = |ioctl| move |source| Error::Vcpu { vcpu: index, ioctl, source };
        let mp_state = vcpu.fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?;
        let mut msrs = vcpu.get_msrs()?;
        let mut value_of_last = || msrs.pop().map_or(0, |entry| entry.data);
        let tsc_deadline = value_of_last();
        let tsc = value_of_last();
        Ok(VcpuState {
            halt: vcpu.halt,
            mp_state,
            msrs,
            tsc,
            tsc_deadline,
            tsc_offset: tsc_offset(&vcpu.fd).map_err(failed("KVM_GET_DEVICE_ATTR (TSC offset)"))?,
            regs: vcpu.fd.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs: get_sregs2(&vcpu.fd).map_err(failed("KVM_GET_SREGS2"))?,
            xsave: vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE2"))?,
            xcrs: vcpu.fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?,
            debugregs: vcpu.fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?,
            events: vcpu.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Puts the state into a vCPU, whether it is new or has run. `tsc_base` is the TSC offset of the first vCPU at the save and
    /// now: that of the others is set relative to it, so that they stay in step.
    ///
    /// Order as in Firecracker's `restore_state`: the LAPIC, which needs the base address in the segment registers, before the
    /// MSRs, the deadline after the TSC, the events last.
    pub(crate) fn load(&self, vcpu: &mut Vcpu, tsc_base: (u64, u64)) -> Result<(), Error> {
        let index = vcpu.index;
        let failed = |ioctl| move |source| Error::Vcpu { vcpu: index, ioctl, source };
        vcpu.halt = self.halt;
        vcpu.fd.set_mp_state(self.mp_state).map_err(failed("KVM_SET_MP_STATE"))?;
        vcpu.fd.set_regs(&self.regs).map_err(failed("KVM_SET_REGS"))?;
        set_sregs2(&vcpu.fd, &self.sregs).map_err(failed("KVM_SET_SREGS2"))?;
        vcpu.set_xsave(&self.xsave).map_err(failed("KVM_SET_XSAVE"))?;
        vcpu.fd.set_xcrs(&self.xcrs).map_err(failed("KVM_SET_XCRS"))?;
        vcpu.fd.set_debug_regs(&self.debugregs).map_err(failed("KVM_SET_DEBUGREGS"))?;
        self.load_tsc(vcpu, tsc_base)?;
        // A deadline left from before would be armed again by KVM_SET_LAPIC.
        vcpu.set_msrs(&[msr(MSR_TSC_DEADLINE, 0)])?;
        vcpu.fd.set_lapic(&self.lapic).map_err(failed("KVM_SET_LAPIC"))?;
        vcpu.set_msrs(&self.msrs)?;
        vcpu.set_msrs(&[msr(MSR_TSC_DEADLINE, self.deadline_to_load())])?;
        vcpu.fd.set_vcpu_events(&self.events).map_err(failed("KVM_SET_VCPU_EVENTS"))
    }

    fn load_tsc(&self, vcpu: &mut Vcpu, (saved, now): (u64, u64)) -> Result<(), Error> {
        let offset = self.tsc_offset.wrapping_sub(saved).wrapping_add(now);
        let failed = |source| Error::Vcpu { vcpu: vcpu.index, ioctl: "KVM_SET_DEVICE_ATTR (TSC offset)", source };
        set_tsc_offset(&vcpu.fd, offset).map_err(failed)
    }

    /// Sets the TSC once more, long after the rest was loaded, and with it the deadline, which KVM counts in the host's time. A
    /// deadline that was over meanwhile is so no more; its interrupt may come twice, which does no harm.
    pub(crate) fn load_time(&self, vcpu: &mut Vcpu, tsc_base: (u64, u64)) -> Result<(), Error> {
        self.load_tsc(vcpu, tsc_base)?;
        vcpu.set_msrs(&[msr(MSR_TSC_DEADLINE, self.deadline_to_load())])
    }

    /// Where in guest memory KVM writes when this state is loaded: address and bytes.
    pub(crate) fn clock_areas(&self) -> impl Iterator<Item = (u64, usize)> {
        clock_areas(&self.msrs)
    }

    /// A timer may have fired between its deadline having been cleared and its interrupt being visible; then the guest
    /// would wait for ever. One interrupt too many does no harm. (Firecracker found this.)
    fn deadline_to_load(&self) -> u64 {
        if self.tsc_deadline == 0 && lapic::awaits_deadline(&self.lapic) { self.tsc } else { self.tsc_deadline }
    }

    /// The offset that makes the guest's TSC go on from where it was saved, given that it reads `tsc` at `offset` now.
    pub(crate) fn offset_to_go_on(&self, tsc: u64, offset: u64) -> u64 {
        offset.wrapping_add(self.tsc.wrapping_sub(tsc))
    }

    /// The TSC offset at the save.
    pub(crate) fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// Whether the TSC that was saved goes on in `now`, at `tsc_khz`.
    pub(crate) fn tsc_goes_on(&self, now: u64, tsc_khz: u32) -> bool {
        now.checked_sub(self.tsc)
            .is_some_and(|ticks| ticks / 1000 * 1_000_000 / u64::from(tsc_khz) < TSC_TOLERANCE_NS / 1000)
    }

    /// As bytes.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for field in [
            (self.halt as u8).bytes(),
            self.mp_state.bytes(),
            self.regs.bytes(),
            self.sregs.bytes(),
            self.xcrs.bytes(),
            self.debugregs.bytes(),
            self.lapic.bytes(),
            self.tsc.bytes(),
            self.tsc_offset.bytes(),
            self.tsc_deadline.bytes(),
            self.events.bytes(),
        ] {
            into.extend_from_slice(field);
        }
        append_all(&self.xsave, into);
        append_all(&self.msrs, into);
    }

    /// The opposite of [`encode`](VcpuState::encode).
    pub(crate) fn decode(mut from: Reader<'_>) -> Result<VcpuState, LoadError> {
        let state = VcpuState {
            halt: Halt::from_number(from.take("halt")?)
                .ok_or_else(|| LoadError::Malformed("a vCPU that is halted in a way that there is not".to_owned()))?,
            mp_state: from.take("mp_state")?,
            regs: from.take("regs")?,
            sregs: from.take("sregs")?,
            xcrs: from.take("xcrs")?,
            debugregs: from.take("debugregs")?,
            lapic: from.take("lapic")?,
            tsc: from.take("tsc")?,
            tsc_offset: from.take("tsc_offset")?,
            tsc_deadline: from.take("tsc_deadline")?,
            events: from.take("events")?,
            xsave: from.take_all(XSAVE_BYTES_MAX / 4, "xsave")?,
            msrs: from.take_all(KVM_MAX_MSR_ENTRIES, "msrs")?,
        };
        from.finish(KIND)?;
        Ok(state)
    }

    /// The fields in which `loaded`, saved from a vCPU that this was loaded into, differs. Time goes on, and an interrupt may have
    /// come since.
    pub(crate) fn differences(&self, loaded: &VcpuState) -> Vec<String> {
        let mut differences = Vec::new();
        let fields = [
            ("halt", self.halt == loaded.halt),
            ("mp_state", self.mp_state == loaded.mp_state),
            ("regs", self.regs == loaded.regs),
            ("sregs", self.sregs == loaded.sregs),
            ("xsave", self.xsave == loaded.xsave),
            ("xcrs", self.xcrs == loaded.xcrs),
            ("debugregs", self.debugregs == loaded.debugregs),
            ("events", self.events == loaded.events),
        ];
        differences.extend(fields.iter().filter(|(_, equal)| !equal).map(|(name, _)| (*name).to_owned()));
        differences.extend(lapic::difference(&self.lapic, &loaded.lapic));
        for (index, entry) in self.msrs.iter().enumerate() {
            if !loaded.msrs.get(index).is_some_and(|other| is_same_msr(entry, other)) {
                let read_back = loaded.msrs.get(index).map_or(0, |other| other.data);
                differences.push(format!("MSR {:#x} ({:#x}, read back {read_back:#x})", entry.index, entry.data));
            }
        }
        differences
    }
}

/// Whether an MSR that was loaded reads back the same. AMD's processors have only the lower halves of SYSENTER's stack and entry, and
/// have no SYSENTER in long mode (Linux `syscall_init`); KVM cuts what is loaded accordingly (`svm_set_msr`), but not what the guest writes.
fn is_same_msr(before: &kvm_msr_entry, after: &kvm_msr_entry) -> bool {
    let lower_half = before.data & u64::from(u32::MAX);
    let cut = MSR_SYSENTER_POINTERS.contains(&before.index) && after.data == lower_half;
    before.index == after.index && (before.data == after.data || cut)
}

fn clock_areas(msrs: &[kvm_msr_entry]) -> impl Iterator<Item = (u64, usize)> {
    msrs.iter().filter(|entry| entry.data != 0).filter_map(|entry| match entry.index {
        index if MSR_WALL_CLOCK.contains(&index) => Some((entry.data, WALL_CLOCK_BYTES)),
        index if MSR_SYSTEM_TIME.contains(&index) => Some((entry.data & !1, SYSTEM_TIME_BYTES)),
        _ => None,
    })
}

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

impl Vcpu {
    /// The MSRs to be saved, with their values, and behind them the TSC and its deadline.
    fn get_msrs(&mut self) -> Result<Vec<kvm_msr_entry>, Error> {
        let expected = self.msrs.as_slice().len();
        let count = self.fd.get_msrs(&mut self.msrs).map_err(|source| Error::Vcpu {
            vcpu: self.index,
            ioctl: "KVM_GET_MSRS",
            source,
        })?;
        match self.msrs.as_slice().get(count) {
            Some(refused) => Err(Error::Msr { vcpu: self.index, msr: refused.index, action: "read" }),
            None => {
                debug_assert_eq!(count, expected);
                Ok(self.msrs.as_slice().to_vec())
            }
        }
    }

    fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), Error> {
        let vcpu = self.index;
        let msrs = Msrs::from_entries(entries).map_err(|_| Error::Vcpu {
            vcpu,
            ioctl: "KVM_SET_MSRS",
            source: errno::Error::new(libc::E2BIG),
        })?;
        let count = self.fd.set_msrs(&msrs).map_err(|source| Error::Vcpu { vcpu, ioctl: "KVM_SET_MSRS", source })?;
        match entries.get(count) {
            Some(refused) => Err(Error::Msr { vcpu, msr: refused.index, action: "written" }),
            None => Ok(()),
        }
    }

    /// Where in guest memory KVM may write, as things are now, when the TSC or the clock is set: address and bytes.
    pub(crate) fn clock_areas(&self) -> Result<Vec<(u64, usize)>, Error> {
        let there = |msr: &u32| self.msrs.as_slice().iter().any(|entry| entry.index == *msr);
        let wanted: Vec<_> =
            MSR_WALL_CLOCK.into_iter().chain(MSR_SYSTEM_TIME).filter(there).map(|index| msr(index, 0)).collect();
        Ok(clock_areas(&self.read_msrs(&wanted)?).collect())
    }

    fn read_msrs(&self, wanted: &[kvm_msr_entry]) -> Result<Vec<kvm_msr_entry>, Error> {
        let vcpu = self.index;
        let failed = |source| Error::Vcpu { vcpu, ioctl: "KVM_GET_MSRS", source };
        let mut msrs = Msrs::from_entries(wanted).map_err(|_| failed(errno::Error::new(libc::E2BIG)))?;
        let count = self.fd.get_msrs(&mut msrs).map_err(failed)?;
        match wanted.get(count) {
            Some(refused) => Err(Error::Msr { vcpu, msr: refused.index, action: "read" }),
            None => Ok(msrs.as_slice().to_vec()),
        }
    }

    /// The TSC as the guest would read it now.
    pub(crate) fn tsc(&self) -> Result<u64, Error> {
        let one = self.read_msrs(&[msr(MSR_TSC, 0)])?;
        Ok(one.first().map_or(0, |entry| entry.data))
    }

    /// The offset of the TSC now.
    pub(crate) fn tsc_offset(&self) -> Result<u64, Error> {
        let vcpu = self.index;
        tsc_offset(&self.fd).map_err(|source| Error::Vcpu { vcpu, ioctl: "KVM_GET_DEVICE_ATTR (TSC offset)", source })
    }

    fn get_xsave(&mut self) -> Result<Vec<u32>, errno::Error> {
        // SAFETY: `xsave` was made for the size that KVM_CAP_XSAVE2 told, and no feature was enabled by arch_prctl since.
        unsafe { self.fd.get_xsave2(&mut self.xsave) }?;
        let region = &self.xsave.as_fam_struct_ref().xsave.region;
        Ok([&region[..], self.xsave.as_slice()].concat())
    }

    fn set_xsave(&mut self, state: &[u32]) -> Result<(), errno::Error> {
        let invalid = || errno::Error::new(libc::EINVAL);
        let own = self.xsave.as_fam_struct_ref().xsave.region.len();
        let (region, extra) = state.split_at_checked(own).ok_or_else(invalid)?;
        if extra.len() != self.xsave.as_slice().len() {
            return Err(invalid());
        }
        let mut xsave = Xsave::new(extra.len()).map_err(|_| invalid())?;
        xsave.as_mut_slice().copy_from_slice(extra);
        // SAFETY: the length of the flexible array is not changed.
        unsafe { xsave.as_mut_fam_struct() }.xsave.region.copy_from_slice(region);
        // SAFETY: `xsave` has just the size that KVM expects: that of `self.xsave`.
        unsafe { self.fd.set_xsave2(&xsave) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_amds_sysenter_may_lose_its_upper_half() {
        let before = 0xffff_8000_1234_5678;
        let same = |index, after| is_same_msr(&msr(index, before), &msr(index, after));
        assert!(same(0x175, before) && same(0x175, 0x1234_5678) && same(0x176, 0x1234_5678));
        assert!(!same(0x175, 0x1234_5679) && !same(0x175, 0) && !same(0x174, 0x1234_5678));
    }
}
