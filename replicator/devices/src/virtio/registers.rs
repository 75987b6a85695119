//! The registers of a virtio-mmio device (virtio 1.2, 4.2.2), as vCPU threads see them.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::session::{Ring, Session};
use crate::{BusDevice, Memory};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const MMIO_VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"KMRI");

/// What makes one virtio device different from another.
#[derive(Debug)]
pub(crate) struct Model {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Virtio device type (virtio 1.2, section 5).
    pub(crate) device_type: u32,
    /// Feature bits of this type of device. Those of the transport are added here.
    pub(crate) features: u64,
    /// Sizes of its queues: powers of two.
    pub(crate) queue_sizes: &'static [u16],
    /// Its configuration space.
    pub(crate) config: Vec<u8>,
}

/// A virtio device without its backend.
pub(crate) struct Transport {
    name: String,
    device_type: u32,
    features: u64,
    memory: Memory,
    irq: EventFd,
    notifiers: Vec<EventFd>,
    interrupt_status: AtomicU32,
    registers: Mutex<Registers>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Registers {
    pub(super) status: u32,
    pub(super) driver_features: u64,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
    pub(super) config_generation: u32,
    pub(super) config: Vec<u8>,
    pub(super) rings: Vec<Ring>,
    /// Grows with each reset and each load, so that what belongs to an earlier session of the driver can be told. Never saved.
    pub(super) incarnation: u64,
}

impl Registers {
    pub(super) fn negotiated(&self, feature: u32) -> bool {
        self.has_status(VIRTIO_CONFIG_S_FEATURES_OK) && self.driver_features >> feature & 1 == 1
    }

