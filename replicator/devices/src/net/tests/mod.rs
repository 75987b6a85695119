//! The card as a driver, the event loop and the wire see it.

mod failover;
mod hostile;
mod merged;
mod rig;
mod tap;

use kemari_core::Weigh;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS};
use vm_memory::GuestMemoryBackend;
use vm_memory::bitmap::Bitmap;

use super::*;
use crate::virtio::driver::{Driver, ENTRIES, WRITABLE};
use crate::{Device, OutputKind};
use rig::{FEATURES, MAC, ROOM, Rig, buffer, frame, led};

#[test]
fn a_frame_is_on_the_wire_and_its_buffer_back_only_after_the_checkpoint() {
    let mut rig = Rig::running();
    rig.transmit(0, 7);
    rig.service(TX as u8);
    assert_eq!(rig.gate.held().map(|(_, output)| output.kind()).collect::<Vec<_>>(), [OutputKind::Frame]);
    assert!(rig.gate.held().all(|(_, output)| (60..400).contains(&output.weight_bytes())));
    assert_eq!((rig.wire(), rig.sent_back(), rig.net.stats().held_frames), (vec![], vec![], 1));
    // The guest may change its buffer: what was taken counts.
    rig.driver.put(u64::MAX, buffer(TX, 0) + 30);
    rig.commit();
    rig.release(1);
    assert_eq!(rig.wire(), [led(&frame(7))], "and the header says nothing");
    assert_eq!(rig.sent_back(), [0]);
    let bytes = frame(7).len() as u64;
    assert_eq!(rig.net.stats(), NetStats { sent_frames: 1, sent_bytes: bytes, ..NetStats::default() });
}

#[test]
fn a_batch_keeps_its_order_and_costs_one_interrupt() {
    let mut rig = Rig::running();
    for head in 0..10 {
        rig.transmit(head, 100 + head);
    }
    rig.collect();
    rig.commit();
    assert!(rig.irq.read().is_err());
    rig.release(usize::MAX);
    assert_eq!(rig.sent(), (100..110).collect::<Vec<_>>());
    assert_eq!(rig.sent_back(), (0..10).collect::<Vec<_>>());
    assert_eq!(rig.irq.read().ok(), Some(1));
    rig.net.signal();
    assert!(rig.irq.read().is_err(), "told once");
}

#[test]
fn a_frame_may_be_cut_up_as_the_driver_likes() {
    let mut rig = Rig::running();
    let at = buffer(TX, 0);
    let bytes = led(&frame(9));
    for (offset, byte) in (0..).zip(&bytes) {
        rig.driver.put(*byte, at + offset * 3);
    }
    let first: Vec<_> = (0..8).map(|offset| (at + offset * 3, 1, 0)).collect();
    rig.driver.put(0u32, at + 0x1000);
    for (offset, byte) in (0..).zip(&bytes[12..]) {
        rig.driver.put(*byte, at + 0x1800 + offset);
    }
    let rest = [(at + 0x1000, 4, 0), (at + 0x1800, (bytes.len() - 12) as u32, 0)];
    rig.driver.offer(TX, 0, &[&first[..], &rest].concat());
    rig.settle();
    assert_eq!(rig.sent(), [9]);
}

#[test]
fn what_is_no_frame_is_given_back_and_counted() {
    let mut rig = Rig::running();
    let at = buffer(TX, 0);
    rig.driver.offer(TX, 0, &[(at, HEADER_BYTES as u32, 0)]);
    rig.driver.offer(TX, 1, &[(at, 100, WRITABLE)]);
    rig.driver.offer(TX, 2, &[(at, 40_000, 0), (at, 40_000, 0)]);
    rig.settle();
    assert_eq!((rig.sent_back(), rig.net.stats().send_errors), (vec![0, 1, 2], 3));
    rig.driver.offer(TX, 3, &[(at, (HEADER_BYTES + FRAME_BYTES_MAX) as u32, 0)]);
    rig.settle();
    assert_eq!(rig.wire()[0].len(), HEADER_BYTES + FRAME_BYTES_MAX, "as long as can be");
}

#[test]
fn a_frame_that_arrives_is_received_at_once() {
    let mut rig = Rig::running();
    rig.make_room(0, ROOM);
    rig.driver.offer(RX, 1, &[(buffer(RX, 1), 5, WRITABLE), (buffer(RX, 1) + 5, ROOM, WRITABLE)]);
    rig.arrive(1);
    rig.arrive(2);
    rig.service(TAP);
    assert_eq!(rig.driver.get::<[u8; 2]>(buffer(RX, 0) + 10), [1, 0], "in one buffer");
    assert_eq!(rig.received(), [1, 2]);
    assert_eq!((rig.irq.read().ok(), rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS)), (Some(1), 1));
    let bytes = (frame(1).len() + frame(2).len()) as u64;
    assert_eq!(rig.net.stats(), NetStats { received_frames: 2, received_bytes: bytes, ..NetStats::default() });
    assert!(!rig.gate.is_holding());
}

