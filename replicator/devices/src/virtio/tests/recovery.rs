//! What a load makes of what was saved.

use proptest::prelude::*;

use super::*;

#[test]
fn a_load_ends_what_was_taken_before_it() {
    let mut rig = Rig::running();
    rig.offer(0);
    let old = rig.take().expect("offered");
    let checked = rig.transport.check(rig.transport.save()).expect("good state");
    rig.transport.load(checked);
    assert!(!rig.finish(old));
    let again = rig.take().expect("to be done again");
    assert!(rig.finish(again) && rig.take().is_none());
    assert_eq!(rig.heads(), [0]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Offer,
    Take,
    /// One of those taken, by its place among them.
    Finish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Offer), Just(Step::Take), (0..usize::from(ENTRIES)).prop_map(Step::Finish)]
}

/// A driver with a chain for each descriptor, and the heads as the device should see them.
struct Story {
    rig: Rig,
    /// Offered and not taken.
    waiting: Vec<u16>,
    taken: Vec<(u16, Ticket)>,
    free: Vec<u16>,
}

impl Story {
    fn new() -> Story {
        Story { rig: Rig::running(), waiting: Vec::new(), taken: Vec::new(), free: (0..ENTRIES).collect() }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Offer if !self.free.is_empty() => {
                let head = self.free.remove(0);
                self.rig.offer(head);
                self.waiting.push(head);
            }
            Step::Take => {
                let ticket = self.rig.take();
                assert_eq!(ticket.is_some(), !self.waiting.is_empty());
                self.taken.extend(ticket.map(|ticket| (self.waiting.remove(0), ticket)));
            }
            Step::Finish(place) if place < self.taken.len() => {
                let (head, ticket) = self.taken.remove(place);
                assert!(self.rig.finish(ticket));
                assert_eq!(self.rig.heads(), [head]);
                self.free.push(head);
            }
            Step::Offer | Step::Finish(_) => {}
        }
    }

    /// Does everything that is pending on another machine; `stop_after` chains into it, that one fails, too.
    fn survive(&self, stop_after: usize) {
        let taken = self.taken.iter().map(|(head, _)| *head);
        let pending: Vec<u16> = taken.chain(self.waiting.iter().copied()).collect();
        let mut second = self.rig.failover();
        let begun = second.begin(stop_after);
        assert_eq!(begun, pending[..begun.len()], "in order");
        let mut third = second.failover();
        let tickets = third.take_all();
        assert!(tickets.into_iter().all(|ticket| third.finish(ticket)));
        assert_eq!(third.heads(), pending, "each once, in order, none forgotten");
        assert_eq!(third.transport.taken(0), 0);
    }
}

impl Rig {
    /// Takes at most `count` chains and says which.
    fn begin(&mut self, count: usize) -> Vec<u16> {
        let taken = std::iter::from_fn(|| self.take()).take(count).count();
        let state = self.transport.save();
        state.rings[0].taken.iter().copied().take(taken).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_forgotten_done_twice_or_out_of_order(
        steps in prop::collection::vec(step(), 1..60),
        stop_after in 0..usize::from(ENTRIES),
    ) {
        let mut story = Story::new();
        for step in steps {
            story.perform(step);
            story.survive(stop_after);
        }
    }
}

#[test]
fn foreign_state_is_refused_and_changes_nothing() {
    let mut rig = Rig::running();
    (0..6).for_each(|head| rig.offer(head));
    rig.take_all();
    let good = rig.transport.save();
    let ruined = |ruin: fn(&mut TransportState)| {
        let mut state = good.clone();
        ruin(&mut state);
        state
    };
    const END: u64 = MEMORY_BYTES as u64;
    let cases = [
        ruined(|it| it.rings[0].taken.clear()),
        ruined(|it| it.rings[0].taken.push(1)),
        ruined(|it| it.rings[0].taken[2] = ENTRIES),
        ruined(|it| it.rings[0].next_avail = it.rings[0].next_avail.wrapping_add(1)),
        ruined(|it| it.rings[0].next_used = it.rings[0].next_used.wrapping_sub(1)),
        ruined(|it| {
            it.rings[0].taken.resize(usize::from(ENTRIES) + 1, 0);
            it.rings[0].next_avail = ENTRIES + 1;
        }),
        ruined(|it| it.rings[0].size = 0),
        ruined(|it| it.rings[0].size = 12),
        ruined(|it| it.rings[0].size = 2 * MAX_ENTRIES as u16),
        ruined(|it| it.rings[0].desc_table = END - 16),
        ruined(|it| it.rings[0].avail_ring = u64::MAX - 1),
        ruined(|it| it.rings[0].used_ring = END),
        ruined(|it| it.rings[0].used_ring += 1),
        ruined(|it| it.driver_features |= 1 << 50),
        ruined(|it| it.driver_features &= !(1 << 32)),
        ruined(|it| it.status &= !8),
        ruined(|it| it.rings.extend_from_within(..)),
        ruined(|it| it.rings.clear()),
    ];
    for (number, state) in cases.into_iter().enumerate() {
        assert!(rig.transport.check(state).is_err(), "case {number}");
    }
    assert_eq!(rig.transport.save(), good);
}
