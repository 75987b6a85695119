//! The devices of a machine: which there are, where the guest finds them, and how they are wired to KVM.

use kemari_core::Released;
use kemari_devices::{
    BusDevice, Device, DeviceId, Disk, DiskOptions, I8042, MMIO_BYTES, Memory, Net, NetOptions, Output,
    PowerManagement, QUEUE_NOTIFY, Serial,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::Slot;
use crate::kvm::failed;
use crate::vcpu::Buses;
use crate::{Error, MachineConfig};

pub(crate) const SERIAL_PORT: u64 = 0x3f8;
pub(crate) const SERIAL_IRQ: u32 = 4;
pub(crate) const KEYBOARD_PORT: u64 = 0x60;
pub(crate) const KEYBOARD_IRQ: u32 = 1;
/// Where chipsets since Intel's PIIX4 have it, and their interrupt line for it.
pub(crate) const POWER_PORT: u64 = 0x600;
pub(crate) const POWER_IRQ: u32 = 9;

/// Where the windows of virtio devices begin, in the hole below 4 GiB.
const VIRTIO_BASE: u64 = 0xd000_0000;
/// Interrupt lines for virtio devices: ISA's and the IOAPIC's own, less those that are somebody's by tradition.
pub(crate) const VIRTIO_IRQS: [u32; 16] = [5, 6, 7, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// All devices, in the order of their numbers.
pub(crate) struct Devices {
    serial: Serial,
    keyboard: I8042,
    power: PowerManagement,
    pub(crate) nets: Vec<Net>,
    pub(crate) disks: Vec<Disk>,
    /// Where the guest finds the virtio devices.
    slots: Vec<Slot>,
}

impl Devices {
    /// Makes the devices, stopped, and wires them to `vm` and `buses`.
    pub(crate) fn new(config: &MachineConfig, vm: &VmFd, memory: &Memory, buses: &mut Buses) -> Result<Devices, Error> {
        let mut ids = (0..).map(DeviceId);
        let mut id = move || ids.next().unwrap_or(DeviceId(u8::MAX));
        let virtio_count = config.nics.len() + config.disks.len();
        let Some(virtio_irqs) = VIRTIO_IRQS.get(..virtio_count) else {
            let remedy = format!("there are interrupt lines for {} of them", VIRTIO_IRQS.len());
            return Err(Error::Config { key: "nics and disks", value: virtio_count.to_string(), remedy });
        };
        let serial = Serial::new(id(), irqfd(vm, SERIAL_IRQ)?, &config.console.sink, config.console.hold)
            .map_err(Error::Console)?;
        buses.ports.add(SERIAL_PORT, Serial::PORTS, serial.bus());
        let keyboard = I8042::new(id(), irqfd(vm, KEYBOARD_IRQ)?)
            .map_err(|source| Error::Resource { what: "the keyboard controller", source })?;
        buses.ports.add(KEYBOARD_PORT, I8042::PORTS, keyboard.bus());
        let power = PowerManagement::new(id(), irqfd(vm, POWER_IRQ)?)
            .map_err(|source| Error::Resource { what: "the power management registers", source })?;
        buses.ports.add(POWER_PORT, PowerManagement::PORTS, power.bus());
        let bases = (VIRTIO_BASE..).step_by(MMIO_BYTES as usize);
        let slots: Vec<Slot> = virtio_irqs.iter().zip(bases).map(|(&irq, base)| Slot { base, irq }).collect();
        let mut free = slots.clone().into_iter();
        let mut slot = || free.next().map_or((0, 0), |slot| (slot.irq, slot.base));
        let mut devices = Devices { serial, keyboard, power, nets: Vec::new(), disks: Vec::new(), slots };
        for (index, nic) in config.nics.iter().enumerate() {
            let (irq, base) = slot();
            let options = NetOptions { tap: nic.tap.clone(), mac: nic.mac };
            let net = Net::new(id(), memory.clone(), irqfd(vm, irq)?, &options)
                .map_err(|source| Error::Net { index, source })?;
            wire(&net, base, vm, buses)?;
            devices.nets.push(net);
        }
        for (index, disk) in config.disks.iter().enumerate() {
            let (irq, base) = slot();
            let options =
                DiskOptions { path: disk.path.clone(), serial: disk.serial.clone(), read_only: disk.read_only };
            let disk = Disk::new(id(), memory.clone(), irqfd(vm, irq)?, &options)
                .map_err(|source| Error::Disk { index, source })?;
            wire(&disk, base, vm, buses)?;
            devices.disks.push(disk);
        }
        Ok(devices)
    }

    /// Where the guest finds the virtio devices.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &dyn Device> {
        let own: [&dyn Device; 3] = [&self.serial, &self.keyboard, &self.power];
        let nets = self.nets.iter().map(|net| net as &dyn Device);
        own.into_iter().chain(nets).chain(self.disks.iter().map(|disk| disk as &dyn Device))
    }

    /// All of them.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut dyn Device> {
        let own: [&mut dyn Device; 3] = [&mut self.serial, &mut self.keyboard, &mut self.power];
        let nets = self.nets.iter_mut().map(|net| net as &mut dyn Device);
        own.into_iter().chain(nets).chain(self.disks.iter_mut().map(|disk| disk as &mut dyn Device))
    }

    /// The one with this number.
    pub(crate) fn find(&mut self, id: DeviceId) -> Option<&mut dyn Device> {
        self.all_mut().nth(id.0.into())
    }

    /// The serial port.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Asks the guest to shut down: by the power button if it has an ear for it, by Ctrl-Alt-Del otherwise.
    pub(crate) fn ask_to_shut_down(&mut self) {
        if !self.power.press_button() {
            self.keyboard.ctrl_alt_del();
        }
    }

    /// Gives an output back to the device it came from.
    pub(crate) fn release(&mut self, output: Released<Output>) {
        let id = output.get().device();
        match self.find(id) {
            Some(device) => device.release(output),
            None => log::error!("there is no device {} to release its output to", id.0),
        }
    }
}

/// An eventfd that raises an interrupt line.
fn irqfd(vm: &VmFd, line: u32) -> Result<EventFd, Error> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Resource { what: "an eventfd", source })?;
    vm.register_irqfd(&event, line).map_err(failed("KVM_IRQFD"))?;
    Ok(event)
}

/// Puts a virtio device where the guest will look for it, and lets KVM turn its notifications into signals.
fn wire(device: &dyn Device, base: u64, vm: &VmFd, buses: &mut Buses) -> Result<(), Error> {
    let bus: std::sync::Arc<dyn BusDevice> = device.bus();
    buses.addresses.add(base, MMIO_BYTES, bus);
    let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
    for (queue, notifier) in (0u32..).zip(device.notifiers()) {
        vm.register_ioevent(notifier, &notify, queue).map_err(failed("KVM_IOEVENTFD"))?;
    }
    Ok(())
}
