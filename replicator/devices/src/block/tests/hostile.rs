//! Drivers that break every rule.

use proptest::prelude::*;
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_GET_ID;

use super::rig::{IMAGE_SECTORS, MEMORY_BYTES, Rig, TABLE, directory, image, sector};
use super::*;

#[derive(Clone, Debug)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let end = MEMORY_BYTES as u64;
    let address =
        prop_oneof![6 => 0x8000..0x10000u64, 2 => end - 600..end + 600, 1 => TABLE..TABLE + 0x4000, 1 => any::<u64>()];
    let bytes = prop_oneof![4 => Just(16u32), 4 => Just(512), 2 => Just(1), 2 => 0..2000u32, 1 => any::<u32>()];
    let flags = prop_oneof![4 => Just(1u16), 4 => Just(3), 2 => Just(2), 1 => Just(0), 1 => Just(4), 1 => any::<u16>()];
    let next = prop_oneof![6 => 0..12u16, 1 => any::<u16>()];
    (address, bytes, flags, next).prop_map(|(address, bytes, flags, next)| Descriptor { address, bytes, flags, next })
}

fn header() -> impl Strategy<Value = (u32, u64)> {
    let kind = prop_oneof![Just(0u32), Just(1), Just(4), Just(8), any::<u32>()];
    let sector = prop_oneof![0..2 * IMAGE_SECTORS, any::<u64>()];
    (kind, sector)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is offered: no panic, nothing on the disk that was not released, and after a reset the disk works as ever.
    #[test]
    fn no_chain_does_harm(
        table in prop::collection::vec(descriptor(), 12),
        headers in prop::collection::vec(header(), 64),
        heads in prop::collection::vec(prop_oneof![8 => 0..12u16, 1 => any::<u16>()], 1..20),
        release in any::<bool>(),
    ) {
        let room = directory();
        let path = image(&room);
        let before = std::fs::read(&path).expect("image");
        let mut rig = Rig::running(&path);
        for (at, (kind, sector)) in (0x8000..).step_by(512).zip(headers) {
            rig.put(kind, at);
            rig.put(sector, at + 8);
        }
        for (index, Descriptor { address, bytes, flags, next }) in (0..).zip(table) {
            rig.descriptor(index, (address, bytes), flags, next);
        }
        heads.iter().for_each(|head| rig.offer_head(*head));
        rig.notify();
        rig.drain();
        if release {
            rig.settle();
        } else {
            prop_assert!(std::fs::read(&path).expect("image") == before);
        }
        prop_assert_eq!(std::fs::metadata(&path).expect("image").len(), IMAGE_SECTORS * 512);
        rig.drive(0);
        rig.write(0, 77, 0xaa);
        rig.settle();
        prop_assert_eq!((rig.used(), sector(&path, 77)), (vec![0], 0xaa));
    }
}

#[test]
fn a_flood_is_bounded() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    for round in 0..20 {
        rig.drive(0);
        for slot in 0..85 {
            rig.write(slot, 1, round);
        }
        rig.notify();
    }
    assert_eq!(rig.disk.stats().held, PENDING_MAX as u64);
    rig.settle();
    assert_eq!(rig.used().len(), 85, "the last driver is served in the end");
    assert_eq!(sector(&path, 1), 19);
    // One byte of guest memory, many times: no more than fits the limit.
    rig.put(VIRTIO_BLK_T_IN, 0x8000);
    rig.put(0u64, 0x8008);
    rig.descriptor(0, (0x8000, 16), 1, 1);
    for index in 1..255 {
        rig.descriptor(index, (0x100000, 1 << 20), 3, index + 1);
    }
    rig.descriptor(255, (0x8020, 1), 2, 0);
    rig.offer_head(0);
    rig.settle();
    assert_eq!((rig.used().len(), rig.get::<u8>(0x8020)), (1, IOERR));
}

/// What is answered at once makes room for more of it. A running driver could go on for ever; after a load there is more than a
/// queue's worth without a second thread.
#[test]
fn a_driver_that_asks_for_what_is_answered_at_once_does_not_keep_the_event_loop() {
    let room = directory();
    let path = image(&room);
    let mut old = Rig::running(&path);
    (0..85).for_each(|slot| old.write(slot, 1, 1));
    old.notify();
    for slot in (0..85).cycle().take(255) {
        old.offer(slot, VIRTIO_BLK_T_GET_ID, 0, &[0; 20]);
    }
    let mut new = Rig::new(&path, false);
    new.load(&old.state(), &old.content());
    new.disk.start();
    while new.disk.notifiers()[0].read().is_ok() {}
    new.notify();
    assert_eq!(new.used().len(), usize::from(QUEUE_SIZES[QUEUE]));
    assert!(new.disk.notifiers()[0].read().is_ok(), "the source is ready again");
    new.notify();
    assert_eq!(new.used().len(), 85 + 255 - usize::from(QUEUE_SIZES[QUEUE]));
}