    pub(super) fn has_status(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    pub(super) fn needs_reset(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    /// Whether the driver may use the device, and did nothing wrong with it.
    fn is_live(&self) -> bool {
        self.has_status(VIRTIO_CONFIG_S_DRIVER_OK)
            && self.status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED) == 0
    }

    fn reset(&mut self) {
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.incarnation += 1;
        for ring in &mut self.rings {
            ring.queue.reset();
            ring.taken.clear();
            ring.again.clear();
        }
    }

    fn selected(&self) -> Option<&Ring> {
        self.rings.get(self.queue_select as usize)
    }

    /// The selected queue, if this is the time to set it up: features agreed, driver not yet running.
    fn queue_in_setup(&mut self) -> Option<&mut Queue> {
        let now = self.has_status(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has_status(VIRTIO_CONFIG_S_DRIVER_OK);
        self.rings.get_mut(self.queue_select as usize).filter(|_| now).map(|ring| &mut ring.queue)
    }
}

impl Transport {
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn new(model: Model, memory: Memory, irq: EventFd) -> io::Result<Transport> {
        let ring = |&size: &u16| {
            let queue = Queue::new(size).map_err(io::Error::other)?;
            Ok(Ring { queue, taken: VecDeque::new(), again: VecDeque::new() })
        };
        Ok(Transport {
            name: model.name,
            device_type: model.device_type,
            features: model.features | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC,
            memory,
            irq,
            notifiers: model.queue_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?,
            interrupt_status: AtomicU32::new(0),
            registers: Mutex::new(Registers {
                status: 0,
                driver_features: 0,
                device_features_select: 0,
                driver_features_select: 0,
                queue_select: 0,
                config_generation: 0,
                config: model.config,
                rings: model.queue_sizes.iter().map(ring).collect::<io::Result<_>>()?,
                incarnation: 0,
            }),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// One for each queue. They are never read: a write makes an edge-triggered poller look again whatever the count is.
    pub(crate) fn notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    /// Makes the event loop look at a queue.
    pub(crate) fn kick(&self, queue: usize) {
        if let Some(notifier) = self.notifiers.get(queue) {
            // A count at its maximum (EAGAIN) has been signalled often enough.
            let _ = notifier.write(1);
        }
    }

    fn kick_all(&self) {
        (0..self.notifiers.len()).for_each(|queue| self.kick(queue));
    }

    /// The queues, if a driver has set them up and follows the rules.
    pub(crate) fn session(&self) -> Option<Session<'_>> {
        let registers = self.lock();
        registers.is_live().then(|| Session::new(self, registers))
    }

    /// Chains taken from a queue and not given back.
    pub(crate) fn taken(&self, queue: usize) -> usize {
        self.lock().rings.get(queue).map_or(0, |ring| ring.taken.len())
    }

    /// Interrupts the driver: buffers were used.
    pub(crate) fn interrupt_used(&self) {
        self.interrupt(VIRTIO_MMIO_INT_VRING);
    }

    /// Interrupts the driver: the configuration or the status has changed.
    pub(crate) fn interrupt_configuration(&self) {
        self.interrupt(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Makes the event loop look at every queue and, if a driver is at work, the driver at everything: after a load, since an
    /// interrupt or a notification on its way is in no saved state.
    pub(crate) fn resume(&self) {
        let mut registers = self.lock();
        registers.rings.iter_mut().for_each(Ring::sabotage);
        let is_at_work = registers.has_status(VIRTIO_CONFIG_S_DRIVER_OK);
        drop(registers);
        if is_at_work {
            self.interrupt_used();
        }
        self.kick_all();
    }

    /// Changes the configuration space (virtio 1.2, 2.5.1: the driver sees a new generation of it).
    pub(crate) fn configure(&self, change: impl FnOnce(&mut [u8])) {
        let mut registers = self.lock();
        change(&mut registers.config);
        registers.config_generation = registers.config_generation.wrapping_add(1);
    }

    pub(super) fn features(&self) -> u64 {
        self.features
    }

    pub(super) fn interrupt_status(&self) -> &AtomicU32 {
        &self.interrupt_status
    }

    /// A poisoned lock is taken all the same: nothing here leaves the registers half changed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every queue that is ready lies in guest memory.
    pub(super) fn rings_in_memory<'a>(&self, mut queues: impl Iterator<Item = &'a Queue>) -> bool {
        queues.all(|queue| !queue.ready() || queue.is_valid(&self.memory))
    }

    fn interrupt(&self, cause: u32) {
        // The used ring was written before; whoever reads the status next must see it.
        self.interrupt_status.fetch_or(cause, Ordering::SeqCst);
        if let Err(error) = self.irq.write(1) {
            log::error!("{}: interrupt: {error}", self.name);
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        if offset == VIRTIO_MMIO_INTERRUPT_STATUS {
            return self.interrupt_status.load(Ordering::SeqCst);
        }
        let registers = self.lock();
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => MMIO_VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device_type,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features, registers.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => registers.selected().map_or(0, |ring| u32::from(ring.queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => registers.selected().map_or(0, |ring| u32::from(ring.queue.ready())),
            VIRTIO_MMIO_STATUS => registers.status,
            // There is no shared memory: all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => registers.config_generation,
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.kick(value as usize),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt_status.fetch_and(!value, Ordering::SeqCst);
                return;
            }
            VIRTIO_MMIO_STATUS => return self.write_status(value),
            _ => {}
        }
        let mut registers = self.lock();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES if !registers.has_status(VIRTIO_CONFIG_S_FEATURES_OK) => {
                let select = registers.driver_features_select;
                set_half(&mut registers.driver_features, select, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            VIRTIO_MMIO_QUEUE_READY if value == 0 => {
                let select = registers.queue_select as usize;
                if let Some(ring) = registers.rings.get_mut(select) {
                    ring.queue.set_ready(false);
                }
            }
            _ => {
                if let Some(queue) = registers.queue_in_setup() {
                    set_up(queue, offset, value);
                }
            }
        }
    }

    fn write_status(&self, value: u32) {
        let mut registers = self.lock();
        if value == 0 {
            registers.reset();
            self.interrupt_status.store(0, Ordering::SeqCst);
            return;
        }
        // The driver must not clear bits (2.1.1), and NEEDS_RESET is not its to set.
        let mut added = value & !registers.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !acceptable(registers.driver_features, self.features) {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        registers.status |= added;
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            let agreed = registers.has_status(VIRTIO_CONFIG_S_FEATURES_OK);
            if !agreed || !self.rings_in_memory(registers.rings.iter().map(|ring| &ring.queue)) {
                log::warn!("{}: DRIVER_OK without features or with queues outside of memory", self.name);
                registers.needs_reset();
                self.interrupt_configuration();
            }
            drop(registers);
            self.kick_all();
        }
    }
}

impl BusDevice for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(from) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            let registers = self.lock();
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let rest = registers.config.get(from..).unwrap_or_default();
            let bytes = rest.len().min(data.len());
            data[..bytes].copy_from_slice(&rest[..bytes]);
        } else if let Ok(register) = <&mut [u8; 4]>::try_from(data) {
            *register = self.read_register(offset as u32).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Nothing in the configuration of these devices can be written.
        if offset < u64::from(VIRTIO_MMIO_CONFIG)
            && let Ok(value) = <[u8; 4]>::try_from(data)
        {
            self.write_register(offset as u32, u32::from_le_bytes(value));
        }
    }
}

/// Whether a driver's choice of features can be served: all of them offered, and not a legacy driver.
pub(super) fn acceptable(chosen: u64, offered: u64) -> bool {
    chosen & !offered == 0 && chosen >> VIRTIO_F_VERSION_1 & 1 == 1
}

/// A register that sets up a queue. What is impossible is ignored, as for every register.
fn set_up(queue: &mut Queue, offset: u32, value: u32) {
    let with_half = |address: u64, half: u32| {
        let mut address = address;
        set_half(&mut address, half, value);
        GuestAddress(address)
    };
    let _ = match offset {
        VIRTIO_MMIO_QUEUE_NUM => u16::try_from(value).map_or(Ok(()), |size| queue.try_set_size(size)),
        VIRTIO_MMIO_QUEUE_READY => {
            queue.set_ready(value == 1);
            Ok(())
        }
        VIRTIO_MMIO_QUEUE_DESC_LOW => queue.try_set_desc_table_address(with_half(queue.desc_table(), 0)),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.try_set_desc_table_address(with_half(queue.desc_table(), 1)),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.try_set_avail_ring_address(with_half(queue.avail_ring(), 0)),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.try_set_avail_ring_address(with_half(queue.avail_ring(), 1)),
        VIRTIO_MMIO_QUEUE_USED_LOW => queue.try_set_used_ring_address(with_half(queue.used_ring(), 0)),
        VIRTIO_MMIO_QUEUE_USED_HIGH => queue.try_set_used_ring_address(with_half(queue.used_ring(), 1)),
        _ => Ok(()),
    };
}

/// The low (0) or high (1) half of 64 bits; what lies beyond is zero.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

fn set_half(bits: &mut u64, select: u32, value: u32) {
    match select {
        0 => *bits = *bits >> 32 << 32 | u64::from(value),
        1 => *bits = u64::from(value) << 32 | *bits & u64::from(u32::MAX),
        _ => {}
    }
}
