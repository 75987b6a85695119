//! Drivers that break every rule.

use proptest::prelude::*;

use super::*;
use crate::virtio::driver::{BUFFERS, MEMORY_BYTES};

#[derive(Clone, Debug)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let end = MEMORY_BYTES as u64;
    let address = prop_oneof![6 => BUFFERS..end, 1 => end - 64..end + 64, 1 => 0..0x8000u64, 1 => any::<u64>()];
    let bytes = prop_oneof![4 => 0..2000u32, 2 => Just(12), 1 => Just(70_000), 1 => any::<u32>()];
    let flags = prop_oneof![4 => Just(0u16), 4 => Just(1), 3 => Just(2), 3 => Just(3), 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..ENTRIES, 1 => any::<u16>()];
    (address, bytes, flags, next).prop_map(|(address, bytes, flags, next)| Descriptor { address, bytes, flags, next })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No panic, nothing on the wire that was not released, no state that a standby would refuse; after a reset all is well.
    #[test]
    fn no_driver_does_harm(
        tables in prop::collection::vec(prop::collection::vec(descriptor(), usize::from(ENTRIES)), 3),
        heads in prop::collection::vec((0..3usize, prop_oneof![8 => 0..ENTRIES, 1 => any::<u16>()]), 1..40),
        garbage in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut rig = Rig::running();
        for (queue, table) in tables.into_iter().enumerate() {
            for (index, Descriptor { address, bytes, flags, next }) in (0..).zip(table) {
                rig.driver.descriptor(Driver::table(queue), index, (address, bytes), flags, next);
            }
        }
        for (queue, head) in heads {
            rig.driver.offer_head(queue, head);
            rig.wire.send(&garbage).expect("room on the wire");
            rig.service_all();
            prop_assert!(rig.wire().is_empty());
            let _ = rig.failover();
            rig.net.tap.drain();
        }
        rig.settle();
        rig.wire();
        rig.driver.start(FEATURES);
        rig.transmit(0, 1);
        rig.make_room(0, ROOM);
        rig.arrive(2);
        rig.settle();
        prop_assert_eq!((rig.sent(), rig.sent_back(), rig.received()), (vec![1], vec![0], vec![2]));
    }
}
