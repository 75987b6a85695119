use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fault::{Class, Component, Kind, Precision, Witness};
use crate::record::Channel;

const DAY: u64 = 86_400;

fn at(seconds: u64) -> Moment {
    Moment::after_boot(Duration::from_secs(seconds))
}

fn fault(seconds: u64, class: Class, component: Component, name: &str) -> Fault {
    Fault {
        at: at(seconds),
        class,
        place: Place { component, name: name.to_owned() },
        precision: Precision::Part,
        address: None,
        count: 1,
        leftover: false,
        witness: Witness { kind: Kind::Edac, channel: Channel::Trace },
        detail: String::new(),
    }
}

fn dimm(seconds: u64, class: Class) -> Finding {
    Finding::Fault(fault(seconds, class, Component::Memory, "A1"))
}

fn health() -> Health {
    Health::new(Thresholds::default(), 16)
}

fn colour(health: &mut Health, seconds: u64) -> Colour {
    health.tick(at(seconds));
    health.verdict().colour
}

/// The health after so many faults a minute apart.
fn after(count: u64, class: Class, component: Component) -> Colour {
    let mut health = health();
    (0..count).for_each(|number| health.take(Finding::Fault(fault(number * 60, class, component, "x"))));
    colour(&mut health, count * 60)
}

#[test]
fn the_starting_thresholds() {
    use Class::{Corrected, Deferred, Fatal, Srao, Srar, Ucna, Uncorrected};
    use Colour::{Green, Red, Yellow};
    use Component::{Block, Memory, Network, Pci, Processor, Thermal};
    for (count, class, component, expected) in [
        (9, Corrected, Memory, Green),
        (10, Corrected, Memory, Yellow),
        (99, Corrected, Memory, Yellow),
        (2, Corrected, Processor, Green),
        (3, Corrected, Processor, Yellow),
        (18, Corrected, Processor, Red),
        (1, Uncorrected, Memory, Red),
        (1, Deferred, Memory, Red),
        (1, Srao, Memory, Red),
        (1, Srar, Memory, Red),
        (1, Ucna, Memory, Red),
        (1, Ucna, Processor, Yellow),
        (1, Srar, Processor, Red),
        (1, Fatal, Processor, Red),
        (50, Corrected, Pci, Green),
        (1, Uncorrected, Pci, Yellow),
        (9, Uncorrected, Pci, Yellow),
        (1, Fatal, Pci, Red),
        (1, Uncorrected, Block, Yellow),
        (1, Fatal, Block, Red),
        (1, Uncorrected, Thermal, Yellow),
        (5, Uncorrected, Network, Yellow),
        (1000, Class::Noise, Processor, Green),
        (1000, Class::Info, Processor, Green),
    ] {
        assert_eq!(after(count, class, component), expected, "{count} {class} of {component}");
    }
}

#[test]
fn a_device_of_a_guest_is_left_at_the_third_error_of_an_hour() {
    let thresholds = Thresholds { pci_of_guests: vec!["x".to_owned()], ..Thresholds::default() };
    let mut health = Health::new(thresholds, 16);
    for number in 0..3 {
        health.take(Finding::Fault(fault(number * 60, Class::Uncorrected, Component::Pci, "x")));
        assert_eq!(health.verdict().colour == Colour::Red, number == 2);
    }
}

#[test]
fn one_cosmic_ray_moves_nothing() {
    let mut health = health();
    for day in 0..30 {
        health.take(dimm(day * DAY, Class::Corrected));
        assert_eq!(colour(&mut health, day * DAY), Colour::Green);
    }
}

#[test]
fn a_storm_turns_red_and_stays_so_until_an_operator_clears_it() {
    let mut health = health();
    for number in 0..1000 {
        let finding = Finding::Fault(Fault {
            at: Moment::after_boot(Duration::from_millis(100 * number)),
            ..fault(0, Class::Corrected, Component::Memory, "A1")
        });
        health.take(finding);
        let expected =
            [Colour::Green, Colour::Yellow, Colour::Red][usize::from(number >= 9) + usize::from(number >= 99)];
        assert_eq!(health.verdict().colour, expected, "{number}");
    }
    assert_eq!(colour(&mut health, 30 * DAY), Colour::Red);
    assert_eq!(health.clear(Some("A2")), 0);
    assert_eq!(health.clear(Some("A1")), 1);
    assert_eq!(colour(&mut health, 30 * DAY), Colour::Green);
}

