//! What every vCPU of this host is: its CPUID leaves, its MSRs, the size of its extended state.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::Error;
use crate::kvm::failed;

/// IA32_TIME_STAMP_COUNTER.
pub(crate) const MSR_TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE.
pub(crate) const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// IA32_SYSENTER_ESP and IA32_SYSENTER_EIP.
pub(crate) const MSR_SYSENTER_POINTERS: [u32; 2] = [0x175, 0x176];
/// The two numbers of the MSR that makes KVM write the time of day to guest memory.
pub(crate) const MSR_WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// The two numbers of the MSR that tells KVM where in guest memory to keep kvmclock up to date.
pub(crate) const MSR_SYSTEM_TIME: [u32; 2] = [0x12, 0x4b56_4d01];

/// Control, status, address and more of the first machine check bank; those of the others follow.
const MSR_MCE_BANKS: u32 = 0x400;
/// Hyper-V's; it is not offered to the guest.
const MSRS_HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;

const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// kvmclock, no delay at port 0x80, spinlocks by halting, IPIs by hypercall, polling control, stable clock. None of those where the
/// host writes to guest memory behind the vCPU (steal time, asynchronous page faults, EOI flags), whose state KVM does not give
/// out whole.
const KVM_FEATURES_OFFERED: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 24;

/// What is not offered, because it has state that is not saved, or that KVM does not give out: leaf, subleaf, and a mask each for EAX,
/// EBX, ECX and EDX.
const UNSAVED: [(u32, u32, [u32; 4]); 7] = [
    // MSRs of performance monitoring (PERF_CAPABILITIES); nested VMX.
    (1, 0, [0, 0, LEAF1_ECX_VMX | 1 << 15, 0]),
    // SGX and its launch control: enclaves lie in memory that cannot be read. Processor trace. Shadow stacks, indirect branch
    // tracking: their MSRs are supervisor state of XSAVES. Architectural last branch records. User interrupts.
    (7, 0, [0, 1 << 2 | 1 << 25, 1 << 7 | 1 << 30, 1 << 20 | 1 << 19 | 1 << 5]),
    // FRED and LKGS, whose stack levels are newer than the events that are saved. Supervisor shadow stacks.
    (7, 1, [1 << 17 | 1 << 18, 0, 0, 1 << 18]),
    // Nested SVM; performance counters: core, northbridge, last-level cache; lightweight profiling; instruction based sampling.
    (0x8000_0001, 0, [0, 0, 1 << 2 | 1 << 10 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 28, 0]),
    // Performance counters, nested SVM, performance counters of AMD; all of them.
    (0xa, 0, [u32::MAX; 4]),
    (0x8000_000a, 0, [u32::MAX; 4]),
    (0x8000_0022, 0, [u32::MAX; 4]),
];
/// Whole leaves of such features: SGX, processor trace, last branch records, instruction based sampling.
const UNSAVED_LEAVES: [u32; 4] = [0x12, 0x14, 0x1c, 0x8000_001b];
/// The parts of extended state that KVM_GET_XSAVE2 gives out whole: x87, SSE, AVX, MPX, AVX-512, protection keys, AMX. Supervisor
/// state is in none of its components.
const XFEATURES_SAVED: u64 = 0b11 | 1 << 2 | 0b11 << 3 | 0b111 << 5 | 1 << 9 | 0b11 << 17;
const LEAF_XSTATE: u32 = 0xd;
/// Extended topology, Intel's first and second kind.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];

const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;

/// What the vCPUs of a machine have in common.
pub(crate) struct CpuModel {
    /// As KVM supports it, less what is not offered. Before [`cpuid_of`](CpuModel::cpuid_of).
    cpuid: Vec<kvm_cpuid_entry2>,
    vcpus: u8,
    /// The MSRs to be saved: all that KVM gives and takes, but the TSC and its deadline, which need care.
    pub(crate) msrs: Vec<u32>,
    /// Bytes of KVM_GET_XSAVE2.
    pub(crate) xsave_bytes: usize,
}

