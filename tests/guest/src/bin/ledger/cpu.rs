//! What ring 3 can do itself (ports, the time stamp counter) and what it asks of ring 0 through the gate.

use crate::apic;
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use core::time::Duration;

global_asm!(include_str!("boot.s"), options(raw));

/// Where the interrupt handlers of network and disk acknowledge: the devices' InterruptACK registers.
#[unsafe(no_mangle)]
static INTERRUPT_ACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Set by the keyboard's interrupt handler; and at boot, since a key from before would block all later ones.
#[unsafe(no_mangle)]
static KEY_PENDING: AtomicU8 = AtomicU8::new(1);

/// Tells the handler of `line` to acknowledge at `address`.
pub(crate) fn set_interrupt_ack(line: apic::Line, address: u64) {
    match line {
        apic::Line::Network => INTERRUPT_ACK[0].store(address, Ordering::Relaxed),
        apic::Line::Disk => INTERRUPT_ACK[1].store(address, Ordering::Relaxed),
        apic::Line::Keyboard => {}
    }
}

/// Whether the keyboard has interrupted since the last time asked.
pub(crate) fn key_pending() -> bool {
    KEY_PENDING.load(Ordering::Relaxed) != 0 && KEY_PENDING.swap(0, Ordering::Relaxed) != 0
}

/// Register writes to be made in ring 0, where they cost a tenth of what they cost in ring 3, and in as few crossings
/// as possible.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Doorbells {
    /// `{address, value}`; address 0 ends the list.
    writes: [[u64; 2]; Self::MOST + 1],
    count: usize,
}

impl Doorbells {
    const MOST: usize = 6;

    /// Adds one 32-bit write; the same one twice is made once.
    pub(crate) fn ring(&mut self, address: u64, value: u32) {
        let write = [address, u64::from(value)];
        if self.writes[..self.count].contains(&write) {
            return;
        }
        if self.count == Self::MOST {
            self.flush();
        }
        self.writes[self.count] = write;
        self.count += 1;
        self.writes[self.count] = [0; 2];
    }

    /// Makes the writes.
    pub(crate) fn flush(&mut self) {
        if self.count > 0 {
            self.cross(false);
        }
    }

    /// Makes the writes and sleeps until an interrupt. One that came since the last sleep ends this one at once.
    pub(crate) fn flush_and_sleep(&mut self) {
        self.cross(true);
    }

    fn cross(&mut self, sleep: bool) {
        // SAFETY: the gate reads the list, which ends with address 0, and writes device registers that the owners of
        // the devices gave; it clobbers what is named here and restores the rest.
        unsafe {
            asm!(
                "int 4",
                in("edi") u32::from(sleep),
                inout("rsi") self.writes.as_ptr() => _,
                out("rax") _,
                out("rcx") _,
            );
        }
        self.count = 0;
        self.writes[0] = [0; 2];
    }
}

/// Writes a byte to an I/O port.
pub(crate) fn out_byte(port: u16, value: u8) {
    // SAFETY: the ports used are the serial port's and the i8042's, which do no memory access of their own.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port.
pub(crate) fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as for `out_byte`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

fn time_stamp() -> u64 {
    // SAFETY: every processor of 64 bits has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Time since boot, by the time stamp counter: reading it costs no exit.
pub(crate) struct Clock {
    start: u64,
    ticks_per_us: u64,
    latest: Cell<u64>,
}

impl Clock {
    /// Measures the counter against the LAPIC's timer, which KVM and QEMU both run at 1 GHz; takes 20 ms.
    pub(crate) fn calibrate() -> Self {
        const SPAN: Duration = Duration::from_millis(20);
        let start = time_stamp();
        apic::start_timer_now(u32::MAX);
        let began = (apic::timer_left(), time_stamp());
        let ended = loop {
            let left = apic::timer_left();
            if Duration::from_nanos(u64::from(began.0 - left)) >= SPAN {
                break (left, time_stamp());
            }
        };
        let us = u64::from(began.0 - ended.0) / 1000;
        Self { start, ticks_per_us: ((ended.1 - began.1) / us).max(1), latest: Cell::new(0) }
    }

    /// Time since boot; never goes back, even if a host's counter does.
    pub(crate) fn now(&self) -> Duration {
        let us = time_stamp().saturating_sub(self.start) / self.ticks_per_us;
        let us = us.max(self.latest.get());
        self.latest.set(us);
        Duration::from_micros(us)
    }
}

/// Something different at each boot, for initial sequence numbers.
pub(crate) fn seed() -> u64 {
    time_stamp()
}

/// Resets the machine by the keyboard controller, or sleeps for ever if there is none.
pub(crate) fn reset() -> ! {
    out_byte(0x64, 0xfe);
    loop {
        Doorbells::default().flush_and_sleep();
    }
}

/// Where boot.s goes with an exception from any ring.
#[unsafe(no_mangle)]
extern "C" fn exception_in_ring_3(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    panic!("exception {vector} error {error:#x} at {rip:#x}, address {address:#x}")
}