#[test]
fn yellow_goes_a_day_after_there_was_too_much() {
    let mut health = health();
    (0..20).for_each(|second| health.take(dimm(second, Class::Corrected)));
    assert_eq!(colour(&mut health, DAY), Colour::Yellow);
    assert_eq!(colour(&mut health, DAY + 20), Colour::Green);
}

#[test]
fn the_kernel_s_storm_is_of_the_memory_that_had_errors() {
    let storm = |seconds| Finding::Storm { at: at(seconds), begins: true };
    let mut memory = health();
    memory.take(dimm(0, Class::Corrected));
    memory.take(storm(30));
    assert!(memory.verdict().why.starts_with("red: memory A1"), "{:?}", memory.verdict());
    let mut noise = health();
    noise.take(Finding::Fault(fault(0, Class::Noise, Component::Processor, "cpu0")));
    noise.take(storm(30));
    assert_eq!(noise.verdict().colour, Colour::Green);
    let mut unknown = health();
    unknown.take(storm(30));
    assert_eq!(unknown.verdict().colour, Colour::Yellow);
}

#[test]
fn pages_that_fail_one_after_the_other() {
    let mut health = health();
    for page in 0..8 {
        let each = Fault {
            address: Some(page << PAGE_SHIFT),
            ..fault(page * 3600, Class::Corrected, Component::Memory, "A1")
        };
        health.take(Finding::Fault(each));
        let expected = [Colour::Green, Colour::Yellow, Colour::Red][usize::from(page >= 1) + usize::from(page >= 7)];
        assert_eq!(health.verdict().colour, expected, "{page}");
    }
}

#[test]
fn throttling_that_was_only_counted_counts_alike() {
    let place = Place { component: Component::Thermal, name: "cpu0 core".into() };
    let throttled = |minute: u64, span| Finding::Throttled { at: at(minute * 60), place: place.clone(), span };
    let mut health = health();
    (0..10).for_each(|minute| health.take(throttled(minute, Duration::from_secs(5))));
    assert_eq!(health.verdict().colour, Colour::Green);
    health.take(throttled(10, Duration::from_secs(12)));
    assert_eq!(health.verdict().colour, Colour::Yellow);
}

#[test]
fn throttling_is_counted_while_it_lasts() {
    let place = Place { component: Component::Thermal, name: "cpu0 core".to_owned() };
    let throttle = |seconds, hot| Finding::Throttle { at: at(seconds), place: place.clone(), hot };
    let mut health = health();
    health.take(throttle(0, true));
    assert_eq!((colour(&mut health, 5), health.is_counting()), (Colour::Green, true));
    assert_eq!(colour(&mut health, 12), Colour::Yellow);
    assert_eq!(colour(&mut health, 300), Colour::Yellow);
    assert_eq!(colour(&mut health, 330), Colour::Red);
    health.take(throttle(331, false));
    assert!(!health.is_counting());
    assert_eq!(colour(&mut health, 331 + 599), Colour::Red);
    assert_eq!(colour(&mut health, 331 + 600), Colour::Green);
    // Of what has no end it is not known that it goes on.
    health.take(throttle(2000, true));
    colour(&mut health, 2601);
    assert!(!health.is_counting());
}

#[test]
fn only_interfaces_that_are_missed_count() {
    let mut health = Health::new(Thresholds { interfaces: vec!["eth0".to_owned()], ..Thresholds::default() }, 16);
    let link = |seconds, interface: &str, up| Finding::Link { at: at(seconds), interface: interface.to_owned(), up };
    health.take(link(0, "eth1", false));
    assert_eq!(health.verdict().colour, Colour::Green);
    health.take(link(0, "eth0", false));
    assert_eq!(colour(&mut health, 3 * DAY), Colour::Yellow);
    health.take(link(3 * DAY, "eth0", true));
    assert_eq!(colour(&mut health, 4 * DAY), Colour::Green);
}

#[test]
fn the_part_takes_over_what_was_counted_at_its_controller() {
    let mut health = health();
    let controller = |number: u64| Fault {
        address: Some(number << 20),
        precision: Precision::Unit,
        witness: Witness { kind: Kind::MachineCheck, channel: Channel::Trace },
        ..fault(number, Class::Corrected, Component::Memory, "socket0 bank7")
    };
    for number in 0..12 {
        health.take(Finding::Fault(controller(number)));
        let edac = Fault { address: Some(number << 20), ..fault(number, Class::Corrected, Component::Memory, "A1") };
        health.take(Finding::Fault(edac));
    }
    let parts = health.parts(at(12));
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].place.as_str(), parts[0].faults), ("memory A1", 12));
}

