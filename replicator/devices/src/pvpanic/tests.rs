use super::*;

fn notifier() -> Pvpanic {
    let mut device = Pvpanic::new(DeviceId(3)).expect("a device");
    device.start();
    device
}

fn events(device: &mut Pvpanic) -> Vec<DeviceEvent> {
    let mut events = Vec::new();
    device.service(device.sources()[0].id, &mut Vec::new(), &mut events);
    events
}

fn state(device: &Pvpanic) -> Vec<u8> {
    let mut state = Vec::new();
    device.save(&mut state);
    state
}

#[test]
fn a_panic_is_told_once() {
    let mut device = notifier();
    let mut byte = [0xff];
    device.bus().read(0, &mut byte);
    assert_eq!(byte, [EVENTS], "what a driver looks for before it uses the device");
    assert!(events(&mut device).is_empty());
    device.bus().write(0, &[PANICKED | 0xf0]);
    assert_eq!(events(&mut device), [DeviceEvent::Panic]);
    assert!(events(&mut device).is_empty());
}

#[test]
fn a_crash_kernel_may_panic_itself() {
    let mut device = notifier();
    for _ in 0..2 {
        device.bus().write(0, &[CRASH_LOADED]);
        assert_eq!(events(&mut device), [DeviceEvent::CrashKernel]);
    }
    device.bus().write(0, &[PANICKED]);
    assert_eq!(events(&mut device), [DeviceEvent::Panic]);
}

#[test]
fn whoever_resumes_a_guest_that_has_panicked_is_told() {
    let mut before = notifier();
    before.bus().write(0, &[PANICKED]);
    events(&mut before);
    let mut after = notifier();
    after.load(KIND.state_version, &state(&before)).expect("good state");
    assert!(events(&mut after).is_empty(), "not in a rehearsal");
    assert_eq!(state(&after), state(&before));
    after.start();
    assert_eq!(events(&mut after), [DeviceEvent::Panic]);
    let birth = state(&notifier());
    after.load(KIND.state_version, &birth).expect("good state");
    after.start();
    assert!(events(&mut after).is_empty(), "a reset ends it");
}

#[test]
fn what_makes_no_sense_does_no_harm() {
    let mut device = notifier();
    device.bus().write(1, &[PANICKED]);
    device.bus().write(0, &[]);
    device.bus().write(0, &[0xfc]);
    device.bus().read(7, &mut [0; 8]);
    assert!(events(&mut device).is_empty());
    assert!(matches!(device.load(2, &state(&device)), Err(StateError::Version { .. })));
    assert!(matches!(device.load(1, &[4]), Err(StateError::Invalid { .. })));
    assert!(matches!(device.load(1, &[]), Err(StateError::Encoding { .. })));
}
