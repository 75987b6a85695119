//! A primary and a standby, stepped one message at a time: whatever is cut, and wherever, the standby's image is a whole
//! checkpoint, and nothing was released that it does not cover.

use std::time::{Duration, Instant};

use kemari_core::Generation;
use kemari_protocol::primary::Phase;
use kemari_protocol::standby::{Event, Standby};
use kemari_protocol::{Config, Message, Offer, Versions};

use crate::world::{ALPHA, BETA, World, config};

impl World {
    fn phase(&mut self) -> Phase {
        self.primary(ALPHA).expect("alpha is the primary").protocol.phase()
    }

    fn voids(&mut self) -> usize {
        self.standby(BETA).expect("beta is the standby").voids
    }

    fn news(&mut self) -> String {
        let [mut primary, mut standby] = [Vec::new(), Vec::new()];
        if let Some(alpha) = self.primary(ALPHA) {
            primary.clone_from(&alpha.news);
        }
        if let Some(beta) = self.standby(BETA) {
            standby.clone_from(&beta.news);
        }
        [primary, standby].concat().join(" ")
    }

    /// Runs for so many deliveries, with a guest that goes on all the time.
    pub(crate) fn run(&mut self, steps: usize) {
        for step in 0..steps {
            if step % 3 == 0 {
                self.guest(ALPHA, true);
            }
            self.settle();
            if !self.deliver_any() {
                self.pass(Duration::from_millis(100));
            }
        }
    }

    pub(crate) fn until_protected(&mut self) {
        for _ in 0..200 {
            if self.phase() == Phase::Protected {
                return;
            }
            self.run(1);
        }
        panic!("never protected: {:?} {}", self.phase(), self.news());
    }

    /// The primary is gone: the standby is promoted, if it can be, and goes on from what it holds.
    fn fail_over(mut self) {
        self.crash(ALPHA, true);
        self.notice(BETA);
        self.ask_promotion(BETA);
        if self.serving() != Some(BETA) {
            assert_eq!(self.outside.shown, 0, "released, and nobody can go on from there");
        }
    }
}

fn started() -> World {
    let mut world = World::new();
    world.pass(Duration::ZERO);
    world
}

pub(crate) fn protected() -> World {
    let mut world = started();
    world.until_protected();
    world
}

#[test]
fn a_primary_that_dies_at_any_step_is_followed_without_loss() {
    let mut shown = 0;
    for steps in 0..120 {
        let mut world = started();
        world.run(steps);
        shown = shown.max(world.outside.shown);
        world.fail_over();
    }
    assert!(shown > 5, "the guest never got to say anything");
}

#[test]
fn a_link_cut_at_any_step_comes_back_without_sending_everything_again() {
    for steps in 0..90 {
        let mut world = protected();
        let voids = world.voids();
        world.run(steps);
        world.cut_link();
        let shown = world.outside.shown;
        world.guest(ALPHA, true);
        assert_eq!(world.outside.shown, shown, "output left without a standby");
        world.pass(Duration::from_secs(1));
        world.until_protected();
        world.run(20);
        assert_eq!(world.voids(), voids, "a full resync after {steps} steps");
        assert!(world.outside.shown > shown, "nothing left after the link came back");
        world.fail_over();
    }
}

#[test]
fn a_cut_during_the_first_resync_begins_it_anew() {
    for steps in 0..25 {
        let mut world = started();
        world.run(steps);
        world.cut_link();
        world.pass(Duration::from_secs(1));
        world.until_protected();
        world.run(20);
        world.fail_over();
    }
}

#[test]
fn a_silent_standby_is_given_up_and_output_stays_held() {
    let mut world = protected();
    let shown = world.outside.shown;
    world.guest(ALPHA, true);
    world.cut_silently();
    (0..6).for_each(|_| world.pass(Duration::from_millis(100)));
    assert!(world.news().contains("the standby was silent"), "{}", world.news());
    assert_eq!(world.outside.shown, shown);
}

#[test]
fn a_living_primary_keeps_the_standby_from_being_promoted() {
    let mut world = protected();
    assert!(world.ask_promotion(BETA));
    world.run(30);
    assert!(world.standby(BETA).is_some(), "promoted beside a living primary");
    assert!(world.news().contains("freeze refused"), "{}", world.news());
    let shown = world.outside.shown;
    world.run(30);
    assert!(world.outside.shown > shown, "the freeze did not end");
}

#[test]
fn differences_are_refused_by_name() {
    let mut world = World::of(config("alpha", "64"), config("beta", "128"));
    world.pass(Duration::ZERO);
    while world.deliver_any() {}
    assert!(world.news().contains("memory_mib: alpha has 64, beta has 128"), "{}", world.news());
}

#[test]
fn an_older_generation_is_superseded() {
    let mut world = World::new();
    world.meet_newer(BETA, Generation { number: 3, id: 99 });
    world.pass(Duration::ZERO);
    while world.deliver_any() {}
    assert!(world.standby(ALPHA).is_some(), "alpha goes on in an old generation");
}

#[test]
fn nothing_is_released_on_the_word_of_a_standby_that_cannot_load_the_guest() {
    for steps in 0..25 {
        let mut world = started();
        world.set_fit(BETA, false);
        world.run(steps);
        world.cut_link();
        world.run(60);
        assert!(world.news().contains("the standby cannot load the guest"), "{}", world.news());
        assert_eq!(world.outside.shown, 0);
        world.must_recover();
    }
}

