//! The keyboard controller, for what a machine without keyboard needs of it: a reset and Ctrl-Alt-Del.
//!
//! The controller has a one-byte output buffer, filled by its own replies and by the keyboard behind it. The keyboard speaks scan
//! code set 2; the controller translates to set 1 while its command byte says so, as the BIOS leaves it and Linux expects.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bank::Bank;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "i8042",
    state_version: 1,
    replay: "all of it is in the saved state. A reset that it asks for is asked for again.",
};

const DATA: u64 = 0;
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND_LAST: u8 = 1 << 3;
/// Inverted: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 1 << 4;

const CONFIG_KEYBOARD_IRQ: u8 = 1 << 0;
const CONFIG_SYSTEM: u8 = 1 << 2;
const CONFIG_KEYBOARD_OFF: u8 = 1 << 4;
const CONFIG_MOUSE_OFF: u8 = 1 << 5;
const CONFIG_TRANSLATE: u8 = 1 << 6;
/// What a BIOS leaves behind.
const CONFIG_AT_BOOT: u8 = CONFIG_KEYBOARD_IRQ | CONFIG_SYSTEM | CONFIG_MOUSE_OFF | CONFIG_TRANSLATE;

/// Bit 0 of the output port is the CPU's reset line, active low; bit 1 is the A20 gate.
const PORT_NO_RESET: u8 = 1 << 0;
const PORT_AT_BOOT: u8 = PORT_NO_RESET | 1 << 1;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const BREAK: u8 = 0xf0;
const SCAN_CODE_SET: u8 = 2;
/// An MF2 keyboard, as it answers "identify".
const IDENTITY: [u8; 2] = [0xab, 0x83];

/// What the keyboard can remember: as much as a real one.
const KEYBOARD_BYTES_MAX: usize = 16;
/// Set 2: Ctrl, Alt, Del down; Del, Alt, Ctrl up.
const CTRL_ALT_DEL: [u8; 11] = [0x14, 0x11, 0xe0, 0x71, 0xe0, BREAK, 0x71, BREAK, 0x11, BREAK, 0x14];

/// Whom the next byte written to the data port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Awaited {
    /// A command to the keyboard.
    KeyboardCommand,
    /// The parameter of a keyboard command that has one and that changes nothing here (LEDs, typematic rate).
    Ignored,
    ScanCodeSet,
    Config,
    OutputPort,
    /// To be found in the output buffer, as if the keyboard had sent it.
    Echo,
    /// For a mouse, and there is none.
    Mouse,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    config: u8,
    output_port: u8,
    output: Option<u8>,
    awaited: Awaited,
    command_last: bool,
    /// What the keyboard has still to send, in set 2.
    keyboard: VecDeque<u8>,
    scanning: bool,
    /// The translation has seen [`BREAK`] and waits for the code that it belongs to.
    breaking: bool,
    /// The guest has pulled the reset line, and the machine was not yet told.
    reset: bool,
}

impl Registers {
    fn at_boot() -> Registers {
        Registers {
            config: CONFIG_AT_BOOT,
            output_port: PORT_AT_BOOT,
            output: None,
            awaited: Awaited::KeyboardCommand,
            command_last: false,
            keyboard: VecDeque::new(),
            scanning: true,
            breaking: false,
            reset: false,
        }
    }

    fn status(&self) -> u8 {
        let bit = |on, bit| if on { bit } else { 0 };
        STATUS_UNLOCKED
            | bit(self.output.is_some(), STATUS_OUTPUT_FULL)
            | bit(self.config & CONFIG_SYSTEM != 0, STATUS_SYSTEM)
            | bit(self.command_last, STATUS_COMMAND_LAST)
    }

