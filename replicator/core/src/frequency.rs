//! Frequencies as they are measured.

/// How far two measurements of one frequency may be apart, in millionths: what a guest's time keeping corrects by itself, and
/// what QEMU takes for equal. KVM's measurement of the same clock differs by some kHz from boot to boot.
const TOLERANCE_PPM: u64 = 250;

/// Whether two measured frequencies may be taken for the same.
#[must_use]
pub fn same_frequency(one_khz: u32, other_khz: u32) -> bool {
    let least = u64::from(one_khz.min(other_khz));
    u64::from(one_khz.abs_diff(other_khz)) * 1_000_000 <= least * TOLERANCE_PPM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_measured_twice_are_the_same() {
        assert!(same_frequency(2_445_430, 2_445_432) && same_frequency(2_445_499, 2_445_501));
        assert!(same_frequency(2_445_430, 2_445_430 + 600) && same_frequency(2_445_430 + 600, 2_445_430));
        assert!(!same_frequency(2_445_430, 2_445_430 + 700) && !same_frequency(2_445_430, 2_000_000));
        assert!(!same_frequency(0, 1) && same_frequency(u32::MAX, u32::MAX));
    }
}
