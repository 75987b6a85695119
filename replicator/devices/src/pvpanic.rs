//! The panic notifier: by it a guest's kernel says that it has come to its end (QEMU `docs/specs/pvpanic.rst`).
//!
//! One port: what is read are the events that are understood, what is written are events that have happened.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "pvpanic",
    state_version: 1,
    replay: "all of it is in the saved state. A panic after the last checkpoint has not happened yet.",
};

/// The kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// The kernel has panicked, and its crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;
/// What is understood.
const EVENTS: u8 = PANICKED | CRASH_LOADED;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    /// Events that have happened. A panic stays until the reset that ends it: whoever resumes the guest has to know.
    happened: u8,
}

impl BusDevice for Bank<Registers> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(byte)) = (offset, data.first_mut()) {
            *byte = EVENTS;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Some(events)) = (offset, data.first()) {
            self.lock().happened |= events & EVENTS;
            self.wake();
        }
    }
}

/// A panic notifier.
pub struct Pvpanic {
    id: DeviceId,
    bank: Arc<Bank<Registers>>,
    started: bool,
    /// What the machine was told since the start.
    told: u8,
}

impl Pvpanic {
    /// Bytes of its port window.
    pub const PORTS: u64 = 1;

    /// Makes the notifier.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId) -> std::io::Result<Pvpanic> {
        Ok(Pvpanic { id, bank: Arc::new(Bank::new(Registers::default(), None)?), started: false, told: 0 })
    }
}

impl Device for Pvpanic {
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
        if !self.started {
            return;
        }
        let mut registers = self.bank.lock();
        let news = registers.happened & !self.told;
        // The crash kernel runs on, and may panic itself.
        registers.happened &= !CRASH_LOADED;
        self.told |= registers.happened;
        if news & CRASH_LOADED != 0 {
            events.push(DeviceEvent::CrashKernel);
        }
        if news & PANICKED != 0 {
            events.push(DeviceEvent::Panic);
        }
    }

    fn start(&mut self) {
        self.started = true;
        self.told = 0;
        self.bank.wake();
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
        if registers.happened & !EVENTS != 0 {
            return Err(KIND.invalid(format!("events {:#x}", registers.happened)));
        }
        self.stop();
        *self.bank.lock() = registers;
        Ok(())
    }
}
