//! Power management: ACPI's fixed registers PM1 event and PM1 control (ACPI 6.5, 4.8.3), as far as a guest needs them to turn itself
//! off and to be asked to do so.
//!
//! Of the events there is the power button, of the sleep states "soft off". The machine is always in ACPI mode.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bank::Bank;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "power",
    state_version: 1,
    replay: "all of it is in the saved state. A button that was pressed after the last checkpoint has to be \
        pressed again.",
};

/// Offsets of the registers, each of two bytes.
const STATUS: u64 = 0;
const ENABLE: u64 = 2;
const CONTROL: u64 = 4;

/// In status and enable.
const POWER_BUTTON: u16 = 1 << 8;
/// Events that may be enabled; of all but the power button nothing ever comes.
const EVENTS: u16 = 1 << 0 | 1 << 5 | POWER_BUTTON | 1 << 9 | 1 << 10;

/// In control: interrupts of events go to the operating system (ACPI mode).
const CONTROL_SCI: u16 = 1 << 0;
/// In control: what to do at the next sleep.
const CONTROL_SLEEP_TYPE: u16 = 7 << 10;
const CONTROL_SLEEP_TYPE_SHIFT: u32 = 10;
/// In control, write-only: sleep now.
const CONTROL_SLEEP: u16 = 1 << 13;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u16,
    enable: u16,
    sleep_type: u16,
    /// The guest has turned itself off. Stays, so that whoever resumes it then knows.
    off: bool,
}

impl Registers {
    fn read(&self, register: u64) -> u16 {
        match register {
            STATUS => self.status,
            ENABLE => self.enable,
            CONTROL => self.sleep_type | CONTROL_SCI,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u16) {
        match register {
            // A one clears.
            STATUS => self.status &= !value,
            ENABLE => self.enable = value & EVENTS,
            CONTROL => {
                self.sleep_type = value & CONTROL_SLEEP_TYPE;
                let off = u16::from(PowerManagement::SLEEP_TYPE_OFF) << CONTROL_SLEEP_TYPE_SHIFT;
                self.off |= value & CONTROL_SLEEP != 0 && self.sleep_type == off;
            }
            _ => {}
        }
    }

    /// Events that have come and that the guest wants to hear of.
    fn pending(&self) -> u16 {
        self.status & self.enable
    }
}

impl Bank<Registers> {
    /// Lets `change` change the registers, then does what follows from it.
    fn change(&self, change: impl FnOnce(&mut Registers)) {
        let mut registers = self.lock();
        let before = registers.pending();
        change(&mut registers);
        // The line is raised by a pulse: an event beside one that waits already needs a pulse of its own.
        let (interrupt, off) = (registers.pending() & !before != 0, registers.off);
        drop(registers);
        if interrupt {
            self.interrupt();
        }
        if off {
            self.wake();
        }
    }
}

impl BusDevice for Bank<Registers> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        for (at, byte) in (offset..).zip(data) {
            *byte = registers.read(at & !1).to_le_bytes()[at as usize & 1];
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.change(|registers| {
            for (at, pair) in (offset..).step_by(2).zip(data.chunks(2)) {
                // Bytes and unaligned words are not how these registers are written (4.8.3.1).
                if let &[low, high] = pair
                    && at % 2 == 0
                {
                    registers.write(at, u16::from_le_bytes([low, high]));
                }
            }
        });
    }
}

/// The power management registers of a machine, with a power button.
pub struct PowerManagement {
    id: DeviceId,
    bank: Arc<Bank<Registers>>,
    started: bool,
    /// Whether the machine was told since the start that the guest is off.
    told: bool,
}

impl PowerManagement {
    /// Bytes of its port window.
    pub const PORTS: u64 = 6;

    /// The registers in it: PM1 event and PM1 control, each by offset and bytes.
    pub const REGISTERS: [(u64, u8); 2] = [(STATUS, 4), (CONTROL, 2)];

    /// What the guest writes to be off: the value for `\_S5`.
    pub const SLEEP_TYPE_OFF: u8 = 5;

    /// Makes the registers. `irq` is the irqfd of the line for ACPI's events.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId, irq: EventFd) -> std::io::Result<PowerManagement> {
        Ok(PowerManagement {
            id,
            bank: Arc::new(Bank::new(Registers::default(), Some(irq))?),
            started: false,
            told: false,
        })
    }

    /// Presses and releases the power button. Whether the guest listens to it: if not, nothing has happened.
    pub fn press_button(&mut self) -> bool {
        let listens = self.started && self.bank.lock().enable & POWER_BUTTON != 0;
        if listens {
            self.bank.change(|registers| registers.status |= POWER_BUTTON);
        }
        listens
    }
}

impl Device for PowerManagement {
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
        if self.started && !self.told && self.bank.lock().off {
            self.told = true;
            events.push(DeviceEvent::PowerOff);
        }
    }

    fn start(&mut self) {
        self.started = true;
        self.told = false;
        let registers = self.bank.lock();
        let (interrupt, off) = (registers.pending() != 0, registers.off);
        drop(registers);
        if interrupt {
            self.bank.interrupt();
        }
        if off {
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
        let Registers { status, enable, sleep_type, .. } = registers;
        if status & !POWER_BUTTON != 0 || enable & !EVENTS != 0 || sleep_type & !CONTROL_SLEEP_TYPE != 0 {
            let what = format!("status {status:#x}, enable {enable:#x}, sleep type {sleep_type:#x}");
            return Err(KIND.invalid(what));
        }
        self.started = false;
        *self.bank.lock() = registers;
        Ok(())
    }
}