fn over_a_restart(health: &Health, boot: &str, saved: (u64, u64), restored: (u64, u64)) -> Health {
    let text = serde_json::to_string(&health.stored("one", at(saved.0), saved.1, None)).expect("JSON");
    let mut next = Health::new(Thresholds::default(), 16);
    next.restore(serde_json::from_str(&text).expect("the same"), boot, at(restored.0), restored.1);
    next
}

#[test]
fn a_restart_forgets_nothing() {
    let mut health = health();
    (0..9).for_each(|second| health.take(dimm(second, Class::Corrected)));
    let mut next = over_a_restart(&health, "one", (10, 1000), (20, 1010));
    next.take(dimm(21, Class::Corrected));
    assert_eq!(next.verdict().colour, Colour::Yellow);
    assert_eq!(next.parts(at(21))[0].faults, 10);
}

#[test]
fn red_for_the_uncorrected_comes_back_yellow_once() {
    let mut health = health();
    health.take(dimm(5000, Class::Srar));
    let mut next = over_a_restart(&health, "two", (5001, 100_000), (30, 100_300));
    assert_eq!(next.verdict().colour, Colour::Yellow);
    next.take(dimm(60, Class::Srar));
    assert_eq!(next.verdict().colour, Colour::Red);
    let last = over_a_restart(&next, "three", (61, 100_500), (30, 100_800));
    assert_eq!(last.verdict().colour, Colour::Red);
}

#[test]
fn what_the_boot_before_has_left_is_yellow_once() {
    let mut health = health();
    let leftover = |seconds| {
        Finding::Fault(Fault { leftover: true, ..fault(seconds, Class::Fatal, Component::Processor, "cpu0") })
    };
    // One crash may leave several records.
    (10..14).for_each(|seconds| health.take(leftover(seconds)));
    assert_eq!(health.verdict().colour, Colour::Yellow);
    // A second crash.
    let mut next = over_a_restart(&health, "two", (5001, 100_000), (30, 100_300));
    assert_eq!(next.verdict().colour, Colour::Yellow);
    next.take(leftover(31));
    assert_eq!(next.verdict().colour, Colour::Red);
}

#[test]
fn what_made_it_red_and_is_left_over_is_no_second_one() {
    let mut health = health();
    health.take(Finding::Fault(fault(5000, Class::Fatal, Component::Processor, "cpu0")));
    let mut next = over_a_restart(&health, "two", (5001, 100_000), (30, 100_300));
    next.take(Finding::Fault(Fault { leftover: true, ..fault(31, Class::Fatal, Component::Processor, "cpu0") }));
    assert_eq!(next.verdict().colour, Colour::Yellow);
}

#[test]
fn many_errors_of_one_failure_count_once() {
    let mut health = health();
    (0..50).for_each(|number| health.take(dimm(5000 + number * 10, Class::Srar)));
    let next = over_a_restart(&health, "two", (5600, 100_000), (30, 100_300));
    assert_eq!(next.verdict().colour, Colour::Yellow);
}

#[test]
fn red_for_corrected_errors_stays_though_an_uncorrected_one_comes_on_top() {
    let mut health = health();
    (0..200).for_each(|number| health.take(dimm(number, Class::Corrected)));
    assert_eq!(health.verdict().colour, Colour::Red);
    health.take(dimm(300, Class::Srar));
    let next = over_a_restart(&health, "two", (301, 100_000), (30, 100_300));
    assert_eq!(next.verdict().colour, Colour::Red);
    // The same the other way round.
    let mut health = self::health();
    health.take(dimm(0, Class::Srar));
    (0..200).for_each(|number| health.take(dimm(10 + number, Class::Corrected)));
    let next = over_a_restart(&health, "two", (301, 100_000), (30, 100_300));
    assert_eq!(next.verdict().colour, Colour::Red);
}

