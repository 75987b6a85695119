//! The controller as drivers see it.

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const ID: DeviceId = DeviceId(9);
const SOURCE: SourceId = SourceId { device: ID, index: 0 };

fn controller() -> (I8042, EventFd) {
    let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    let mut device = I8042::new(ID, irq.try_clone().expect("eventfd")).expect("eventfd");
    device.start();
    (device, irq)
}

fn read(device: &I8042, offset: u64) -> u8 {
    let mut byte = [0];
    device.bus().read(offset, &mut byte);
    byte[0]
}

/// What an interrupt handler reads, if there was an interrupt for each byte.
fn typed(device: &I8042, irq: &EventFd) -> Vec<u8> {
    std::iter::from_fn(|| irq.read().is_ok().then(|| read(device, DATA))).collect()
}

fn events(device: &mut I8042) -> Vec<DeviceEvent> {
    let mut events = Vec::new();
    device.service(SOURCE, &mut Vec::new(), &mut events);
    events
}

#[test]
fn pulling_the_reset_line_is_a_reset_once() {
    for script in [&[(COMMAND, 0xfe)][..], &[(COMMAND, 0xf0)], &[(COMMAND, 0xd1), (DATA, 0x02)]] {
        let (mut device, _irq) = controller();
        script.iter().for_each(|&(offset, value)| device.bus().write(offset, &[value]));
        assert!(device.bank.was_woken());
        assert_eq!(events(&mut device), [DeviceEvent::Reset]);
        assert_eq!(events(&mut device), []);
    }
    let (mut device, _irq) = controller();
    for (offset, value) in [(COMMAND, 0xff), (COMMAND, 0xd1), (DATA, 0x03)] {
        device.bus().write(offset, &[value]);
    }
    assert_eq!(events(&mut device), []);
}

#[test]
fn a_reset_that_was_asked_for_survives_a_failover() {
    let (old, _irq) = controller();
    old.bus().write(COMMAND, &[0xfe]);
    let mut state = Vec::new();
    old.save(&mut state);
    let (mut new, _irq) = controller();
    new.load(KIND.state_version, &state).expect("good state");
    assert_eq!(events(&mut new), [], "it is stopped");
    new.start();
    assert!(new.bank.was_woken());
    assert_eq!(events(&mut new), [DeviceEvent::Reset]);
}

#[test]
fn ctrl_alt_del_comes_as_set_1_with_an_interrupt_a_byte() {
    let (mut device, irq) = controller();
    device.ctrl_alt_del();
    assert_eq!(typed(&device, &irq), [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
    assert_eq!(read(&device, COMMAND) & STATUS_OUTPUT_FULL, 0);
}

#[test]
fn the_command_byte_is_honoured() {
    let (mut device, irq) = controller();
    let configure = |value| {
        device.bus().write(COMMAND, &[0x60]);
        device.bus().write(DATA, &[value]);
    };
    configure(CONFIG_KEYBOARD_OFF);
    let bus = device.bus();
    device.ctrl_alt_del();
    assert_eq!(read(&device, COMMAND) & STATUS_OUTPUT_FULL, 0, "the keyboard is off");
    bus.write(COMMAND, &[0xae]);
    assert_eq!(read(&device, COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
    assert!(irq.read().is_err(), "interrupts are off");
    bus.write(COMMAND, &[0x60]);
    bus.write(DATA, &[CONFIG_KEYBOARD_IRQ]);
    assert_eq!(typed(&device, &irq), CTRL_ALT_DEL, "untranslated");
}

#[test]
fn linux_finds_a_keyboard_and_no_mouse() {
    let (device, irq) = controller();
    let reply = |command| {
        device.bus().write(COMMAND, &[command]);
        read(&device, DATA)
    };
    assert_eq!(reply(0x20), CONFIG_AT_BOOT);
    assert_eq!(reply(0xaa), 0x55);
    assert_eq!(reply(0xab), 0x00);
    assert!(![0x00, 0xfa, 0xff].contains(&reply(0xa9)));
    while irq.read().is_ok() {}
    for (command, answer) in [(0xf2, &[ACK, 0xab, 0x41][..]), (0xff, &[ACK, 0xaa]), (0xed, &[ACK]), (0x02, &[ACK])] {
        device.bus().write(DATA, &[command]);
        assert_eq!(typed(&device, &irq), answer, "{command:#x}");
    }
}

#[test]
fn half_typed_keys_go_on_after_a_load_with_an_interrupt() {
    let (mut old, irq) = controller();
    old.ctrl_alt_del();
    irq.read().expect("interrupt");
    assert_eq!(read(&old, DATA), 0x1d);
    let mut state = Vec::new();
    old.save(&mut state);
    let (mut new, irq) = controller();
    new.load(KIND.state_version, &state).expect("good state");
    assert!(irq.read().is_err(), "nothing before start");
    new.start();
    assert_eq!(typed(&new, &irq), [0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
}

#[test]
fn foreign_state_is_refused() {
    let (mut device, _irq) = controller();
    let mut state = Vec::new();
    device.save(&mut state);
    assert!(matches!(device.load(7, &state), Err(StateError::Version { .. })));
    assert!(matches!(device.load(1, &state[..3]), Err(StateError::Encoding { .. })));
    let mut flood = Vec::new();
    KIND.encode(&Registers { keyboard: vec![0; 17].into(), ..Registers::at_boot() }, &mut flood);
    assert!(matches!(device.load(1, &flood), Err(StateError::Invalid { .. })));
}
