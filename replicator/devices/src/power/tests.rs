use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

struct Rig {
    power: PowerManagement,
    bus: Arc<dyn BusDevice>,
    irq: EventFd,
}

fn rig() -> Rig {
    let irq = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let mut power = PowerManagement::new(DeviceId(2), irq.try_clone().expect("its twin")).expect("registers");
    power.start();
    Rig { bus: power.bus(), power, irq }
}

impl Rig {
    fn read(&self, register: u64) -> u16 {
        let mut bytes = [0; 2];
        self.bus.read(register, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn write(&self, register: u64, value: u16) {
        self.bus.write(register, &value.to_le_bytes());
    }

    fn interrupts(&self) -> u64 {
        self.irq.read().unwrap_or(0)
    }

    fn events(&mut self) -> Vec<DeviceEvent> {
        let mut events = Vec::new();
        self.power.service(self.power.sources()[0].id, &mut Vec::new(), &mut events);
        events
    }

    fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.power.save(&mut state);
        state
    }
}

#[test]
fn the_button_is_an_interrupt_for_who_listens() {
    let mut rig = rig();
    assert!(!rig.power.press_button(), "nobody listens");
    assert_eq!((rig.interrupts(), rig.read(STATUS)), (0, 0));
    rig.write(ENABLE, POWER_BUTTON);
    assert!(rig.power.press_button());
    assert_eq!((rig.interrupts(), rig.read(STATUS)), (1, POWER_BUTTON));
    rig.write(STATUS, POWER_BUTTON);
    assert_eq!((rig.interrupts(), rig.read(STATUS)), (0, 0), "a one clears");
}

#[test]
fn a_button_pressed_before_it_is_listened_to_again_is_heard_then() {
    let mut rig = rig();
    rig.write(ENABLE, POWER_BUTTON);
    rig.power.press_button();
    rig.interrupts();
    rig.write(ENABLE, 0);
    rig.write(ENABLE, POWER_BUTTON);
    assert_eq!(rig.interrupts(), 1);
}

#[test]
fn an_event_beside_one_that_waits_has_a_pulse_of_its_own() {
    let mut rig = rig();
    rig.write(ENABLE, POWER_BUTTON | 1);
    // The global lock's, of which nothing ever comes from here: any other event would do.
    rig.power.bank.change(|registers| registers.status |= 1);
    assert_eq!(rig.interrupts(), 1);
    rig.power.press_button();
    assert_eq!(rig.interrupts(), 1, "the button while the other one waits");
    rig.power.press_button();
    assert_eq!(rig.interrupts(), 0, "it is down already");
}

#[test]
fn it_is_in_acpi_mode_and_off_only_by_the_right_sleep() {
    let mut rig = rig();
    assert_eq!(rig.read(CONTROL), CONTROL_SCI);
    rig.write(CONTROL, CONTROL_SLEEP | 1 << CONTROL_SLEEP_TYPE_SHIFT);
    rig.write(CONTROL, 5 << CONTROL_SLEEP_TYPE_SHIFT);
    assert!(rig.events().is_empty(), "another sleep, or none yet");
    assert_eq!(rig.read(CONTROL), CONTROL_SCI | 5 << CONTROL_SLEEP_TYPE_SHIFT, "the sleep bit is write-only");
    rig.write(CONTROL, CONTROL_SLEEP | 5 << CONTROL_SLEEP_TYPE_SHIFT);
    assert_eq!(rig.events(), [DeviceEvent::PowerOff]);
    assert!(rig.events().is_empty(), "once");
}

#[test]
fn what_is_pending_survives_a_failover() {
    let mut before = rig();
    before.write(ENABLE, POWER_BUTTON);
    before.power.press_button();
    before.write(CONTROL, CONTROL_SLEEP | 5 << CONTROL_SLEEP_TYPE_SHIFT);
    assert_eq!(before.events(), [DeviceEvent::PowerOff]);
    let state = before.state();
    let mut after = rig();
    after.power.load(KIND.state_version, &state).expect("loaded");
    assert_eq!(after.interrupts(), 0, "a rehearsal leaves no interrupt behind");
    assert!(after.events().is_empty(), "nor an event");
    assert_eq!(after.state(), state);
    after.power.start();
    assert_eq!((after.interrupts(), after.events()), (1, vec![DeviceEvent::PowerOff]));
    assert_eq!(after.read(STATUS), POWER_BUTTON);
}

#[test]
fn impossible_state_is_refused() {
    let mut rig = rig();
    for registers in [
        Registers { status: 1, ..Registers::default() },
        Registers { enable: 1 << 15, ..Registers::default() },
        Registers { sleep_type: 1, ..Registers::default() },
    ] {
        let mut state = Vec::new();
        KIND.encode(&registers, &mut state);
        assert!(matches!(rig.power.load(KIND.state_version, &state), Err(StateError::Invalid { .. })), "{registers:?}");
    }
    assert!(matches!(rig.power.load(9, &rig.state()), Err(StateError::Version { .. })));
}

#[test]
fn bytes_and_what_lies_beyond_do_no_harm() {
    let rig = rig();
    rig.bus.write(ENABLE, &[0xff]);
    rig.bus.write(ENABLE + 1, &[0xff, 0xff]);
    assert_eq!(rig.read(ENABLE), 0);
    let mut all = [0xaa; 8];
    rig.bus.read(0, &mut all);
    assert_eq!(all, [0, 0, 0, 0, 1, 0, 0, 0]);
}
