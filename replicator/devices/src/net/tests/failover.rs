//! What becomes of frames when the host dies.

use super::*;
use crate::StateError;
use crate::virtio::driver::MEMORY_BYTES;

/// Of the frames in a scenario.
const FRAMES: u16 = 8;

#[test]
fn frames_are_sent_in_order_and_none_is_forgotten_at_every_point() {
    for taken in 0..=FRAMES {
        for released in 0..=taken {
            let mut first = Rig::running();
            (0..taken).for_each(|head| first.transmit(head, head));
            first.service_all();
            first.commit();
            first.release(usize::from(released));
            (taken..FRAMES).for_each(|head| first.transmit(head, head));
            let seen = first.sent();
            assert_eq!(seen, (0..released).collect::<Vec<_>>());

            let mut second = first.failover();
            second.service_all();
            assert!(!second.gate.is_holding(), "not started");
            second.net.start();
            second.service_all();
            assert_eq!(second.irq.read().ok(), Some(1), "an interrupt on its way may have been lost");
            second.settle();
            assert_eq!(second.sent(), (released..FRAMES).collect::<Vec<_>>(), "{released} of {taken} released");
            assert_eq!(second.sent_back(), (released..FRAMES).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_second_failover_in_the_middle_of_the_first_loses_nothing() {
    let mut first = Rig::running();
    (0..FRAMES).for_each(|head| first.transmit(head, head));
    first.service_all();
    let mut second = first.failover();
    second.net.start();
    second.net.set_backpressure(true);
    second.service_all();
    let mut third = second.failover();
    third.net.start();
    third.settle();
    assert_eq!(third.sent(), (0..FRAMES).collect::<Vec<_>>());
}

#[test]
fn what_was_held_before_a_load_is_never_sent() {
    let mut rig = Rig::running();
    let before = rig.state();
    let content = rig.driver.bytes(0, MEMORY_BYTES);
    rig.transmit(0, 1);
    rig.net.announce(&mut Vec::new());
    rig.service_all();
    let old = rig.released();
    assert_eq!(old.len(), 1);
    vm_memory::Bytes::write_slice(&rig.driver.memory, &content, vm_memory::GuestAddress(0)).expect("memory");
    rig.net.load(1, &before).expect("good state");
    rig.driver.resume();
    rig.net.start();
    old.into_iter().for_each(|output| rig.net.release(output));
    rig.settle();
    assert_eq!((rig.sent(), rig.sent_back()), (vec![], vec![]));
    assert_eq!(rig.link(), 1, "nor is the guest asked to announce itself");
}

#[test]
fn an_announcement_that_the_guest_has_not_seen_is_made_again() {
    let mut rig = Rig::running();
    rig.net.announce(&mut Vec::new());
    let other = rig.failover();
    assert_eq!((other.link(), other.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & 2), (3, 2));
}

#[test]
fn foreign_state_is_refused() {
    let mut rig = Rig::running();
    rig.transmit(0, 1);
    rig.service_all();
    let good = rig.state();
    assert!(matches!(rig.net.load(2, &good), Err(StateError::Version { version: 2, known: 1, .. })));
    assert!(matches!(rig.net.load(1, &good[..good.len() - 1]), Err(StateError::Encoding { .. })));
    assert!(matches!(rig.net.load(1, &[&good[..], &[0]].concat()), Err(StateError::Invalid { .. })));
    let mut odd_link = good.clone();
    *odd_link.last_mut().expect("not empty") = 0x7f;
    let error = rig.net.load(1, &odd_link).expect_err("no such status").to_string();
    assert!(error.contains("link status 0x7f"), "{error}");
    // It is as it was: what is held can still leave.
    rig.settle();
    assert_eq!((rig.sent(), rig.sent_back()), (vec![1], vec![0]));
}
