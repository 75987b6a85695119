//! Saved state of the transport.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_queue::{Queue, QueueState, QueueT};

use super::registers::{Transport, acceptable};
use super::session::Ring;

/// Registers and queues of a virtio device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransportState {
    pub(super) status: u32,
    pub(super) driver_features: u64,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
    pub(super) config_generation: u32,
    pub(super) interrupt_status: u32,
    pub(super) rings: Vec<RingState>,
}

/// A queue, as virtio-queue's `QueueState` (which has no serde) less what never varies, and what was taken from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RingState {
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
    pub(super) desc_table: u64,
    pub(super) avail_ring: u64,
    pub(super) used_ring: u64,
    /// Heads taken from the avail ring and not in the used ring, in the order they were taken.
    pub(super) taken: Vec<u16>,
}

impl RingState {
    fn of(ring: &Ring) -> RingState {
        let queue = ring.queue.state();
        RingState {
            size: queue.size,
            ready: queue.ready,
            next_avail: queue.next_avail,
            next_used: queue.next_used,
            desc_table: queue.desc_table,
            avail_ring: queue.avail_ring,
            used_ring: queue.used_ring,
            taken: ring.taken.iter().copied().collect(),
        }
    }

    fn ring(&self, max_size: u16) -> Result<Ring, String> {
        if let Some(head) = self.taken.iter().find(|&&head| head >= self.size) {
            return Err(format!("chain {head} in a queue of {}", self.size));
        }
        // Whatever was taken and is not used is in the list, or a request would be lost.
        if usize::from(self.next_avail.wrapping_sub(self.next_used)) != self.taken.len() {
            let Self { next_avail, next_used, taken, .. } = self;
            return Err(format!("{} chains pending between used {next_used} and avail {next_avail}", taken.len()));
        }
        if self.taken.len() > usize::from(self.size) {
            return Err(format!("{} chains pending in a queue of {}", self.taken.len(), self.size));
        }
        let queue = Queue::try_from(QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
        .map_err(|error| error.to_string())?;
        let taken: VecDeque<u16> = self.taken.iter().copied().collect();
        Ok(Ring { queue, again: taken.clone(), taken })
    }
}

/// State that was checked and fits; see [`Transport::check`].
pub(crate) struct Checked {
    state: TransportState,
    rings: Vec<Ring>,
}

impl Transport {
    pub(crate) fn save(&self) -> TransportState {
        let registers = self.lock();
        TransportState {
            status: registers.status,
            driver_features: registers.driver_features,
            device_features_select: registers.device_features_select,
            driver_features_select: registers.driver_features_select,
            queue_select: registers.queue_select,
            config_generation: registers.config_generation,
            interrupt_status: self.interrupt_status().load(Ordering::SeqCst),
            rings: registers.rings.iter().map(RingState::of).collect(),
        }
    }

    /// Whether saved state fits this device and the guest's memory.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn check(&self, state: TransportState) -> Result<Checked, String> {
        let sizes: Vec<u16> = self.lock().rings.iter().map(|ring| ring.queue.max_size()).collect();
        if sizes.len() != state.rings.len() {
            return Err(format!("{} queues, where this device has {}", state.rings.len(), sizes.len()));
        }
        let agreed = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let running =
            state.status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET) == VIRTIO_CONFIG_S_DRIVER_OK;
        if running && !agreed {
            return Err("a driver at work that agreed to no features".to_owned());
        }
        if agreed && !acceptable(state.driver_features, self.features()) {
            return Err(format!("features {:#x}, where this device has {:#x}", state.driver_features, self.features()));
        }
        let rings =
            state.rings.iter().zip(sizes).map(|(ring, size)| ring.ring(size)).collect::<Result<Vec<Ring>, String>>()?;
        if running && !self.rings_in_memory(rings.iter().map(|ring| &ring.queue)) {
            return Err("a queue outside of the guest's memory".to_owned());
        }
        Ok(Checked { state, rings })
    }

    /// Replaces everything. Tickets given out before are worth nothing.
    pub(crate) fn load(&self, Checked { state, rings }: Checked) {
        let mut registers = self.lock();
        registers.status = state.status;
        registers.driver_features = state.driver_features;
        registers.device_features_select = state.device_features_select;
        registers.driver_features_select = state.driver_features_select;
        registers.queue_select = state.queue_select;
        registers.config_generation = state.config_generation;
        registers.rings = rings;
        registers.incarnation += 1;
        self.interrupt_status().store(state.interrupt_status, Ordering::SeqCst);
    }
}