#[test]
fn without_buffers_frames_wait_in_the_tap_and_are_remembered() {
    let mut rig = Rig::running();
    rig.arrive(1);
    rig.arrive(2);
    // The only edge that there will be.
    rig.service(TAP);
    for head in 0..2 {
        assert_eq!(rig.received(), [] as [u16; 0]);
        rig.make_room(head, ROOM);
        rig.service(RX as u8);
        assert_eq!(rig.received(), [1 + head]);
    }
}

#[test]
fn a_buffer_too_small_costs_a_frame() {
    let mut rig = Rig::running();
    rig.make_room(0, 40);
    rig.make_room(1, ROOM);
    rig.arrive(1);
    rig.arrive(2);
    rig.service(TAP);
    assert_eq!(rig.driver.used(RX), [(0, 0), (1, led(&frame(2)).len() as u32)]);
    assert_eq!(rig.net.stats().receive_drops, 1);
}

#[test]
fn what_arrives_without_a_whole_header_costs_no_buffer() {
    let mut rig = Rig::running();
    rig.make_room(0, ROOM);
    for runt in [0, 5, HEADER_BYTES - 1] {
        rig.wire.send(&vec![0; runt]).expect("room on the wire");
    }
    rig.arrive(1);
    rig.service(TAP);
    assert_eq!(rig.received(), [1]);
    assert_eq!(rig.net.stats().receive_drops, 3);
}

#[test]
fn a_buffer_that_cannot_be_written_costs_a_frame() {
    let mut rig = Rig::running();
    rig.driver.offer(RX, 0, &[(buffer(RX, 0), ROOM, 0)]);
    rig.arrive(1);
    rig.service(TAP);
    assert_eq!(rig.driver.used(RX), [(0, 0)]);
    assert_eq!(rig.net.stats(), NetStats { receive_drops: 1, ..NetStats::default() });
}

#[test]
fn pages_that_a_frame_was_received_into_are_dirty() {
    let mut rig = Rig::running();
    rig.make_room(3, ROOM);
    let region = rig.driver.memory.iter().next().expect("one region");
    let bitmap: &vm_memory::bitmap::AtomicBitmap = vm_memory::MmapRegion::bitmap(region);
    bitmap.reset();
    rig.arrive(1);
    rig.net.service(crate::SourceId { device: rig::ID, index: TAP }, &mut Vec::new(), &mut Vec::new());
    assert!(bitmap.dirty_at(buffer(RX, 3) as usize) && bitmap.dirty_at(Driver::table(RX) as usize + 0x2000));
}

#[test]
fn a_stopped_card_neither_hears_nor_speaks() {
    let mut rig = Rig::new();
    rig.driver.start(FEATURES);
    rig.make_room(0, ROOM);
    rig.arrive(1);
    rig.transmit(0, 1);
    rig.service_all();
    rig.collect();
    assert!(!rig.gate.is_holding() && rig.received().is_empty() && rig.irq.read().is_err());
    rig.net.start();
    rig.service_all();
    assert_eq!(rig.received(), [] as [u16; 0], "what is stale is forgotten");
    rig.arrive(2);
    rig.service_all();
    assert_eq!((rig.received(), rig.gate.held().len()), (vec![2], 1));
    // Released to a stopped card, a frame waits for the start.
    rig.net.stop();
    rig.commit();
    rig.release(1);
    rig.service_all();
    assert_eq!((rig.sent(), rig.sent_back()), (vec![], vec![]));
    rig.net.start();
    rig.service_all();
    assert_eq!((rig.sent(), rig.sent_back()), (vec![1], vec![0]));
}

#[test]
fn a_full_gate_leaves_frames_with_the_guest() {
    let mut rig = Rig::running();
    rig.net.set_backpressure(true);
    rig.transmit(0, 1);
    rig.service_all();
    rig.collect();
    assert!(!rig.gate.is_holding());
    rig.make_room(0, ROOM);
    rig.arrive(5);
    rig.service_all();
    assert_eq!(rig.received(), [5], "the other direction goes on");
    let rings = |rig: &Rig| rig.net.notifiers()[TX].read().is_ok();
    rings(&rig);
    rig.net.set_backpressure(false);
    assert!(rings(&rig), "its source becomes ready");
    rig.service(TX as u8);
    assert_eq!(rig.gate.held().len(), 1);
}

