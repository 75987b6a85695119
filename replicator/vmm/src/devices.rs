//! The devices of a machine: which there are, where the guest finds them, and how they are wired to KVM.

use kemari_core::Released;
use kemari_devices::{
    Device, DeviceId, Disk, DiskOptions, I8042, Images, MMIO_BYTES, Memory, Net, NetOptions, Output, PowerManagement,
    Pvpanic, QUEUE_NOTIFY, Rng, Serial, Watchdog,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::Slot;
use crate::kvm::failed;
use crate::vcpu::Buses;
use crate::{DiskConfig, Error, MachineConfig, NicConfig};

pub(crate) const SERIAL_PORT: u64 = 0x3f8;
pub(crate) const SERIAL_IRQ: u32 = 4;
pub(crate) const KEYBOARD_PORT: u64 = 0x60;
pub(crate) const KEYBOARD_IRQ: u32 = 1;
/// Where chipsets since Intel's PIIX4 have it, and their interrupt line for it.
pub(crate) const POWER_PORT: u64 = 0x600;
pub(crate) const POWER_IRQ: u32 = 9;

/// Where QEMU has it.
pub(crate) const PANIC_PORT: u64 = 0x505;
pub(crate) const WATCHDOG_PORT: u64 = 0x610;

/// Where the windows of virtio devices begin, in the hole below 4 GiB.
const VIRTIO_BASE: u64 = 0xd000_0000;
/// Interrupt lines for virtio devices: ISA's and the IOAPIC's own, less those that are somebody's by tradition.
pub(crate) const VIRTIO_IRQS: [u32; 16] = [5, 6, 7, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// All devices, in the order of their numbers.
pub(crate) struct Devices {
    serial: Serial,
    keyboard: I8042,
    power: PowerManagement,
    panic: Pvpanic,
    pub(crate) nets: Vec<Net>,
    pub(crate) disks: Vec<Disk>,
    rng: Rng,
    watchdog: Option<Watchdog>,
    /// Where the guest finds the virtio devices.
    slots: Vec<Slot>,
}

/// Gives devices their numbers, virtio devices also a place each, and wires them.
struct Wiring<'a> {
    vm: &'a VmFd,
    buses: &'a mut Buses,
    next_id: u8,
    slots: Vec<Slot>,
}

impl Wiring<'_> {
    fn id(&mut self) -> DeviceId {
        let id = DeviceId(self.next_id);
        self.next_id += 1;
        id
    }

    /// The next free place for a virtio device, and an eventfd for its interrupt line.
    fn slot(&mut self) -> Result<(Slot, EventFd), Error> {
        let slot = slot(self.slots.len())?;
        self.slots.push(slot);
        Ok((slot, irqfd(self.vm, slot.irq)?))
    }

    fn nics(&mut self, nics: &[NicConfig], memory: &Memory) -> Result<Vec<Net>, Error> {
        let mut nets = Vec::with_capacity(nics.len());
        for (index, NicConfig { tap, mac }) in nics.iter().enumerate() {
            let (slot, irq) = self.slot()?;
            let options = NetOptions { tap: tap.clone(), mac: *mac };
            let net = Net::new(self.id(), memory.clone(), irq, &options);
            let net = net.map_err(|source| Error::Net { index, source })?;
            self.wire(&net, slot)?;
            nets.push(net);
        }
        Ok(nets)
    }

    fn disks(&mut self, configs: &[DiskConfig], memory: &Memory) -> Result<Vec<Disk>, Error> {
        let mut disks = Vec::with_capacity(configs.len());
        let mut images = Images::default();
        for (index, config) in configs.iter().enumerate() {
            let (slot, irq) = self.slot()?;
            let failed = |source| Error::Disk { index, source };
            let disk = Disk::new(self.id(), memory.clone(), irq, &disk_options(config)).map_err(failed)?;
            images.add(disk.image_id(), &config.path).map_err(failed)?;
            self.wire(&disk, slot)?;
            disks.push(disk);
        }
        Ok(disks)
    }

    fn rng(&mut self, memory: &Memory) -> Result<Rng, Error> {
        let (slot, irq) = self.slot()?;
        let rng = Rng::new(self.id(), memory.clone(), irq)
            .map_err(|source| Error::Resource { what: "the source of randomness", source })?;
        self.wire(&rng, slot)?;
        Ok(rng)
    }

    fn watchdog(&mut self) -> Result<Watchdog, Error> {
        let watchdog = Watchdog::new(self.id()).map_err(|source| Error::Resource { what: "the watchdog", source })?;
        self.buses.ports.add(WATCHDOG_PORT, Watchdog::PORTS, watchdog.bus());
        Ok(watchdog)
    }

    /// Puts a virtio device where the guest will look for it, and lets KVM turn its notifications into signals.
    fn wire(&mut self, device: &dyn Device, slot: Slot) -> Result<(), Error> {
        self.buses.addresses.add(slot.base, MMIO_BYTES, device.bus());
        let notify = IoEventAddress::Mmio(slot.base + QUEUE_NOTIFY);
        for (queue, notifier) in (0u32..).zip(device.notifiers()) {
            self.vm.register_ioevent(notifier, &notify, queue).map_err(failed("KVM_IOEVENTFD"))?;
        }
        Ok(())
    }
}