impl CpuModel {
    /// What KVM supports. The MSRs must be [found](CpuModel::find_msrs) on a vCPU.
    pub(crate) fn new(kvm: &Kvm, vm: &VmFd, vcpus: u8) -> Result<CpuModel, Error> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let mut cpuid = supported.as_slice().to_vec();
        cpuid.retain(|entry| !(KVM_FEATURES + 1..0x5000_0000).contains(&entry.function));
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        cpuid.retain(is_saved);
        for entry in &mut cpuid {
            offer(entry, deadline);
        }
        add_topology(&mut cpuid);
        let xsave_bytes = vm.check_extension_int(Cap::Xsave2);
        Ok(CpuModel { cpuid, vcpus, msrs: Vec::new(), xsave_bytes: usize::try_from(xsave_bytes).unwrap_or_default() })
    }

    /// The CPUID leaves of a vCPU: those of the model, and its place among its siblings.
    pub(crate) fn cpuid_of(&self, vcpu: u8) -> Result<CpuId, Error> {
        let mut cpuid = self.cpuid.clone();
        for entry in &mut cpuid {
            place(entry, vcpu, self.vcpus);
        }
        CpuId::from_entries(&cpuid)
            .map_err(|_| Error::Capability { capability: "that few CPUID leaves", since: "5.16" })
    }

    /// Finds out which MSRs can be read from `vcpu` and written back.
    ///
    /// KVM's list has some that a guest with this CPUID does not have, and lacks the MTRRs and machine check banks.
    pub(crate) fn find_msrs(&mut self, kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), Error> {
        let list = kvm.get_msr_index_list().map_err(failed("KVM_GET_MSR_INDEX_LIST"))?;
        let banks = MSR_MCE_BANKS..MSR_MCE_BANKS + 4 * 32;
        let mtrrs = (0x200..0x210).chain([0x250, 0x258, 0x259]).chain(0x268..0x270).chain([0x277, 0x2ff]);
        let mut candidates: Vec<u32> = list.as_slice().iter().copied().chain(mtrrs).chain(banks).collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|msr| !MSRS_HYPERV.contains(msr) && ![MSR_TSC, MSR_TSC_DEADLINE].contains(msr));
        candidates.retain(|msr| reads_and_writes(vcpu, *msr));
        self.msrs = candidates;
        Ok(())
    }

    /// What must be equal on both hosts, as keys and values.
    pub(crate) fn layout(&self) -> Vec<(String, String)> {
        let mut layout = vec![
            ("cpu.vendor".to_owned(), self.text(&[(0, &[1, 3, 2])])),
            ("cpu.model".to_owned(), self.brand().unwrap_or_else(|| "unnamed".to_owned())),
            ("cpu.xsave_bytes".to_owned(), self.xsave_bytes.to_string()),
        ];
        // Leaf by leaf, so that a difference has a name.
        for entry in &self.cpuid {
            let mut entry = *entry;
            place(&mut entry, 0, self.vcpus);
            layout.push((
                format!("cpu.cpuid.{:08x}.{}", entry.function, entry.index),
                format!("{:08x} {:08x} {:08x} {:08x}", entry.eax, entry.ebx, entry.ecx, entry.edx),
            ));
        }
        let msrs: Vec<u8> = self.msrs.iter().flat_map(|msr| msr.to_le_bytes()).collect();
        layout.push(("cpu.msrs".to_owned(), format!("{} {:08x}", self.msrs.len(), crc32c::crc32c(&msrs))));
        layout
    }

    fn brand(&self) -> Option<String> {
        const ALL: &[usize] = &[0, 1, 2, 3];
        let brand = self.text(&[(0x8000_0002, ALL), (0x8000_0003, ALL), (0x8000_0004, ALL)]);
        (!brand.is_empty()).then_some(brand)
    }

    /// The text in some registers of some leaves.
    fn text(&self, parts: &[(u32, &[usize])]) -> String {
        let mut text = Vec::new();
        for (function, registers) in parts {
            for entry in self.cpuid.iter().filter(|entry| entry.function == *function) {
                let values = [entry.eax, entry.ebx, entry.ecx, entry.edx];
                text.extend(registers.iter().flat_map(|register| values[*register].to_le_bytes()));
            }
        }
        String::from_utf8_lossy(&text).trim_matches(['\0', ' ']).to_owned()
    }
}

