//! Checksums and segmentation that driver and host leave to each other (virtio 1.2, 5.1.6.2 and 5.1.6.4): the header that leads
//! a frame says what is still to be done with it.
//!
//! What the driver agreed to is part of the saved state; the tap is told again after a load, since it is another host's.

use std::ffi::c_uint;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::{HEADER_BUFFERS, HEADER_BYTES};
use crate::virtio::Session;

/// What a card offers. Merged buffers belong to it: without them every receive buffer would have to take the largest segment.
pub(super) const FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Where the header has its flags and the kind of segmentation.
const FLAGS: usize = 0;
const GSO: usize = 1;
/// A flag that the host may set: the checksum was found right. It asks for nothing.
const FLAG_DATA_VALID: u8 = 2;
const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;

/// What the driver of a card has agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offloads(u64);

impl Offloads {
    pub(super) fn agreed(session: &Session<'_>) -> Offloads {
        let agreed = |feature: &u32| session.negotiated(*feature);
        Offloads((0..u64::BITS).filter(agreed).fold(0, |bits, feature| bits | 1 << feature))
    }

    fn has(self, feature: u32) -> bool {
        self.0 >> feature & 1 == 1
    }

    /// Whether a frame may fill several receive buffers.
    pub(super) fn merges_buffers(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// For TUNSETOFFLOAD: what the host may leave to the driver.
    pub(super) fn of_tap(self) -> c_uint {
        let flag = |feature, flag| if self.has(feature) { flag } else { 0 };
        if !self.has(VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        libc::TUN_F_CSUM as c_uint
            | flag(VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4 as c_uint)
            | flag(VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6 as c_uint)
    }

    /// Whether a frame that is led by `header` may be given to the driver: one that waited in the tap may be of an earlier
    /// agreement.
    pub(super) fn may_receive(self, header: &[u8]) -> bool {
        let checksum = header[FLAGS] & (NEEDS_CSUM | FLAG_DATA_VALID) == 0 || self.has(VIRTIO_NET_F_GUEST_CSUM);
        checksum && self.allows(header[GSO], VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6)
    }

    /// Has the header of a frame from the driver say no more than it may. What it says then, the kernel checks.
    pub(super) fn restrict_sent(self, header: &mut [u8]) {
        if !self.has(VIRTIO_NET_F_CSUM) || header[FLAGS] & NEEDS_CSUM == 0 {
            header[..HEADER_BYTES].fill(0);
            return;
        }
        header[FLAGS] = NEEDS_CSUM;
        if !self.allows(header[GSO], VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6) {
            header[GSO] = VIRTIO_NET_HDR_GSO_NONE as u8;
        }
        header[HEADER_BUFFERS].fill(0);
    }

    fn allows(self, gso: u8, for_ipv4: u32, for_ipv6: u32) -> bool {
        match u32::from(gso) {
            VIRTIO_NET_HDR_GSO_NONE => true,
            VIRTIO_NET_HDR_GSO_TCPV4 => self.has(for_ipv4),
            VIRTIO_NET_HDR_GSO_TCPV6 => self.has(for_ipv6),
            // UDP, and segments with ECN, are not offered.
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn with(features: &[u32]) -> Offloads {
        let mut bits = 0;
        let mut index = 0;
        while index < features.len() {
            bits |= 1 << features[index];
            index += 1;
        }
        Offloads(bits)
    }

    fn header(flags: u8, gso: u32) -> [u8; HEADER_BYTES] {
        [flags, gso as u8, 54, 0, 0xa8, 5, 34, 0, 16, 0, 7, 7]
    }

    #[test]
    fn the_tap_leaves_to_the_driver_what_that_agreed_to() {
        assert_eq!(with(&[VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_TSO4]).of_tap(), 0, "nothing without checksums");
        assert_eq!(with(&[VIRTIO_NET_F_GUEST_CSUM]).of_tap(), 1);
        assert_eq!(with(&[VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6]).of_tap(), 7);
    }

    #[test]
    fn a_frame_of_another_agreement_is_not_received() {
        let plain = header(0, VIRTIO_NET_HDR_GSO_NONE);
        let partial = header(NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE);
        let segments = header(NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4);
        let frames = [plain, partial, segments];
        let may = |offloads: Offloads| frames.map(|frame| offloads.may_receive(&frame));
        assert_eq!(may(Offloads::default()), [true, false, false]);
        assert_eq!(may(with(&[VIRTIO_NET_F_GUEST_CSUM])), [true, true, false]);
        assert_eq!(may(with(&[VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4])), [true, true, true]);
        assert!(!Offloads(FEATURES).may_receive(&header(NEEDS_CSUM, 3)), "UDP");
    }

    #[test]
    fn a_header_asks_for_no_more_than_was_agreed() {
        let restricted = |offloads: Offloads, mut header: [u8; HEADER_BYTES]| {
            offloads.restrict_sent(&mut header);
            header
        };
        let segments = header(NEEDS_CSUM | FLAG_DATA_VALID, VIRTIO_NET_HDR_GSO_TCPV4);
        assert_eq!(restricted(Offloads::default(), segments), [0; HEADER_BYTES]);
        let mut checksum = header(NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE);
        checksum[HEADER_BUFFERS].fill(0);
        assert_eq!(restricted(with(&[VIRTIO_NET_F_CSUM]), segments), checksum);
        let agreed = restricted(with(&[VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4]), segments);
        assert_eq!((agreed[FLAGS], agreed[GSO], agreed[10]), (NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 as u8, 0));
        assert_eq!(restricted(Offloads(FEATURES), header(0, VIRTIO_NET_HDR_GSO_TCPV4)), [0; HEADER_BYTES]);
    }
}