/// The place of a virtio device.
fn slot(index: usize) -> Result<Slot, Error> {
    let Some(&irq) = VIRTIO_IRQS.get(index) else {
        // One is for randomness.
        let remedy = format!("there are interrupt lines for {} of them", VIRTIO_IRQS.len() - 1);
        return Err(Error::Config { key: "nics and disks", value: "too many".to_owned(), remedy });
    };
    Ok(Slot { base: VIRTIO_BASE + index as u64 * MMIO_BYTES, irq })
}

/// The places of all virtio devices of a machine: its network cards, its disks, and the source of randomness.
pub(crate) fn slots(config: &MachineConfig) -> Result<Vec<Slot>, Error> {
    (0..=config.nics.len() + config.disks.len()).map(slot).collect()
}

/// A disk as its device wants it described.
pub(crate) fn disk_options(config: &DiskConfig) -> DiskOptions {
    let DiskConfig { path, serial, read_only, on_error, timeout_s } = config.clone();
    DiskOptions { path, serial, read_only, on_error, timeout_s }
}

impl Devices {
    /// Makes the devices, stopped, and wires them to `vm` and `buses`.
    pub(crate) fn new(config: &MachineConfig, vm: &VmFd, memory: &Memory, buses: &mut Buses) -> Result<Devices, Error> {
        let mut wiring = Wiring { vm, buses, next_id: 0, slots: Vec::new() };
        let serial = Serial::new(wiring.id(), irqfd(vm, SERIAL_IRQ)?, &config.console.sink, config.console.hold)
            .map_err(Error::Console)?;
        wiring.buses.ports.add(SERIAL_PORT, Serial::PORTS, serial.bus());
        let keyboard = I8042::new(wiring.id(), irqfd(vm, KEYBOARD_IRQ)?)
            .map_err(|source| Error::Resource { what: "the keyboard controller", source })?;
        wiring.buses.ports.add(KEYBOARD_PORT, I8042::PORTS, keyboard.bus());
        let power = PowerManagement::new(wiring.id(), irqfd(vm, POWER_IRQ)?)
            .map_err(|source| Error::Resource { what: "the power management registers", source })?;
        wiring.buses.ports.add(POWER_PORT, PowerManagement::PORTS, power.bus());
        let panic =
            Pvpanic::new(wiring.id()).map_err(|source| Error::Resource { what: "the panic notifier", source })?;
        wiring.buses.ports.add(PANIC_PORT, Pvpanic::PORTS, panic.bus());
        let nets = wiring.nics(&config.nics, memory)?;
        let disks = wiring.disks(&config.disks, memory)?;
        let rng = wiring.rng(memory)?;
        let watchdog = config.watchdog.then(|| wiring.watchdog()).transpose()?;
        Ok(Devices { serial, keyboard, power, panic, nets, disks, rng, watchdog, slots: wiring.slots })
    }

    /// Where the guest finds the virtio devices.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &dyn Device> {
        let own: [&dyn Device; 4] = [&self.serial, &self.keyboard, &self.power, &self.panic];
        let nets = self.nets.iter().map(|net| net as &dyn Device);
        let disks = self.disks.iter().map(|disk| disk as &dyn Device);
        let watchdog = self.watchdog.iter().map(|watchdog| watchdog as &dyn Device);
        own.into_iter().chain(nets).chain(disks).chain([&self.rng as &dyn Device]).chain(watchdog)
    }

    /// All of them.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut dyn Device> {
        let own: [&mut dyn Device; 4] = [&mut self.serial, &mut self.keyboard, &mut self.power, &mut self.panic];
        let nets = self.nets.iter_mut().map(|net| net as &mut dyn Device);
        let disks = self.disks.iter_mut().map(|disk| disk as &mut dyn Device);
        let watchdog = self.watchdog.iter_mut().map(|watchdog| watchdog as &mut dyn Device);
        own.into_iter().chain(nets).chain(disks).chain([&mut self.rng as &mut dyn Device]).chain(watchdog)
    }

    /// The one with this number.
    pub(crate) fn find(&mut self, id: DeviceId) -> Option<&mut dyn Device> {
        self.all_mut().nth(id.0.into())
    }

    /// The serial port.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The serial port.
    pub(crate) fn serial_mut(&mut self) -> &mut Serial {
        &mut self.serial
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

#[cfg(test)]
mod tests {
    use kemari_devices::ALLOWED;

    use crate::machine::bare;

    #[test]
    fn no_device_is_there_that_may_not_be() {
        let Some(machine) = bare() else { return };
        let mut kinds = Vec::new();
        for device in machine.devices.all() {
            assert!(ALLOWED.contains(&device.kind()), "{}", device.kind().name);
            kinds.push(device.kind().name);
        }
        assert_eq!(kinds, ["serial", "i8042", "power", "pvpanic", "rng", "watchdog"]);
    }
}