#[test]
fn only_disks_that_are_needed_move_anything() {
    let disks = ["sda", "nvme0n1", "ata3"].map(str::to_owned);
    let mut health = Health::new(Thresholds { disks: Some(disks.into()), ..Thresholds::default() }, 16);
    for name in ["sdb", "nvme1", "nvme", "ata4.00"] {
        health.take(Finding::Fault(fault(0, Class::Fatal, Component::Block, name)));
        (0..20).for_each(|number| {
            health.take(Finding::Fault(fault(number, Class::Uncorrected, Component::Block, name)));
        });
        assert_eq!(health.verdict().colour, Colour::Yellow, "{name}");
    }
    for name in ["sda", "nvme0", "nvme0n1", "ata3.00"] {
        let mut health = health.clone();
        health.take(Finding::Fault(fault(30, Class::Fatal, Component::Block, name)));
        assert_eq!(health.verdict().colour, Colour::Red, "{name}");
    }
}

#[test]
fn noise_does_not_hide_what_was_told_last() {
    let mut health = health();
    health.take(dimm(0, Class::Corrected));
    health.take(Finding::Fault(fault(1, Class::Noise, Component::Processor, "cpu0")));
    assert_eq!(health.last().map(|fault| fault.class), Some(Class::Corrected));
}

#[test]
fn a_wall_clock_that_jumps_back_drains_nothing_and_one_that_jumps_ahead_clears_no_red() {
    let mut health = health();
    (0..9).for_each(|second| health.take(dimm(second, Class::Corrected)));
    health.take(Finding::Fault(fault(9, Class::Srar, Component::Memory, "B1")));
    let mut back = over_a_restart(&health, "two", (10, 1_000_000), (30, 5));
    back.take(dimm(31, Class::Corrected));
    assert!(back.verdict().why.contains("memory A1"), "{:?}", back.verdict());
    let mut red = health.clone();
    (0..200).for_each(|second| red.take(dimm(20 + second, Class::Corrected)));
    let mut ahead = over_a_restart(&red, "two", (300, 1_000_000), (30, u64::MAX));
    assert_eq!(colour(&mut ahead, 31), Colour::Red);
}

#[test]
fn a_reboot_drains_for_as_long_as_it_took() {
    let mut health = health();
    (0..9).for_each(|second| health.take(dimm(second, Class::Corrected)));
    let mut soon = over_a_restart(&health, "two", (10, 1000), (30, 1060));
    soon.take(dimm(31, Class::Corrected));
    assert_eq!(soon.verdict().colour, Colour::Yellow);
    let mut later = over_a_restart(&health, "two", (10, 1000), (30, 1000 + DAY));
    later.take(dimm(31, Class::Corrected));
    assert_eq!(later.verdict().colour, Colour::Green);
}

#[test]
fn many_parts_are_told_together_and_none_that_is_bad_is_forgotten() {
    let mut health = health();
    for part in 0..1000 {
        health.take(Finding::Fault(fault(part, Class::Corrected, Component::Memory, &format!("D{part}"))));
    }
    assert!(health.parts.len() <= 16);
    for part in 0..1000 {
        health.take(Finding::Fault(fault(part, Class::Srar, Component::Memory, &format!("D{part}"))));
    }
    assert!(health.parts.len() <= 17);
    assert!(health.parts(at(1000)).iter().any(|part| part.place.contains("too many") && part.faults > 900));
    assert!(health.verdict().why.ends_with("14 more"), "{}", health.verdict().why);
}

fn any_class() -> impl Strategy<Value = Class> {
    use Class::*;
    prop::sample::select(&[Noise, Info, Corrected, Ucna, Uncorrected, Deferred, Srao, Srar, Fatal][..])
}

proptest! {
    /// Whatever comes, in whatever order of times: red stays, memory is bounded, and a restart changes nothing.
    #[test]
    fn red_stays(faults in prop::collection::vec((0u64..1_000_000, any_class(), 0u8..40, 0u64..3, 1u64..300), 0..200)) {
        let mut health = health();
        let mut red = false;
        for (seconds, class, part, page, count) in faults {
            let address = (page > 0).then_some(page << PAGE_SHIFT);
            let each = Fault { address, count, ..fault(seconds, class, Component::Memory, &format!("D{part}")) };
            health.take(Finding::Fault(each));
            health.tick(at(seconds));
            let colour = health.verdict().colour;
            prop_assert!(!red || colour == Colour::Red);
            red = colour == Colour::Red;
            prop_assert!(health.parts.len() <= 17);
        }
        let next = over_a_restart(&health, "one", (1_000_000, 1), (1_000_000, 1));
        prop_assert_eq!(next.verdict(), health.verdict());
    }
}