#[test]
fn a_freeze_that_outlives_its_link_keeps_nothing_of_it() {
    let mut world = protected();
    world.eager = false;
    assert!(world.ask_promotion(BETA));
    world.guest(ALPHA, true);
    while world.deliver(BETA) {}
    world.cut_link();
    world.pass(Duration::from_secs(1));
    while world.deliver(BETA) {}
    world.decide(BETA, false);
    world.until_protected();
    world.must_recover();
}

#[test]
fn while_the_guest_runs_alone_its_old_image_is_not_promotable() {
    let mut world = protected();
    world.cut_silently();
    [ALPHA, BETA].into_iter().for_each(|node| world.notice(node));
    world.go_on_alone(ALPHA);
    world.mend();
    let before = world.standby(BETA).map(|beta| beta.protocol.status().checkpoints);
    let mut checkpoints = before;
    for _ in 0..60 {
        world.run(1);
        let unprotected = world.primary(ALPHA).is_some_and(|primary| primary.gate.consent().is_some());
        let standby = world.standby(BETA).expect("beta is the standby").protocol.status();
        if standby.peer.is_some() && unprotected {
            checkpoints = checkpoints.max(Some(standby.checkpoints));
            assert!(standby.promotable.is_err(), "promotable, while the primary shows what no image covers");
        }
    }
    assert!(checkpoints > before, "no checkpoint was cut while the gate was open");
    world.until_protected();
    world.fail_over();
}

/// Consent that comes while the standby is brought up to date from the image that it still holds.
#[test]
fn an_image_from_before_the_gate_opened_is_not_promotable_even_during_its_resync() {
    let mut opened = 0;
    for steps in 0..12 {
        let mut world = protected();
        world.cut_link();
        world.pass(Duration::from_millis(100));
        world.run(steps);
        world.go_on_alone(ALPHA);
        for _ in 0..60 {
            let unprotected = world.primary(ALPHA).is_some_and(|primary| primary.gate.consent().is_some());
            let standby = world.standby(BETA).expect("beta is the standby").protocol.status();
            if unprotected && standby.peer.is_some() && world.outside.link.is_whole() {
                opened += 1;
                assert!(standby.promotable.is_err(), "after {steps} steps: promotable, while the gate is open");
            }
            world.run(1);
        }
        world.until_protected();
        world.fail_over();
    }
    assert!(opened > 0, "the gate was never open during a resync");
}

/// More than fits a staged checkpoint: copied in place, while the guest goes on writing.
#[test]
fn a_large_difference_voids_the_image_until_it_is_whole_again() {
    for steps in [0, 1, 5, 40, 90] {
        let large = |node| Config { pages: 5000, ..config(node, "20") };
        let mut world = World::of(large("alpha"), large("beta"));
        world.until_protected();
        let voids = world.voids();
        world.cut_link();
        (0..5000).for_each(|_| world.guest(ALPHA, false));
        world.pass(Duration::from_secs(1));
        world.run(steps);
        world.cut_link();
        world.pass(Duration::from_secs(1));
        world.until_protected();
        assert!(world.voids() > voids, "5000 pages were staged");
        world.fail_over();
    }
}

/// What a standby says to a primary whose first word is this.
fn refusal(spoil: impl FnOnce(&mut Offer)) -> String {
    let alpha = config("alpha", "1");
    let mut offer = Offer {
        versions: Versions::SUPPORTED,
        node: alpha.node,
        identity: alpha.identity,
        pages: alpha.pages,
        generation: Generation { number: 2, id: 22 },
        unprotected: false,
        heartbeat_ms: 100,
    };
    spoil(&mut offer);
    let mut standby = Standby::new(config("beta", "1"), None, None).expect("a good configuration");
    let now = Instant::now();
    standby.link_up(now);
    standby.receive(now, Message::Offer(offer));
    let told = std::iter::from_fn(|| standby.event()).find_map(|event| match event {
        Event::Refused { reason } => Some(reason),
        _ => None,
    });
    let said = std::iter::from_fn(|| standby.transmit(now)).find_map(|message| match message {
        Message::Refuse(refuse) => Some(refuse.reason),
        _ => None,
    });
    assert_eq!(told, said, "both logs have it");
    said.unwrap_or_default()
}

#[test]
fn a_peer_that_does_not_fit_is_refused_and_both_are_named() {
    assert_eq!(refusal(|_| ()), "");
    let newer = Versions::SUPPORTED.newest + 1;
    let said = refusal(|offer| offer.versions = Versions { oldest: newer, newest: newer + 1 });
    let versions =
        format!("alpha speaks protocol versions {newer} to {}, beta speaks {}", newer + 1, Versions::SUPPORTED);
    assert!(said.starts_with(&versions) && said.contains("releases"), "{said}");
    let said = refusal(|offer| offer.pages += 1);
    assert!(said.contains("on alpha") && said.contains("on beta"), "{said}");
    let said = refusal(|offer| offer.heartbeat_ms = 60_000);
    assert!(said.contains("alpha sends a heartbeat every 60s") && said.contains("beta"), "{said}");
}