/// Whether a leaf may be offered at all: it is not one of a feature, or a part of extended state, that is not saved.
fn is_saved(entry: &kvm_cpuid_entry2) -> bool {
    let unsaved_part = entry.function == LEAF_XSTATE && entry.index >= 2 && {
        const SUPERVISOR: u32 = 1;
        entry.ecx & SUPERVISOR != 0 || XFEATURES_SAVED.checked_shr(entry.index).is_none_or(|parts| parts & 1 == 0)
    };
    !UNSAVED_LEAVES.contains(&entry.function) && !unsaved_part
}

/// Makes the leaves of extended topology, which [`place`] fills: KVM lists as many levels of them as it knows of the host, which may be
/// none.
fn add_topology(cpuid: &mut Vec<kvm_cpuid_entry2>) {
    for function in TOPOLOGY {
        if !cpuid.iter().any(|entry| entry.function == function) {
            continue;
        }
        cpuid.retain(|entry| entry.function != function);
        let level =
            |index| kvm_cpuid_entry2 { function, index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..Default::default() };
        // Threads, cores, and the end.
        cpuid.extend((0..3).map(level));
    }
}

/// Takes out of a leaf what is not offered.
fn offer(entry: &mut kvm_cpuid_entry2, deadline: bool) {
    for (_, _, [eax, ebx, ecx, edx]) in
        UNSAVED.iter().filter(|(function, index, _)| (*function, *index) == (entry.function, entry.index))
    {
        entry.eax &= !eax;
        entry.ebx &= !ebx;
        entry.ecx &= !ecx;
        entry.edx &= !edx;
    }
    match entry.function {
        1 => {
            entry.ecx |= LEAF1_ECX_HYPERVISOR;
            if deadline {
                // KVM's support of it is told by a capability, not here.
                entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
        }
        LEAF_XSTATE => match entry.index {
            0 => {
                (entry.eax, entry.edx) =
                    (entry.eax & XFEATURES_SAVED as u32, entry.edx & (XFEATURES_SAVED >> 32) as u32)
            }
            // What XSAVES could save of supervisor state.
            1 => (entry.ecx, entry.edx) = (0, 0),
            _ => {}
        },
        KVM_SIGNATURE => entry.eax = KVM_FEATURES,
        KVM_FEATURES => {
            entry.eax &= KVM_FEATURES_OFFERED;
            entry.edx = 0;
        }
        _ => {}
    }
}

/// Puts a vCPU in its place: all are cores of one package, with their number as APIC ID.
fn place(entry: &mut kvm_cpuid_entry2, vcpu: u8, vcpus: u8) {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let (id, count) = (u32::from(vcpu), u32::from(vcpus));
    let id_bits = u8::BITS - (vcpus - 1).leading_zeros();
    match entry.function {
        1 => {
            entry.ebx = (entry.ebx & 0xffff) | count << 16 | id << 24;
            entry.edx = if count > 1 { entry.edx | LEAF1_EDX_HTT } else { entry.edx & !LEAF1_EDX_HTT };
        }
        // Deterministic cache parameters, Intel's and AMD's: private caches, shared by nobody but the last level.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharers = if entry.eax >> 5 & 7 >= 3 { count } else { 1 };
            entry.eax = (entry.eax & 0x3fff) | (sharers - 1) << 14;
            if entry.function == 4 {
                entry.eax |= (count - 1) << 26;
            }
        }
        // Extended topology.
        0xb | 0x1f => {
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, THREADS),
                1 => (id_bits, count, CORES | 1),
                index => (0, 0, index),
            };
            entry.edx = id;
        }
        0x8000_0008 => entry.ecx = (count - 1) | id_bits << 12,
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

