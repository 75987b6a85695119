//! A watchdog, as ACPI's table WDAT describes one to a guest (Microsoft "Hardware Watchdog Timers Design Specification"): a guest that
//! has set it going and then does not come by in time is told on.
//!
//! Time is counted in ticks of the event loop, and at most one each time it looks: while the guest stands still (at a checkpoint, for
//! a failover, because the host is stalled) no time goes by for it, and none is held against it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::timer::Timer;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "watchdog",
    state_version: 1,
    replay: "what is left of its time is in the saved state, and none goes by while the guest stands still.",
};

/// Offsets of the registers: two of 16 bits, one of 8.
const COUNTDOWN: u64 = 0;
const LEFT: u64 = 2;
const CONTROL: u64 = 4;

/// In control: it counts.
const RUNNING: u8 = 1 << 0;

/// Index of the timer among the sources.
const TIMER: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    /// Ticks from one visit of the guest to its end.
    countdown: u16,
    /// Ticks left.
    left: u16,
    running: bool,
    /// It ran out. Stays until the reset that ends it: whoever resumes the guest has to know.
    expired: bool,
}

impl Registers {
    fn at_boot() -> Registers {
        Registers { countdown: Watchdog::TICKS_MAX, left: Watchdog::TICKS_MAX, running: false, expired: false }
    }

    fn read(&self, at: u64) -> u8 {
        match at {
            COUNTDOWN => self.countdown.to_le_bytes()[0],
            1 => self.countdown.to_le_bytes()[1],
            LEFT => self.left.to_le_bytes()[0],
            3 => self.left.to_le_bytes()[1],
            CONTROL => u8::from(self.running) * RUNNING,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (COUNTDOWN, &[low, high]) => {
                let ticks = u16::from_le_bytes([low, high]);
                self.countdown = ticks.clamp(Watchdog::TICKS_MIN, Watchdog::TICKS_MAX);
                self.left = self.countdown;
            }
            // Whatever is written: the guest has come by.
            (LEFT, &[_, _]) => self.left = self.countdown,
            (CONTROL, &[control]) => {
                self.running = control & RUNNING != 0;
                self.left = self.countdown;
            }
            _ => {}
        }
    }

    /// A tick has gone by.
    fn tick(&mut self) {
        if !self.running {
            return;
        }
        // The first one may come at once: so many ticks are left as were whole ones.
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => (self.running, self.expired) = (false, true),
        }
    }
}

impl BusDevice for Bank<Registers> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        for (at, byte) in (offset..).zip(data) {
            *byte = registers.read(at);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut registers = self.lock();
        let before = registers.running;
        registers.write(offset, data);
        let changed = registers.running != before;
        drop(registers);
        if changed {
            self.wake();
        }
    }
}

/// A watchdog of the guest.
pub struct Watchdog {
    id: DeviceId,
    bank: Arc<Bank<Registers>>,
    timer: Timer,
    started: bool,
    /// Whether the machine was told since the start that time is over.
    told: bool,
}

impl Watchdog {
    /// Bytes of its port window.
    pub const PORTS: u64 = 5;
    /// How long a tick is, in milliseconds.
    pub const TICK_MS: u32 = 500;
    /// Least ticks that a guest may set.
    pub const TICKS_MIN: u16 = 1;
    /// Most.
    pub const TICKS_MAX: u16 = 1200;
    /// Where in the window the ticks are set, where it is seen how many are left and the guest comes by, and where it is set going
    /// and stopped.
    pub const REGISTERS: [u64; 3] = [COUNTDOWN, LEFT, CONTROL];

    /// Makes a watchdog that does not count yet.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId) -> std::io::Result<Watchdog> {
        let bank = Arc::new(Bank::new(Registers::at_boot(), None)?);
        Ok(Watchdog { id, bank, timer: Timer::new(Watchdog::TICK_MS)?, started: false, told: false })
    }

    /// Has the timer tick while there is something to be counted.
    fn set_timer(&mut self) {
        let runs = self.started && self.bank.lock().running;
        self.timer.set(runs);
    }
}

impl Device for Watchdog {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.bank.clone()
    }

    fn sources(&self) -> Vec<Source> {
        let id = SourceId { device: self.id, index: TIMER };
        vec![self.bank.source(self.id), Source { fd: self.timer.fd(), id, interest: Interest::Readable }]
    }

    fn service(&mut self, source: SourceId, _outputs: &mut Vec<Output>, events: &mut Vec<DeviceEvent>) {
        if source.index == TIMER && self.timer.has_ticked() && self.started {
            self.bank.lock().tick();
        }
        self.set_timer();
        if self.started && !self.told && self.bank.lock().expired {
            self.told = true;
            events.push(DeviceEvent::WatchdogExpired);
        }
    }

    fn start(&mut self) {
        self.started = true;
        self.told = false;
        self.bank.wake();
    }

    fn stop(&mut self) {
        self.started = false;
        self.set_timer();
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        KIND.encode(&*self.bank.lock(), into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let registers: Registers = KIND.decode(version, state)?;
        let Registers { countdown, left, .. } = registers;
        if !(Watchdog::TICKS_MIN..=Watchdog::TICKS_MAX).contains(&countdown) || left > countdown {
            return Err(KIND.invalid(format!("{left} of {countdown} ticks left")));
        }
        self.stop();
        *self.bank.lock() = registers;
        Ok(())
    }
}
