//! The registers of a simple device: no queues, at most one interrupt line, and something to tell the event loop now and then.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{DeviceId, Interest, Source, SourceId};

/// Registers that both sides of a device use, each for a moment. It is the device's bus side by what the device makes of it.
pub(crate) struct Bank<R> {
    registers: Mutex<R>,
    irq: Option<EventFd>,
    /// Readable when the event loop has something to do.
    wake: EventFd,
}

impl<R> Bank<R> {
    /// A bank with these registers. `irq` is the irqfd of its interrupt line, if the device has one.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn new(registers: R, irq: Option<EventFd>) -> io::Result<Bank<R>> {
        Ok(Bank { registers: Mutex::new(registers), irq, wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// The registers. A poisoned lock is taken all the same: no device leaves its registers half changed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, R> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the interrupt line. Not while the registers are locked.
    pub(crate) fn interrupt(&self) {
        if let Some(irq) = &self.irq {
            signal(irq);
        }
    }

    /// Has the event loop service the device. Not while the registers are locked.
    pub(crate) fn wake(&self) {
        signal(&self.wake);
    }

    /// Whether it was asked for, since this was asked last.
    #[cfg(test)]
    pub(crate) fn was_woken(&self) -> bool {
        self.wake.read().is_ok()
    }

    /// What the event loop polls: source 0 of the device.
    pub(crate) fn source(&self, device: DeviceId) -> Source {
        let id = SourceId { device, index: 0 };
        Source { fd: self.wake.as_raw_fd(), id, interest: Interest::Readable }
    }
}

fn signal(event: &EventFd) {
    if let Err(error) = event.write(1) {
        log::error!("an eventfd of a device cannot be written: {error}");
    }
}
