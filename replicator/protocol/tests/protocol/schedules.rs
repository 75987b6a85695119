//! Anything, in any order: two nodes under schedules drawn at random, with every invariant checked after every step; in the
//! end all faults are mended, and the guest must be protected again and get to say something.
//!
//! A failing schedule is made as short as possible before it is shown. More of them, for a night:
//! `PROPTEST_CASES=1000000 cargo test --release -p kemari-protocol --test protocol schedules`.

use std::time::Duration;

use proptest::prelude::*;

use crate::world::{ALPHA, BETA, World, config};

/// What can happen. What is not possible at the moment is left out, so that every part of a schedule is a schedule.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Every guest that runs writes a page, and shows something if it `speaks`.
    Guest {
        speaks: bool,
    },
    /// So many messages arrive.
    Deliver {
        to: usize,
        count: usize,
    },
    /// Milliseconds pass.
    Pass(u64),
    WantCheckpoint(usize),
    SpoilCheckpoint(usize),
    /// The hardware loses a page of whichever guest runs.
    LosePage(u64),
    /// The link is cut, which its ends learn by [`Act::Notice`], or from silence.
    Cut,
    Notice(usize),
    Mend,
    /// A process dies, or a host. Not the last one that has the guest: that would be a cold boot.
    Crash {
        node: usize,
        whole_host: bool,
    },
    Leave(usize),
    Restart(usize),
    AskPromotion(usize),
    /// The authority answers at last.
    Decide {
        node: usize,
        grant: bool,
    },
    Handover {
        promote: bool,
    },
    GoOnAlone(usize),
    /// From here on this host can load the guest, or cannot.
    Fit {
        node: usize,
        fit: bool,
    },
}

impl World {
    fn perform(&mut self, act: Act) {
        match act {
            Act::Guest { speaks } => [ALPHA, BETA].into_iter().for_each(|node| self.guest(node, speaks)),
            Act::Deliver { to, count } => (0..count).for_each(|_| {
                self.deliver(to);
            }),
            Act::Pass(time) => self.pass(Duration::from_millis(time)),
            Act::WantCheckpoint(node) => self.want_checkpoint(node),
            Act::SpoilCheckpoint(node) => self.spoil_checkpoint(node),
            Act::LosePage(number) => [ALPHA, BETA].into_iter().for_each(|node| self.lose_page(node, number)),
            Act::Cut => self.cut_silently(),
            Act::Notice(node) => self.notice(node),
            Act::Mend => self.mend(),
            Act::Crash { node, whole_host } if self.is_dispensable(node) => self.crash(node, whole_host),
            Act::Leave(node) if self.is_dispensable(node) => self.leave(node),
            Act::Crash { .. } | Act::Leave(_) => {}
            Act::Restart(node) => self.restart(node),
            Act::AskPromotion(node) => {
                self.ask_promotion(node);
            }
            Act::Decide { node, grant } => self.decide(node, grant),
            Act::Handover { promote } => {
                [ALPHA, BETA].into_iter().for_each(|node| {
                    self.begin_handover(node, promote);
                });
            }
            Act::GoOnAlone(node) => self.go_on_alone(node),
            Act::Fit { node, fit } => self.set_fit(node, fit),
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let node = || prop::sample::select(vec![ALPHA, BETA]);
    prop_oneof![
        8 => any::<bool>().prop_map(|speaks| Act::Guest { speaks }),
        20 => (node(), 1..6usize).prop_map(|(to, count)| Act::Deliver { to, count }),
        5 => (1..700u64).prop_map(Act::Pass),
        2 => node().prop_map(Act::WantCheckpoint),
        1 => node().prop_map(Act::SpoilCheckpoint),
        2 => (0..8u64).prop_map(Act::LosePage),
        1 => Just(Act::Cut),
        2 => node().prop_map(Act::Notice),
        3 => Just(Act::Mend),
        1 => (node(), any::<bool>()).prop_map(|(node, whole_host)| Act::Crash { node, whole_host }),
        1 => node().prop_map(Act::Leave),
        3 => node().prop_map(Act::Restart),
        2 => node().prop_map(Act::AskPromotion),
        4 => (node(), prop::bool::weighted(0.7)).prop_map(|(node, grant)| Act::Decide { node, grant }),
        2 => any::<bool>().prop_map(|promote| Act::Handover { promote }),
        1 => node().prop_map(Act::GoOnAlone),
        1 => (node(), prop::bool::weighted(0.7)).prop_map(|(node, fit)| Act::Fit { node, fit }),
    ]
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_forks_forgets_or_ends_the_guest(
        depth in 1..4usize,
        protected in any::<bool>(),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let deep = |name| kemari_protocol::Config { depth, ..config(name, "1") };
        let mut world = World::of(deep("alpha"), deep("beta"));
        world.pass(Duration::ZERO);
        if protected {
            world.until_protected();
        }
        world.eager = false;
        acts.into_iter().for_each(|act| world.perform(act));
        world.must_recover();
    }
}
