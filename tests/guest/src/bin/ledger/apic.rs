//! Interrupts: IOAPIC pins by edge, the LAPIC's timer in one-shot mode, the PIC silent.

use crate::cpu::{Doorbells, out_byte, set_interrupt_ack};
use core::ptr;
use core::time::Duration;

const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
const SPURIOUS: u64 = LAPIC + 0xf0;
const LVT_TIMER: u64 = LAPIC + 0x320;
const LINT0: u64 = LAPIC + 0x350;
const INITIAL_COUNT: u64 = LAPIC + 0x380;
const CURRENT_COUNT: u64 = LAPIC + 0x390;
const DIVIDE: u64 = LAPIC + 0x3e0;

const TIMER_VECTOR: u32 = 32;
const SPURIOUS_VECTOR: u32 = 63;
const IOAPIC_PINS: u32 = 24;

/// What interrupts, each with a handler in boot.s.
#[derive(Clone, Copy)]
pub(crate) enum Line {
    /// The network device.
    Network,
    /// The disk.
    Disk,
    /// The keyboard controller, pin 1.
    Keyboard,
}

impl Line {
    fn vector(self) -> u32 {
        match self {
            Self::Network => 33,
            Self::Disk => 34,
            Self::Keyboard => 35,
        }
    }
}

fn write(register: u64, value: u32) {
    // SAFETY: only called with the constants above, registers of the LAPIC and IOAPIC.
    unsafe { ptr::write_volatile(register as *mut u32, value) }
}

fn read(register: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { ptr::read_volatile(register as *const u32) }
}

/// Turns the LAPIC on with its timer one-shot, and the PIC off.
pub(crate) fn init() {
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);
    write(LINT0, 1 << 16);
    write(SPURIOUS, 0x100 | SPURIOUS_VECTOR);
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, TIMER_VECTOR);
}

/// Routes pin `irq` to the handler of `line`, whose acknowledgement (if it is a virtio device) goes to `ack`.
pub(crate) fn route(line: Line, irq: u32, ack: u64) {
    assert!(irq < IOAPIC_PINS, "interrupt {irq} is beyond the {IOAPIC_PINS} pins of the IOAPIC");
    set_interrupt_ack(line, ack);
    write(IOAPIC, 0x10 + 2 * irq + 1);
    write(IOAPIC + 0x10, 0);
    write(IOAPIC, 0x10 + 2 * irq);
    write(IOAPIC + 0x10, line.vector());
}

/// Starts the timer from ring 3, to expire after `count` ns.
pub(crate) fn start_timer_now(count: u32) {
    write(INITIAL_COUNT, count);
}

/// Nanoseconds until the timer expires, 0 after that.
pub(crate) fn timer_left() -> u32 {
    read(CURRENT_COUNT)
}

/// The timer, and when it is set to expire.
#[derive(Default)]
pub(crate) struct Alarm(Option<Duration>);

impl Alarm {
    /// Asks for an interrupt `after` from `now`, if at all. A timer already set to expire earlier stays: that costs one
    /// idle wake-up now and then instead of a register write at every sleep.
    pub(crate) fn set(&mut self, now: Duration, after: Duration, bells: &mut Doorbells) {
        let at = now + after;
        if self.0.is_some_and(|set| now < set && set <= at) {
            return;
        }
        let count = u32::try_from(after.as_nanos()).unwrap_or(u32::MAX);
        self.0 = Some(now + Duration::from_nanos(u64::from(count)));
        bells.ring(INITIAL_COUNT, count);
    }
}