    fn command(&mut self, command: u8) {
        self.command_last = true;
        self.awaited = Awaited::KeyboardCommand;
        match command {
            0x20 => self.output = Some(self.config),
            0x60 => self.awaited = Awaited::Config,
            0xa7 => self.config |= CONFIG_MOUSE_OFF,
            0xa8 => self.config &= !CONFIG_MOUSE_OFF,
            // Test of the mouse port: its clock line is stuck, there is none.
            0xa9 => self.output = Some(0x01),
            0xaa => {
                self.config |= CONFIG_SYSTEM;
                self.output = Some(0x55);
            }
            0xab => self.output = Some(0x00),
            0xad => self.config |= CONFIG_KEYBOARD_OFF,
            0xae => self.config &= !CONFIG_KEYBOARD_OFF,
            // Input port: keyboard not inhibited.
            0xc0 => self.output = Some(0x80),
            0xd0 => self.output = Some(self.output_port),
            0xd1 => self.awaited = Awaited::OutputPort,
            // A mouse would mark the second one as its own in the status: Linux sees that there is none.
            0xd2 | 0xd3 => self.awaited = Awaited::Echo,
            0xd4 => self.awaited = Awaited::Mouse,
            // Pulses the lines whose bits are zero.
            0xf0..=0xff => self.reset |= command & PORT_NO_RESET == 0,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        self.command_last = false;
        match std::mem::replace(&mut self.awaited, Awaited::KeyboardCommand) {
            Awaited::KeyboardCommand => self.keyboard_command(value),
            Awaited::Ignored => self.send(&[ACK]),
            Awaited::ScanCodeSet => match value {
                0 => self.send(&[ACK, SCAN_CODE_SET]),
                SCAN_CODE_SET => self.send(&[ACK]),
                _ => self.send(&[RESEND]),
            },
            Awaited::Config => self.config = value,
            Awaited::OutputPort => {
                self.reset |= value & PORT_NO_RESET == 0;
                self.output_port = value | PORT_NO_RESET;
            }
            Awaited::Echo => self.output = Some(value),
            Awaited::Mouse => {}
        }
    }

    fn keyboard_command(&mut self, command: u8) {
        match command {
            0xed | 0xf3 => {
                self.awaited = Awaited::Ignored;
                self.send(&[ACK]);
            }
            0xee => self.send(&[0xee]),
            0xf0 => {
                self.awaited = Awaited::ScanCodeSet;
                self.send(&[ACK]);
            }
            0xf2 => self.send(&[ACK, IDENTITY[0], IDENTITY[1]]),
            0xf4 | 0xf6 => {
                self.scanning = true;
                self.send(&[ACK]);
            }
            0xf5 => {
                self.scanning = false;
                self.send(&[ACK]);
            }
            0xff => {
                self.keyboard.clear();
                self.scanning = true;
                self.send(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.send(&[RESEND]),
        }
    }

    /// The keyboard sends all of `bytes`, or none if it has not been listened to.
    fn send(&mut self, bytes: &[u8]) {
        if self.keyboard.len() + bytes.len() <= KEYBOARD_BYTES_MAX {
            self.keyboard.extend(bytes);
        }
    }

    /// Moves the keyboard's next byte to the output buffer, if that is free.
    fn refill(&mut self) {
        while self.output.is_none() && self.config & CONFIG_KEYBOARD_OFF == 0 {
            let Some(code) = self.keyboard.pop_front() else { return };
            if self.config & CONFIG_TRANSLATE == 0 {
                self.output = Some(code);
            } else if code == BREAK {
                self.breaking = true;
            } else {
                let released = if std::mem::take(&mut self.breaking) { 0x80 } else { 0 };
                self.output = Some(translated(code) | released);
            }
        }
    }
}

/// Set 1 for those codes of set 2 (and of [`IDENTITY`]) that this keyboard ever sends and that differ.
fn translated(code: u8) -> u8 {
    match code {
        0x14 => 0x1d,
        0x11 => 0x38,
        0x71 => 0x53,
        0x83 => 0x41,
        same => same,
    }
}

impl Bank<Registers> {
    /// Lets `access` use the registers, then does what follows from it.
    fn with<T>(&self, access: impl FnOnce(&mut Registers) -> T) -> T {
        let mut registers = self.lock();
        let before = (registers.output.is_some(), registers.config & CONFIG_KEYBOARD_IRQ);
        let result = access(&mut registers);
        let was_read = before.0 && registers.output.is_none();
        registers.refill();
        let line = registers.output.is_some() && registers.config & CONFIG_KEYBOARD_IRQ != 0;
        let was_up = before.0 && before.1 != 0 && !was_read;
        let reset = registers.reset;
        drop(registers);
        if line && !was_up {
            self.interrupt();
        }
        if reset {
            self.wake();
        }
        result
    }
}

impl BusDevice for Bank<Registers> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(byte) = data.first_mut() {
            match offset {
                DATA => *byte = self.with(|registers| registers.output.take()).unwrap_or(0),
                COMMAND => *byte = self.lock().status(),
                _ => {}
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (DATA, Some(&value)) => self.with(|registers| registers.data(value)),
            (COMMAND, Some(&value)) => self.with(|registers| registers.command(value)),
            _ => {}
        }
    }
}

/// A keyboard controller (i8042) with a keyboard on which only Ctrl-Alt-Del is ever pressed.
pub struct I8042 {
    id: DeviceId,
    bank: Arc<Bank<Registers>>,
    started: bool,
}

impl I8042 {
    /// Bytes of its port window (from 0x60: data at 0, command and status at 4).
    pub const PORTS: u64 = 5;

    /// Where in it commands are written and the status is read.
    pub const COMMAND_PORT: u64 = COMMAND;

    /// Makes the controller. `irq` is the irqfd of the keyboard's interrupt line (1).
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId, irq: EventFd) -> std::io::Result<I8042> {
        Ok(I8042 { id, bank: Arc::new(Bank::new(Registers::at_boot(), Some(irq))?), started: false })
    }

    /// Presses and releases Ctrl-Alt-Del: asks the guest to shut down. Nothing happens if the guest has turned the keyboard off
    /// or has not read what was typed before, or if the controller is stopped.
    pub fn ctrl_alt_del(&mut self) {
        if self.started {
            self.bank.with(|registers| {
                if registers.scanning {
                    registers.send(&CTRL_ALT_DEL);
                }
            });
        }
    }
}

impl Device for I8042 {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.bank.clone()
    }

    fn sources(&self) -> Vec<Source> {
        vec![self.bank.source(self.id)]
    }

    fn service(&mut self, _source: SourceId, _outputs: &mut Vec<Output>, events: &mut Vec<DeviceEvent>) {
        if self.started && std::mem::take(&mut self.bank.lock().reset) {
            events.push(DeviceEvent::Reset);
        }
    }

    fn start(&mut self) {
        self.started = true;
        let registers = self.bank.lock();
        let (full, reset) = (registers.output.is_some(), registers.reset);
        let irq = full && registers.config & CONFIG_KEYBOARD_IRQ != 0;
        drop(registers);
        if irq {
            self.bank.interrupt();
        }
        if reset {
            self.bank.wake();
        }
    }

    fn stop(&mut self) {
        self.started = false;
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        KIND.encode(&*self.bank.lock(), into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let registers: Registers = KIND.decode(version, state)?;
        if registers.keyboard.len() > KEYBOARD_BYTES_MAX {
            let what = format!("{} bytes typed, where {KEYBOARD_BYTES_MAX} fit", registers.keyboard.len());
            return Err(KIND.invalid(what));
        }
        self.started = false;
        *self.bank.lock() = registers;
        Ok(())
    }
}
