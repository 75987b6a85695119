//! Frames that fill several receive buffers.

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::*;

/// Bytes of each receive buffer: some of them make room for a frame.
const SMALL: u32 = 30;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.run_with(FEATURES | 1 << VIRTIO_NET_F_MRG_RXBUF);
    rig
}

/// What came back, put together: heads, and the bytes in them.
fn received(rig: &mut Rig) -> (Vec<u16>, Vec<u8>) {
    let used = rig.driver.used(RX);
    let bytes = used.iter().flat_map(|(head, bytes)| rig.driver.bytes(buffer(RX, *head), *bytes as usize)).collect();
    (used.into_iter().map(|(head, _)| head).collect(), bytes)
}

#[test]
fn a_frame_takes_as_many_buffers_as_it_needs() {
    let mut rig = rig();
    (0..4).for_each(|head| rig.make_room(head, SMALL));
    rig.arrive(20);
    rig.service(TAP);
    let (heads, bytes) = received(&mut rig);
    assert_eq!(heads, [0, 1, 2, 3], "92 bytes");
    assert_eq!((&bytes[HEADER_BYTES..], &bytes[HEADER_BUFFERS]), (&frame(20)[..], &[4, 0][..]));
    assert_eq!(rig.irq.read().ok(), Some(1));
}

#[test]
fn with_too_few_buffers_it_waits_and_keeps_its_order() {
    let mut rig = rig();
    rig.make_room(0, SMALL);
    rig.make_room(1, SMALL);
    rig.arrive(20);
    rig.arrive(1);
    rig.service(TAP);
    assert_eq!(received(&mut rig).0, [] as [u16; 0]);
    (2..6).for_each(|head| rig.make_room(head, SMALL));
    rig.service(RX as u8);
    assert_eq!(received(&mut rig).0, [0, 1, 2, 3], "in the order they were offered; and the next one waits");
    rig.make_room(6, ROOM);
    rig.service(RX as u8);
    assert_eq!(received(&mut rig).0, [4, 5, 6]);
    assert_eq!(rig.net.stats().received_frames, 2);
}

#[test]
fn a_failover_loses_the_frame_that_waits_and_no_buffer() {
    let mut rig = rig();
    rig.make_room(0, SMALL);
    rig.arrive(20);
    rig.service(TAP);
    let mut other = rig.failover();
    other.net.start();
    (1..4).for_each(|head| other.make_room(head, SMALL));
    other.arrive(30);
    other.service_all();
    let (heads, bytes) = received(&mut other);
    assert_eq!((heads, &bytes[HEADER_BYTES..]), (vec![0, 1, 2, 3], &frame(30)[..]));
}

#[test]
fn a_frame_for_which_no_queue_is_enough_is_dropped() {
    let mut rig = rig();
    (0..ENTRIES).for_each(|head| rig.make_room(head, 2));
    rig.arrive(20);
    rig.service(TAP);
    assert_eq!((received(&mut rig).1, rig.net.stats().receive_drops), (vec![], 1));
}
