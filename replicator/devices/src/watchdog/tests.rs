use std::time::{Duration, Instant};

use super::*;

fn watchdog() -> Watchdog {
    let mut device = Watchdog::new(DeviceId(4)).expect("a device");
    device.start();
    device
}

fn events(device: &mut Watchdog) -> Vec<DeviceEvent> {
    let mut events = Vec::new();
    for source in device.sources() {
        device.service(source.id, &mut Vec::new(), &mut events);
    }
    events
}

/// Lets `count` ticks go by without waiting for them.
fn ticks(device: &Watchdog, count: u16) {
    (0..count).for_each(|_| device.bank.lock().tick());
}

fn left(device: &Watchdog) -> u16 {
    let mut bytes = [0; 2];
    device.bus().read(LEFT, &mut bytes);
    u16::from_le_bytes(bytes)
}

fn state(device: &Watchdog) -> Vec<u8> {
    let mut state = Vec::new();
    device.save(&mut state);
    state
}

#[test]
fn a_guest_that_does_not_come_by_is_told_on_once() {
    let mut device = watchdog();
    let bus = device.bus();
    bus.write(COUNTDOWN, &3u16.to_le_bytes());
    ticks(&device, 100);
    assert!(events(&mut device).is_empty(), "it was not set going");
    bus.write(CONTROL, &[RUNNING]);
    ticks(&device, 3);
    assert_eq!((left(&device), events(&mut device)), (0, vec![]));
    bus.write(LEFT, &[0, 0]);
    assert_eq!(left(&device), 3, "it came by");
    ticks(&device, 4);
    assert_eq!(events(&mut device), [DeviceEvent::WatchdogExpired]);
    ticks(&device, 100);
    assert!(events(&mut device).is_empty());
}

#[test]
fn a_guest_may_stop_it() {
    let mut device = watchdog();
    device.bus().write(CONTROL, &[RUNNING]);
    device.bus().write(CONTROL, &[0]);
    ticks(&device, Watchdog::TICKS_MAX + 1);
    assert!(events(&mut device).is_empty());
}

#[test]
fn the_timer_ticks_while_it_runs_and_only_then() {
    let mut device = watchdog();
    device.bus().write(COUNTDOWN, &1u16.to_le_bytes());
    device.bus().write(CONTROL, &[RUNNING]);
    let begun = Instant::now();
    while events(&mut device).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never ticked");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(begun.elapsed() >= Duration::from_millis(u64::from(Watchdog::TICK_MS)), "too early");
    assert!(!device.timer.runs(), "nothing is left to be counted");
}

#[test]
fn no_time_goes_by_while_the_guest_stands_still() {
    let mut device = watchdog();
    device.bus().write(COUNTDOWN, &5u16.to_le_bytes());
    device.bus().write(CONTROL, &[RUNNING]);
    events(&mut device);
    // Several ticks while nobody looks are one.
    std::thread::sleep(Duration::from_millis(u64::from(Watchdog::TICK_MS) * 5 / 2));
    events(&mut device);
    assert_eq!(left(&device), 4);
    device.stop();
    std::thread::sleep(Duration::from_millis(u64::from(Watchdog::TICK_MS) * 3 / 2));
    assert!(events(&mut device).is_empty());
    assert_eq!(left(&device), 4);
}

#[test]
fn what_is_left_goes_with_the_guest() {
    let mut before = watchdog();
    before.bus().write(COUNTDOWN, &9u16.to_le_bytes());
    before.bus().write(CONTROL, &[RUNNING]);
    ticks(&before, 4);
    let mut after = watchdog();
    after.load(KIND.state_version, &state(&before)).expect("good state");
    assert_eq!((left(&after), state(&after)), (5, state(&before)));
    assert!(events(&mut after).is_empty() && !after.timer.runs(), "not in a rehearsal");
    after.start();
    events(&mut after);
    assert!(after.timer.runs());
    ticks(&before, 6);
    events(&mut before);
    after.load(KIND.state_version, &state(&before)).expect("good state");
    after.start();
    assert_eq!(events(&mut after), [DeviceEvent::WatchdogExpired], "its time was over before");
}

#[test]
fn what_makes_no_sense_does_no_harm() {
    let mut device = watchdog();
    let bus = device.bus();
    bus.write(COUNTDOWN, &[0, 0]);
    assert_eq!(left(&device), Watchdog::TICKS_MIN);
    bus.write(COUNTDOWN, &[0xff, 0xff]);
    assert_eq!(left(&device), Watchdog::TICKS_MAX);
    bus.write(COUNTDOWN, &[1]);
    bus.write(77, &[1, 2, 3, 4]);
    bus.write(CONTROL, &[]);
    let mut all = [0xaa; 8];
    bus.read(0, &mut all);
    assert_eq!(all[4..], [0; 4]);
    assert_eq!(left(&device), Watchdog::TICKS_MAX);
    let mut impossible = Vec::new();
    KIND.encode(&Registers { countdown: 4, left: 5, running: true, expired: false }, &mut impossible);
    assert!(matches!(device.load(1, &impossible), Err(StateError::Invalid { .. })));
    assert!(matches!(device.load(2, &state(&device)), Err(StateError::Version { .. })));
}