#[test]
fn frames_wait_in_order_for_room_in_the_tap() {
    let mut rig = Rig::running();
    let mut next = 0;
    // The wire has room for some, the card for a queue's worth; then the guest waits.
    let mut given_back = Vec::new();
    for _ in 0..200 {
        for head in given_back.drain(..) {
            rig.transmit(head, next);
            next += 1;
        }
        if next == 0 {
            (0..ENTRIES).for_each(|head| rig.transmit(head, head));
            next = ENTRIES;
        }
        rig.settle();
        given_back = rig.sent_back();
    }
    assert!(given_back.is_empty() && rig.net.stats().held_frames == u64::from(ENTRIES), "nothing moves");
    let mut sent = rig.sent();
    while sent.len() < usize::from(next) {
        rig.service(TAP);
        let more = rig.sent();
        assert!(!more.is_empty());
        sent.extend(more);
    }
    assert_eq!(sent, (0..next).collect::<Vec<_>>());
    assert_eq!(rig.sent_back().len(), usize::from(ENTRIES));
}

#[test]
fn resets_do_not_make_room_for_more_frames() {
    let mut rig = Rig::running();
    for round in 0..40 {
        rig.driver.start(FEATURES);
        (0..ENTRIES).for_each(|head| rig.transmit(head, round * ENTRIES + head));
        rig.settle();
    }
    assert!(rig.net.unsent.len() < usize::from(QUEUE_SIZES[TX] + ENTRIES), "{}", rig.net.unsent.len());
    let mut sent = Vec::new();
    while !rig.net.unsent.is_empty() || rig.gate.is_holding() {
        rig.settle();
        sent.extend(rig.sent());
    }
    sent.extend(rig.sent());
    assert!(sent.is_sorted(), "{sent:?}");
    assert!(sent.ends_with(&[40 * ENTRIES - 2, 40 * ENTRIES - 1]), "the last driver is served in the end");
}

#[test]
fn a_reset_does_not_take_back_what_was_said() {
    let mut rig = Rig::running();
    rig.transmit(0, 1);
    rig.service_all();
    rig.driver.start(FEATURES);
    rig.transmit(0, 2);
    rig.service_all();
    rig.commit();
    rig.release(1);
    assert_eq!((rig.sent(), rig.sent_back()), (vec![1], vec![]), "the buffer is of another time");
    rig.release(1);
    assert_eq!((rig.sent(), rig.sent_back()), (vec![2], vec![0]));
    rig.driver.write(VIRTIO_MMIO_STATUS, 0);
    rig.arrive(3);
    rig.service_all();
    assert_eq!(rig.received(), [] as [u16; 0]);
}

#[test]
fn the_network_and_the_guest_are_told_of_a_new_place() {
    let mut rig = Rig::running();
    assert_eq!((rig.link(), rig.driver.read(0x100).to_le_bytes().as_slice()), (1, &MAC[..4]));
    let mut outputs = Vec::new();
    rig.net.announce(&mut outputs);
    outputs.into_iter().for_each(|output| rig.gate.hold(output));
    assert_eq!((rig.link(), rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), rig.irq.read().ok()), (3, 2, Some(1)));
    assert_eq!(rig.wire(), [] as [Vec<u8>; 0], "held, as any output");
    rig.settle();
    let frames = rig.wire();
    assert_eq!((frames.len(), frames[0].len()), (1, HEADER_BYTES + 60));
    let rarp = [&[0xff; 6][..], &MAC, &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], &MAC, &[0; 4], &MAC, &[0; 4]].concat();
    assert_eq!(frames[0][HEADER_BYTES..][..rarp.len()], rarp);
    // The guest says that it will.
    rig.driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 2);
    let at = buffer(CONTROL, 0);
    for (head, (command, answer, status)) in (0..).zip([([3u8, 1], 1u8, 3), ([1, 0], 1, 3), ([3, 0], 0, 1)]) {
        rig.driver.put(command, at);
        rig.driver.offer(CONTROL, head, &[(at, 1, 0), (at + 1, 1, 0), (at + 8, 1, WRITABLE)]);
        rig.service(CONTROL as u8);
        assert_eq!((rig.driver.get::<u8>(at + 8), rig.link()), (answer, status), "{command:?}");
    }
    assert_eq!(rig.driver.used(CONTROL).len(), 3);
}

#[test]
fn a_guest_without_a_driver_is_not_disturbed_by_an_announcement() {
    let mut rig = Rig::new();
    rig.net.start();
    let mut outputs = Vec::new();
    rig.net.announce(&mut outputs);
    assert_eq!(outputs.len(), 1);
    assert!(rig.irq.read().is_err() && rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) == 0);
}
