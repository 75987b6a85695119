//! How the network learns that the guest is elsewhere now.

use super::HEADER_BYTES;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERNET: u16 = 1;
const IPV4: u16 = 0x0800;
const REVERSE_REQUEST: u16 = 3;
/// The shortest Ethernet frame, without its checksum.
const SHORTEST_FRAME: usize = 60;

/// A RARP request from `mac` (RFC 903), led by an empty virtio-net header. It asks nothing that anybody answers; the switches on its way
/// learn from its source address where the guest is.
pub(super) fn rarp(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_RARP.to_be_bytes());
    frame.extend(ETHERNET.to_be_bytes());
    frame.extend(IPV4.to_be_bytes());
    frame.extend([mac.len() as u8, 4]);
    frame.extend(REVERSE_REQUEST.to_be_bytes());
    for _sender_and_target in 0..2 {
        frame.extend(mac);
        frame.extend([0; 4]);
    }
    frame.resize(HEADER_BYTES + SHORTEST_FRAME, 0);
    frame
}
