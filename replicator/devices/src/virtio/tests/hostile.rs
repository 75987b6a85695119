//! Drivers that break every rule.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Register(u32, u32),
    Descriptor {
        table: u64,
        index: u16,
        buffer: (u64, u32),
        flags: u16,
        next: u16,
    },
    Offer(u16),
    AvailIndex(u16),
    /// Anything, anywhere in the rings.
    Scribble(u64, u64),
    Take,
    Finish,
    Restart,
    FailOver,
}

fn register() -> impl Strategy<Value = (u32, u32)> {
    let values = prop_oneof![
        4 => prop::sample::select(vec![0u32, 1, 3, 4, 8, 11, 15, 16, 64, 128, 0x1000, 0x2000, 0x3000, 0xf_f000]),
        1 => any::<u32>(),
    ];
    let offsets = prop_oneof![4 => (0..0x40u32).prop_map(|word| word * 4), 1 => 0..0x200u32];
    // A reset every time would leave little to break.
    (offsets, values).prop_filter("reset", |(offset, value)| *offset != VIRTIO_MMIO_STATUS || *value != 0)
}

fn act() -> impl Strategy<Value = Act> {
    let end = MEMORY_BYTES as u64;
    let address = prop_oneof![4 => BUFFERS..end, 2 => end - 64..end + 64, 2 => 0..0x8000u64, 1 => any::<u64>()];
    let bytes = prop_oneof![4 => 0..300u32, 2 => (0..20u32).prop_map(|count| count * 16), 1 => any::<u32>()];
    let flags = prop_oneof![6 => 0..8u16, 1 => any::<u16>()];
    let index = prop_oneof![8 => 0..ENTRIES, 1 => any::<u16>()];
    let table = prop_oneof![Just(Driver::table(0)), Just(BUFFERS)];
    prop_oneof![
        6 => (table, 0..ENTRIES, (address, bytes), flags, index.clone())
            .prop_map(|(table, index, buffer, flags, next)| Act::Descriptor { table, index, buffer, flags, next }),
        6 => index.prop_map(Act::Offer),
        1 => any::<u16>().prop_map(Act::AvailIndex),
        1 => (0..0x3000u64, any::<u64>()).prop_map(|(offset, value)| Act::Scribble(offset, value)),
        2 => register().prop_map(|(offset, value)| Act::Register(offset, value)),
        6 => Just(Act::Take),
        3 => Just(Act::Finish),
        1 => Just(Act::Restart),
        1 => Just(Act::FailOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No panic, no endless work, no more taken than the queue has, never a state that a standby would refuse; and after a
    /// reset all is well.
    #[test]
    fn no_driver_does_harm(acts in prop::collection::vec(act(), 1..80)) {
        let mut rig = Rig::running();
        let mut tickets = Vec::new();
        for act in acts {
            match act {
                Act::Register(offset, value) => rig.driver.write(offset, value),
                Act::Descriptor { table, index, buffer, flags, next } => {
                    rig.driver.descriptor(table, index, buffer, flags, next);
                }
                Act::Offer(head) => rig.driver.offer_head(0, head),
                Act::AvailIndex(index) => rig.driver.put(index, Driver::avail(0) + 2),
                Act::Scribble(offset, value) => rig.driver.put(value, Driver::table(0) + offset),
                Act::Take => tickets.extend(rig.take()),
                Act::Finish => drop(tickets.pop().map(|ticket| rig.finish(ticket))),
                Act::Restart => rig.driver.start(FEATURE | INDIRECT_FEATURE),
                Act::FailOver => rig = rig.failover(),
            }
            let segments = rig.chain.readable.len() + rig.chain.writable.len();
            prop_assert!(segments <= MAX_ENTRIES as usize + 1);
            prop_assert!(rig.transport.taken(0) <= MAX_ENTRIES as usize);
            prop_assert!(rig.transport.check(rig.transport.save()).is_ok());
        }
        rig.driver.start(FEATURE);
        rig.offer(5);
        let ticket = rig.take().expect("offered");
        prop_assert!(rig.finish(ticket));
        prop_assert_eq!(rig.heads(), [5]);
    }
}

/// What is wrong with it, and a chain that begins at descriptor 0.
type Broken = (&'static str, fn(&Driver));

#[test]
fn broken_chains_leave_the_device_in_need_of_a_reset() {
    const TABLE: u64 = 0x1000;
    let cases: [Broken; 9] = [
        ("loop", |it| it.descriptor(TABLE, 0, (BUFFERS, 1), NEXT, 0)),
        ("next", |it| it.descriptor(TABLE, 0, (BUFFERS, 1), NEXT, ENTRIES)),
        ("outside", |it| it.descriptor(TABLE, 0, (MEMORY_BYTES as u64 - 1, 2), 0, 0)),
        ("overflow", |it| it.descriptor(TABLE, 0, (u64::MAX, 2), 0, 0)),
        ("order", |it| {
            it.descriptor(TABLE, 0, (BUFFERS, 1), WRITABLE | NEXT, 1);
            it.descriptor(TABLE, 1, (BUFFERS, 1), 0, 0);
        }),
        ("empty table", |it| it.descriptor(TABLE, 0, (BUFFERS, 0), INDIRECT, 0)),
        ("odd table", |it| it.descriptor(TABLE, 0, (BUFFERS, 17), INDIRECT, 0)),
        ("long table", |it| it.descriptor(TABLE, 0, (BUFFERS, 17 * 16), INDIRECT, 0)),
        ("nested table", |it| {
            it.descriptor(TABLE, 0, (BUFFERS, 16), INDIRECT, 0);
            it.descriptor(BUFFERS, 0, (BUFFERS, 16), INDIRECT, 0);
        }),
    ];
    for (name, breaks) in cases {
        let mut rig = Rig::running();
        breaks(&rig.driver);
        rig.driver.offer_head(0, 0);
        assert!(rig.take().is_none(), "{name}");
        assert_eq!(rig.driver.status(), 15 | NEEDS_RESET, "{name}");
        assert_eq!((rig.irq.read().ok(), rig.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS)), (Some(1), 2), "{name}");
        rig.driver.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(rig.driver.status(), 15 | NEEDS_RESET, "only a reset helps");
        rig.offer(1);
        assert!(rig.failover().take().is_none(), "{name}: nor does a failover");
    }
}

#[test]
fn a_head_offered_too_often_is_refused_in_the_end() {
    let mut rig = Rig::running();
    rig.driver.descriptor(Driver::table(0), 0, (BUFFERS, 1), 0, 0);
    for _ in 0..ENTRIES + 1 {
        rig.driver.offer_head(0, 0);
        rig.take();
    }
    assert_eq!(rig.transport.taken(0), usize::from(ENTRIES));
    assert_eq!(rig.driver.status(), 15 | NEEDS_RESET);
}
