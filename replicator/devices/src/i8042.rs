//! The keyboard controller, for what a machine without keyboard needs of it: a reset and Ctrl-Alt-Del.

use vmm_sys_util::eventfd::EventFd;

use crate::{DeviceId, Output};

/// A keyboard controller (i8042) with a keyboard on which only Ctrl-Alt-Del is ever pressed.
pub struct I8042 {}

impl I8042 {
    /// Bytes of its port window (from 0x60: data at 0, command and status at 4).
    pub const PORTS: u64 = 5;

    /// Makes the controller. `irq` is the irqfd of the keyboard's interrupt line (1).
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(id: DeviceId, irq: EventFd) -> std::io::Result<I8042> {
        todo!()
    }

    /// Presses and releases Ctrl-Alt-Del: asks the guest to shut down.
    pub fn ctrl_alt_del(&mut self) {
        todo!()
    }
}

impl crate::Device for I8042 {
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
