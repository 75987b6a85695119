//! The serial port, the keyboard's one combination, and the last words.

use crate::cpu::{self, in_byte, out_byte};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, Ordering};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const FIFO_BYTES: usize = 16;

/// Prints a line on the serial port. Each byte is an exit: say little.
macro_rules! say {
    ($($words:tt)*) => { $crate::console::line(format_args!($($words)*)) };
}
pub(crate) use say;

/// Turns the serial port's FIFO on, and keyboard interrupts with translation to scan code set 1 (the controller's
/// command 0x60, "write command byte").
pub(crate) fn init() {
    out_byte(COM1 + 2, 1);
    out_byte(0x64, 0x60);
    out_byte(0x60, 0x41);
}

/// Prints `words` and a line end.
pub(crate) fn line(words: fmt::Arguments) {
    // Writing to the port cannot fail.
    let _ = SerialPort { room: 0 }.write_fmt(format_args!("{words}\r\n"));
}

struct SerialPort {
    /// Bytes the FIFO takes without asking again: asking is an exit too.
    room: usize,
}

impl Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.room == 0 {
                while in_byte(LINE_STATUS) & 0x20 == 0 {}
                self.room = FIFO_BYTES;
            }
            out_byte(COM1, byte);
            self.room -= 1;
        }
        Ok(())
    }
}

/// Whether Ctrl-Alt-Del has been pressed: takes what the keyboard interrupted for. A controller may not translate, so
/// the codes of set 2 do as well as those of set 1; nobody types on this keyboard, so they are not told apart.
pub(crate) fn ctrl_alt_del() -> bool {
    const CTRL: u8 = 1;
    const ALT: u8 = 2;
    static HELD: AtomicU8 = AtomicU8::new(0);
    let mut asked = false;
    if cpu::key_pending() {
        let mut held = HELD.load(Ordering::Relaxed);
        let mut left = 16;
        while left > 0 && in_byte(0x64) & 1 != 0 {
            left -= 1;
            match in_byte(0x60) {
                0x1d | 0x14 => held |= CTRL,
                0x38 | 0x11 => held |= ALT,
                0x53 | 0x71 => asked |= held == CTRL | ALT,
                // Set 1: Ctrl or Alt is let go. Set 2: the prefix of every key that is let go.
                0x9d | 0xb8 | 0xf0 => held = 0,
                _ => {}
            }
        }
        HELD.store(held, Ordering::Relaxed);
    }
    asked
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("kemari-guest: {info}");
    cpu::reset()
}

/// The prebuilt `core` names it for unwinding, which the profile `guest` has none of.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