fn reads_and_writes(vcpu: &VcpuFd, msr: u32) -> bool {
    let Ok(mut one) = Msrs::from_entries(&[kvm_msr_entry { index: msr, ..Default::default() }]) else { return false };
    matches!(vcpu.get_msrs(&mut one), Ok(1)) && matches!(vcpu.set_msrs(&one), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_differ_in_their_place_only() {
        let leaf = |vcpu, vcpus| {
            let mut entry = kvm_cpuid_entry2 { function: 1, ebx: 0x1200_0800, edx: 1, ..Default::default() };
            place(&mut entry, vcpu, vcpus);
            (entry.ebx, entry.edx)
        };
        assert_eq!(leaf(0, 1), (0x0001_0800, 1));
        assert_eq!(leaf(1, 2), (0x0102_0800, 1 | LEAF1_EDX_HTT));
        for (vcpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3)] {
            let mut entry = kvm_cpuid_entry2 { function: 0xb, index: 1, ..Default::default() };
            place(&mut entry, 0, vcpus);
            assert_eq!((entry.eax, entry.ebx), (bits, u32::from(vcpus)), "{vcpus} vCPUs");
        }
    }

    #[test]
    fn nothing_is_offered_whose_state_is_not_saved() {
        let mut features = kvm_cpuid_entry2 { function: KVM_FEATURES, eax: u32::MAX, ..Default::default() };
        offer(&mut features, true);
        for (bit, name) in [(4, "async page faults"), (5, "steal time"), (6, "EOI flags"), (14, "async interrupts")] {
            assert_eq!(features.eax >> bit & 1, 0, "{name}");
        }
        let mut leaf = kvm_cpuid_entry2 { function: 1, ecx: LEAF1_ECX_VMX, ..Default::default() };
        offer(&mut leaf, true);
        assert_eq!(leaf.ecx, LEAF1_ECX_HYPERVISOR | LEAF1_ECX_TSC_DEADLINE);
        let all = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let mut leaf = all(7, 0);
        offer(&mut leaf, true);
        assert_eq!((leaf.ecx >> 7 & 1, leaf.edx >> 20 & 1), (0, 0), "shadow stacks, indirect branch tracking");
        assert_eq!(leaf.ebx >> 16 & 1, 1, "AVX-512 is saved");
        let mut leaf = all(LEAF_XSTATE, 0);
        offer(&mut leaf, true);
        assert_eq!((u64::from(leaf.eax), leaf.edx), (XFEATURES_SAVED, 0));
        let mut leaf = all(LEAF_XSTATE, 1);
        offer(&mut leaf, true);
        assert_eq!((leaf.ecx, leaf.edx), (0, 0), "no supervisor state");
        let part = |index, ecx| is_saved(&kvm_cpuid_entry2 { function: LEAF_XSTATE, index, ecx, ..Default::default() });
        assert!(part(0, 0) && part(2, 0) && part(9, 0) && part(18, 2));
        assert!(!part(8, 1) && !part(11, 1) && !part(12, 1) && !part(16, 0) && !part(63, 0) && !part(64, 0));
        assert!(!is_saved(&all(0x14, 0)) && is_saved(&all(1, 0)));
    }

    #[test]
    fn all_cpus_are_cores_of_one_package_whatever_kvm_lists() {
        let mut cpuid = vec![kvm_cpuid_entry2 { function: 0xb, ..Default::default() }];
        add_topology(&mut cpuid);
        let levels: Vec<_> = cpuid.iter().map(|entry| (entry.function, entry.index)).collect();
        assert_eq!(levels, [(0xb, 0), (0xb, 1), (0xb, 2)]);
        let core = |vcpu| {
            let mut cores = cpuid[1];
            place(&mut cores, vcpu, 4);
            (cores.eax, cores.ebx, cores.ecx, cores.edx)
        };
        // Two bits of an APIC ID tell cores apart: what is above them, the package, is 0 for each.
        assert_eq!((core(0), core(3)), ((2, 4, 0x201, 0), (2, 4, 0x201, 3)));
        let mut none = Vec::new();
        add_topology(&mut none);
        assert!(none.is_empty(), "an old CPU");
    }
}
