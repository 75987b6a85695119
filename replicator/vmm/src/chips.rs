//! What belongs to the VM and not to a vCPU: timer, interrupt controllers, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use crate::kvm::failed;
use crate::plain::Plain;
use crate::sections::Reader;
use crate::{Error, LoadError};

/// Kind of the section.
pub(crate) const KIND: &str = "chips";
/// Version of the section.
pub(crate) const VERSION: u16 = 1;

const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
/// Within a `kvm_irqchip`: where the chip begins.
const CHIP: usize = 8;
/// Within a PIC: lines as last seen, and requests (`kvm_pic_state`).
const PIC_REQUESTS: std::ops::Range<usize> = CHIP..CHIP + 2;
/// Within an IOAPIC: requests (`kvm_ioapic_state`).
const IOAPIC_REQUESTS: std::ops::Range<usize> = CHIP + 16..CHIP + 20;

/// The in-kernel PIT, PICs and IOAPIC, to be saved before the LAPICs.
#[derive(Clone)]
pub(crate) struct Chips {
    pit: kvm_pit_state2,
    irqchips: [kvm_irqchip; 3],
}

impl Chips {
    /// Makes them.
    pub(crate) fn create(vm: &VmFd) -> Result<(), Error> {
        // Where Intel's VMX without unrestricted guest has its tables: a page and three, just below the BIOS.
        vm.set_identity_map_address(0xfffb_c000).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(0xfffb_d000).map_err(failed("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2"))
    }

    /// Saves them.
    pub(crate) fn save(vm: &VmFd) -> Result<Chips, Error> {
        let pit = vm.get_pit2().map_err(failed("KVM_GET_PIT2"))?;
        let mut irqchips = IRQCHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for irqchip in &mut irqchips {
            vm.get_irqchip(irqchip).map_err(failed("KVM_GET_IRQCHIP"))?;
        }
        Ok(Chips { pit, irqchips })
    }

    /// Puts them back. The LAPICs must be loaded before: the IOAPIC delivers what it has pending at once.
    pub(crate) fn load(&self, vm: &VmFd) -> Result<(), Error> {
        for irqchip in &self.irqchips {
            vm.set_irqchip(irqchip).map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        vm.set_pit2(&self.pit).map_err(failed("KVM_SET_PIT2"))
    }

    /// As bytes.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.extend(self.pit.bytes());
        for irqchip in &self.irqchips {
            into.extend(irqchip.bytes());
        }
    }

    /// The opposite of [`encode`](Chips::encode).
    pub(crate) fn decode(mut from: Reader<'_>) -> Result<Chips, LoadError> {
        let pit = from.take("pit")?;
        let mut irqchips = [kvm_irqchip::default(); 3];
        for (irqchip, id) in irqchips.iter_mut().zip(IRQCHIPS) {
            *irqchip = from.take("irqchip")?;
            if irqchip.chip_id != id {
                return Err(LoadError::Malformed(format!("irqchip {id} is irqchip {}", irqchip.chip_id)));
            }
        }
        from.finish(KIND)?;
        Ok(Chips { pit, irqchips })
    }

    /// The fields in which `loaded`, saved after this was loaded, differs. The timer runs on and may have asked for an interrupt.
    pub(crate) fn differences(&self, loaded: &Chips) -> Vec<String> {
        let still = |pit: &kvm_pit_state2| {
            let mut pit = *pit;
            pit.channels.iter_mut().for_each(|channel| channel.count_load_time = 0);
            pit
        };
        let mut differences = Vec::new();
        if still(&self.pit) != still(&loaded.pit) {
            differences.push("pit".to_owned());
        }
        for (mine, other) in self.irqchips.iter().zip(&loaded.irqchips) {
            let (requests, name) = match mine.chip_id {
                KVM_IRQCHIP_IOAPIC => (IOAPIC_REQUESTS, "ioapic"),
                KVM_IRQCHIP_PIC_MASTER => (PIC_REQUESTS, "pic0"),
                _ => (PIC_REQUESTS, "pic1"),
            };
            let (mine, other) = (mine.bytes(), other.bytes());
            if mine[..requests.start] != other[..requests.start] || mine[requests.end..] != other[requests.end..] {
                differences.push(name.to_owned());
            }
        }
        differences
    }
}

/// kvmclock as of now, in nanoseconds. To be read after the vCPUs' state.
pub(crate) fn clock(vm: &VmFd) -> Result<u64, Error> {
    Ok(vm.get_clock().map_err(failed("KVM_GET_CLOCK"))?.clock)
}

/// Lets kvmclock go on from `clock`: not from what it would be by now (KVM_CLOCK_REALTIME), since the guest's time must not
/// jump by the outage.
pub(crate) fn set_clock(vm: &VmFd, clock: u64) -> Result<(), Error> {
    vm.set_clock(&kvm_clock_data { clock, ..Default::default() }).map_err(failed("KVM_SET_CLOCK"))
}
