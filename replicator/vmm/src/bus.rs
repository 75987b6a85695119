//! Which device a port or an address belongs to.

use std::sync::Arc;

use kemari_devices::BusDevice;

/// A range of ports or addresses that a device answers.
struct Window {
    base: u64,
    bytes: u64,
    device: Arc<dyn BusDevice>,
}

/// Devices by port or by address. A handful, so a search from end to end is fastest.
#[derive(Default)]
pub(crate) struct Bus(Vec<Window>);

impl Bus {
    /// Adds a device.
    pub(crate) fn add(&mut self, base: u64, bytes: u64, device: Arc<dyn BusDevice>) {
        self.0.push(Window { base, bytes, device });
    }

    /// Reads; where nobody answers, all bits are set, as on a bus that nobody drives.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes; where nobody listens, to no effect.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&dyn BusDevice, u64)> {
        self.0.iter().find_map(|window| {
            let offset = address.checked_sub(window.base)?;
            (offset < window.bytes).then_some((window.device.as_ref(), offset))
        })
    }
}
