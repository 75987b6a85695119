//! The serial port: a 16550 and where its bytes go.

use std::path::PathBuf;

use vmm_sys_util::eventfd::EventFd;

use crate::{DeviceId, Output};

/// Where the bytes of a [`Serial`] go, and where those for the guest come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    None,
    /// Appended to a file, which is made if needed.
    File(PathBuf),
    /// A new pseudo-terminal, with a symbolic link to it at this path.
    Pty(PathBuf),
    /// A unix socket that listens at this path, for one client at a time.
    Socket(PathBuf),
}

/// Counters of a [`Serial`], since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleStats {
    /// Bytes taken from the guest and not released.
    pub held_bytes: u64,
    /// Bytes given to the sink.
    pub written_bytes: u64,
    /// Bytes lost because nobody read the sink, or the guest wrote although the port was not ready.
    pub dropped_bytes: u64,
    /// Bytes given to the guest.
    pub received_bytes: u64,
}

/// Why a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {}

/// A serial port (16550A) of the guest.
pub struct Serial {}

impl Serial {
    /// Bytes of its port window (COM1: from 0x3f8).
    pub const PORTS: u64 = 8;

    /// Opens the sink and makes the port. `irq` is the irqfd of its interrupt line (COM1: 4). If not `hold`, bytes go to the
    /// sink at once, for diagnosis: they may then show what never happened.
    ///
    /// # Errors
    /// The sink cannot be opened.
    pub fn new(id: DeviceId, irq: EventFd, sink: &Sink, hold: bool) -> Result<Serial, SinkError> {
        todo!()
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> ConsoleStats {
        todo!()
    }
}

impl crate::Device for Serial {
    fn id(&self) -> DeviceId {
        todo!()
    }
    fn bus(&self) -> std::sync::Arc<dyn crate::BusDevice> {
        todo!()
    }
    fn sources(&self) -> Vec<crate::Source> {
        todo!()
    }
    fn service(&mut self, _: crate::SourceId, _: &mut Vec<Output>, _: &mut Vec<crate::DeviceEvent>) {
        todo!()
    }
    fn collect(&mut self, _: &mut Vec<Output>) {
        todo!()
    }
    fn release(&mut self, _: kemari_core::Released<Output>) {
        todo!()
    }
    fn set_backpressure(&mut self, _: bool) {
        todo!()
    }
    fn start(&mut self) {
        todo!()
    }
    fn stop(&mut self) {
        todo!()
    }
    fn kind(&self) -> &'static str {
        todo!()
    }
    fn state_version(&self) -> u16 {
        todo!()
    }
    fn save(&self, _: &mut Vec<u8>) {
        todo!()
    }
    fn load(&mut self, _: u16, _: &[u8]) -> Result<(), crate::StateError> {
        todo!()
    }
}
