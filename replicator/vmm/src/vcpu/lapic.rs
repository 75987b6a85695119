//! The registers of a local APIC, as KVM_GET_LAPIC gives them (Intel SDM, volume 3, table 12-1).

use kvm_bindings::kvm_lapic_state;

/// The processor's priority, which is computed from TPR and ISR whenever an interrupt is considered (ibid., 12.8.3.1).
const PROCESSOR_PRIORITY: usize = 0xa0;
const ISR: usize = 0x100;
const IRR: usize = 0x200;
const LVT_TIMER: usize = 0x320;
const CURRENT_COUNT: usize = 0x390;
/// ISR, TMR and IRR have 256 bits each, 32 in every 16 bytes.
const BITS_BYTES: usize = 0x80;

const LVT_MASKED: u32 = 1 << 16;
const LVT_TIMER_MODE: u32 = 3 << 17;
const LVT_TIMER_DEADLINE: u32 = 2 << 17;

fn register(lapic: &kvm_lapic_state, offset: usize) -> u32 {
    let byte = |at: usize| lapic.regs[offset + at] as u8;
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

fn bit(lapic: &kvm_lapic_state, base: usize, vector: u32) -> bool {
    register(lapic, base + (vector as usize / 32) * 0x10) >> (vector % 32) & 1 == 1
}

/// Whether the timer is in TSC-deadline mode, unmasked, and its interrupt neither pending nor in service.
pub(super) fn awaits_deadline(lapic: &kvm_lapic_state) -> bool {
    let timer = register(lapic, LVT_TIMER);
    let vector = timer & 0xff;
    timer & LVT_TIMER_MODE == LVT_TIMER_DEADLINE
        && timer & LVT_MASKED == 0
        && !bit(lapic, IRR, vector)
        && !bit(lapic, ISR, vector)
}

/// The first register in which `later` is not `earlier` a little later, with no vCPU having run: the timer may have counted, and
/// interrupts may have come.
pub(super) fn difference(earlier: &kvm_lapic_state, later: &kvm_lapic_state) -> Option<String> {
    (0..earlier.regs.len()).step_by(4).find_map(|offset| {
        let (before, after) = (register(earlier, offset), register(later, offset));
        let continued = match offset {
            CURRENT_COUNT => true,
            // KVM_SET_LAPIC computes it before it counts the loaded bits of ISR (kvm_apic_set_state in arch/x86/kvm/lapic.c).
            PROCESSOR_PRIORITY => true,
            _ if (IRR..IRR + BITS_BYTES).contains(&offset) => before & !after == 0,
            _ => before == after,
        };
        (!continued).then(|| format!("lapic register {offset:#x} ({before:#x}, read back {after:#x})"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[(usize, u32)]) -> kvm_lapic_state {
        let mut lapic = kvm_lapic_state::default();
        for (offset, value) in values {
            for (at, byte) in value.to_le_bytes().into_iter().enumerate() {
                lapic.regs[offset + at] = byte as i8;
            }
        }
        lapic
    }

    #[test]
    fn a_deadline_is_awaited_until_its_interrupt_is_there() {
        let timer = (LVT_TIMER, LVT_TIMER_DEADLINE | 0xec);
        let at = |base: usize| base + (0xec / 32) * 0x10;
        assert!(awaits_deadline(&with(&[timer])));
        assert!(!awaits_deadline(&with(&[timer, (at(IRR), 1 << (0xec % 32))])));
        assert!(!awaits_deadline(&with(&[timer, (at(ISR), 1 << (0xec % 32))])));
        assert!(!awaits_deadline(&with(&[(LVT_TIMER, LVT_TIMER_DEADLINE | LVT_MASKED | 0xec)])));
        assert!(!awaits_deadline(&with(&[(LVT_TIMER, 0xec)])));
    }

    #[test]
    fn what_is_computed_from_other_registers_may_differ_and_they_may_not() {
        let in_service = with(&[(0x80, 0x10), (PROCESSOR_PRIORITY, 0xe0), (ISR + 0x70, 1)]);
        let not_yet_computed = with(&[(0x80, 0x10), (PROCESSOR_PRIORITY, 0x10), (ISR + 0x70, 1)]);
        assert_eq!(difference(&in_service, &not_yet_computed), None);
        assert!(difference(&in_service, &with(&[(0x80, 0x20), (ISR + 0x70, 1)])).is_some());
        assert!(difference(&in_service, &with(&[(0x80, 0x10)])).is_some());
    }

    #[test]
    fn interrupts_may_come_but_not_go() {
        let pending = with(&[(IRR + 0x10, 2)]);
        assert_eq!(difference(&pending, &with(&[(IRR + 0x10, 3), (CURRENT_COUNT, 9)])), None);
        assert!(difference(&pending, &with(&[(IRR + 0x10, 1)])).is_some_and(|text| text.contains("0x210")));
        assert!(difference(&pending, &with(&[(IRR + 0x10, 2), (ISR, 1)])).is_some());
    }
}
