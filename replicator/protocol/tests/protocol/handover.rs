//! A handover that is cut at every step. At no time do two guests run; nothing that was acknowledged is lost; and the guest can
//! go on: with what is left at once, and protected as soon as what broke is mended.

use std::time::Duration;

use kemari_protocol::primary::YieldError;

use crate::pair::protected;
use crate::world::{ALPHA, BETA, World};

/// More steps than a handover has.
const STEPS: usize = 30;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The link is cut, and both ends know.
    Cut,
    /// The link carries nothing any more, and nobody is told.
    Silence,
    /// A process dies; what it has sent arrives.
    Process(usize),
    /// A host dies, and what it has sent with it.
    Host(usize),
}

const FAULTS: [Fault; 6] =
    [Fault::Cut, Fault::Silence, Fault::Process(ALPHA), Fault::Process(BETA), Fault::Host(ALPHA), Fault::Host(BETA)];

impl World {
    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Cut => self.cut_link(),
            Fault::Silence => self.cut_silently(),
            Fault::Process(node) => self.crash(node, false),
            Fault::Host(node) => self.crash(node, true),
        }
    }

    /// One thing happens.
    pub(crate) fn step(&mut self) {
        if !self.deliver_any() {
            self.pass(Duration::from_millis(20));
        }
        self.must_not_run_twice();
    }

    /// For so long the way to beta carries one message every 400 ms, less than is sent.
    fn creep(&mut self, time: Duration) {
        let until = self.outside.now + time;
        while self.outside.now < until {
            self.deliver(BETA);
            for _ in 0..4 {
                self.pass(Duration::from_millis(100));
                while self.deliver(ALPHA) {}
            }
        }
    }

    /// Yields without a handover, if that is possible.
    fn yields_at_once(&mut self) -> bool {
        let now = self.outside.now;
        let primary = self.primary(ALPHA).expect("alpha is the primary");
        primary.protocol.yield_to_peer(now, true) != Err(YieldError::NotFinal)
    }

    pub(crate) fn must_not_run_twice(&mut self) {
        assert!(self.running() <= 1, "two guests run");
    }
}

/// Output is held and a checkpoint in flight when the handover is asked for.
fn busy() -> World {
    let mut world = protected();
    world.run(7);
    world.guest(ALPHA, true);
    world.guest(ALPHA, true);
    world.guest(ALPHA, false);
    world
}

pub(crate) fn handing_over(promote: bool) -> World {
    let mut world = busy();
    assert!(world.begin_handover(ALPHA, promote));
    world
}

#[test]
fn a_handover_takes_the_guest_over_with_all_it_did() {
    let mut world = handing_over(true);
    let counter = world.primary(ALPHA).map(|primary| primary.counter);
    (0..STEPS).for_each(|_| world.step());
    assert_eq!(world.serving(), Some(BETA));
    let generation = world.outside.record.generation;
    assert_eq!(world.handovers(ALPHA), [format!("to {generation}")], "the old primary was not told");
    assert_eq!(world.primary(BETA).map(|primary| primary.counter), counter, "not as of the pause");
    world.must_recover();
    assert_eq!(world.standby(ALPHA).map(|standby| standby.voids), Some(0), "a full resync after a planned move");
}

#[test]
fn after_a_demotion_either_node_can_go_on() {
    for node in [ALPHA, BETA] {
        let mut world = handing_over(false);
        (0..STEPS).for_each(|_| world.step());
        assert_eq!(world.running(), 0);
        assert!(world.ask_promotion(node));
        assert_eq!(world.serving(), Some(node));
        world.must_recover();
    }
}

#[test]
fn a_handover_cut_at_any_step_loses_nothing_and_leaves_somebody_to_go_on() {
    for (fault, promote, steps) in every_cut() {
        let mut world = handing_over(promote);
        (0..steps).for_each(|_| world.step());
        // Once the standby is promoted it is the only one that has the guest, as after any failover.
        if matches!(fault, Fault::Process(node) | Fault::Host(node) if !world.is_dispensable(node)) {
            continue;
        }
        world.inject(fault);
        let broke = world.outside.now;
        (0..STEPS).for_each(|_| world.step());
        world.must_go_on();
        let pause = world.outside.now - broke;
        assert!(pause < Duration::from_secs(2), "{pause:?} until the guest ran after {fault:?} at step {steps}");
        world.must_not_run_twice();
        world.must_recover();
        world.must_not_run_twice();
    }
}

#[test]
fn a_handover_that_the_authority_refuses_leaves_both_promotable() {
    for steps in 0..STEPS {
        let mut world = handing_over(true);
        world.eager = false;
        for _ in 0..steps {
            world.step();
            world.decide(BETA, false);
        }
        if world.serving().is_none() && world.standby(ALPHA).is_some() {
            assert!(world.is_candidate(ALPHA) && world.is_candidate(BETA));
        }
        world.eager = true;
        world.must_recover();
    }
}

/// The primary demotes itself at the moment at which somebody asks the standby to take over: there is no reason to wait.
#[test]
fn a_promotion_asked_for_during_a_handover_is_not_kept_waiting() {
    for steps in 0..STEPS {
        let mut world = handing_over(true);
        (0..steps).for_each(|_| world.step());
        world.ask_promotion(BETA);
        let asked = world.outside.now;
        while world.serving().is_none_or(|node| world.primary(node).is_none_or(|primary| !primary.running)) {
            world.step();
            let waited = world.outside.now - asked;
            assert!(waited < Duration::from_secs(1), "nobody runs {waited:?} after step {steps}");
        }
        world.must_recover();
    }
}

/// On a link that is too slow for it the handover is given up, the guest goes on, and it is no less protected than before.
#[test]
fn a_handover_given_up_in_time_does_not_end_protection() {
    let mut world = protected();
    world.creep(Duration::from_secs(10));
    assert!(world.begin_handover(ALPHA, true));
    world.creep(Duration::from_secs(11));
    assert_eq!((world.serving(), world.running()), (Some(ALPHA), 1));
    world.must_recover();
    assert_eq!(world.serving(), Some(ALPHA));
}

/// One that was cut as the last, committed, and followed by others is not final any more.
#[test]
fn only_a_final_checkpoint_can_be_yielded() {
    let mut world = protected();
    for steps in 0..STEPS {
        while world.deliver_any() {}
        assert!(!world.yields_at_once());
        assert!(world.begin_handover(ALPHA, true));
        (0..steps).for_each(|_| world.step());
        if world.serving() != Some(ALPHA) {
            return;
        }
        world.cut_link();
        world.run(20);
        world.until_protected();
    }
    panic!("no handover ever came to its end");
}

fn every_cut() -> impl Iterator<Item = (Fault, bool, usize)> {
    FAULTS.into_iter().flat_map(|fault| {
        [true, false].into_iter().flat_map(move |promote| (0..STEPS).map(move |steps| (fault, promote, steps)))
    })
}
