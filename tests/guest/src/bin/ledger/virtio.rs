//! Finding and setting up virtio-mmio devices.

use crate::apic::{self, Line};
use crate::net::Net;
use core::ptr::NonNull;
use kemari_guest::cmdline::{MAX_DEVICES, MmioDevice};
use virtio_drivers::transport::mmio::{MmioTransport, MmioVersion};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

const VERSION_1: u64 = 1 << 32;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_ACK: u64 = 0x64;

/// A device that was negotiated with and waits for its queues.
pub(crate) struct Device {
    /// Its registers.
    pub(crate) transport: MmioTransport<'static>,
    /// Address of its QueueNotify register.
    pub(crate) notify: u64,
    /// What both sides agreed on.
    pub(crate) features: u64,
}

impl Device {
    /// Resets the device, agrees on what both it and `wanted` offer (and nothing else: virtio-drivers compares event
    /// indices in a way that fails when they wrap, so rings go without), and routes its interrupt.
    fn new(mut transport: MmioTransport<'static>, at: &MmioDevice, line: Line, wanted: u64) -> Self {
        transport.set_status(DeviceStatus::empty());
        while transport.get_status() != DeviceStatus::empty() {}
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let features = transport.read_device_features() & (wanted | VERSION_1);
        transport.write_driver_features(features);
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK);
        let agreed = features & VERSION_1 != 0 && transport.get_status().contains(DeviceStatus::FEATURES_OK);
        assert!(agreed, "the device at {:#x} is not one of virtio 1", at.address);
        apic::route(line, at.irq, at.address + INTERRUPT_ACK);
        Self { transport, notify: at.address + QUEUE_NOTIFY, features }
    }
}

/// Sets up the first network device and hands over the first disk of those announced.
pub(crate) fn find(announced: &[Option<MmioDevice>; MAX_DEVICES]) -> (Net, Device) {
    apic::route(Line::Keyboard, 1, 0);
    let (mut net, mut disk) = (None, None);
    for at in announced.iter().flatten() {
        let Some(header) = NonNull::new(at.address as *mut _) else { continue };
        // SAFETY: the VMM says that a device's registers are there, and each is taken once.
        let Ok(transport) = (unsafe { MmioTransport::new(header, at.size as usize) }) else { continue };
        assert!(
            transport.version() == MmioVersion::Modern,
            "the device at {:#x} is a legacy one (QEMU: -global virtio-mmio.force-legacy=false)",
            at.address
        );
        match transport.device_type() {
            DeviceType::Network if net.is_none() => {
                net = Some(Net::new(Device::new(transport, at, Line::Network, crate::net::WANTED)));
            }
            DeviceType::Block if disk.is_none() => {
                disk = Some(Device::new(transport, at, Line::Disk, crate::disk::WANTED));
            }
            // Dropping it would reset a device that nobody drives; harmless.
            _ => {}
        }
    }
    let net = net.unwrap_or_else(|| panic!("no virtio network device announced on the command line"));
    let disk = disk.unwrap_or_else(|| panic!("no virtio disk announced on the command line"));
    (net, disk)
}
