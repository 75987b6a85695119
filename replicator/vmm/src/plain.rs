//! Kernel structures as bytes.

use kvm_bindings::{
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs2,
    kvm_vcpu_events, kvm_xcrs,
};

/// A structure without padding between its fields, for which every pattern of bits is a value.
///
/// # Safety
/// Both must be true.
pub(crate) unsafe trait Plain: Default + Copy {
    /// It as bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: `self` is valid for so many bytes, and by the contract of this trait all of them are initialized.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that `bytes` are; `None` if there are not just as many as needed.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let mut value = Self::default();
        // SAFETY: both sides are valid for so many bytes and do not overlap, and every pattern is a value by the contract.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast(), bytes.len()) };
        Some(value)
    }
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: these are interfaces between kernel and user space, made of integers only, with all padding as named
            // fields (kvm-bindings derives zerocopy's IntoBytes and FromBytes for the like of them, which checks that).
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    u8,
    u32,
    u64,
    i64,
    kvm_debugregs,
    kvm_irqchip,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msr_entry,
    kvm_pit_state2,
    kvm_regs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_xcrs,
);
