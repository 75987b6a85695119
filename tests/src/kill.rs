//! One kill, and what must hold after it.

use std::time::Duration;

use kemari_replicator::evidence::Evidence;
use kemari_site::{SiteError, Violation};
use serde::Serialize;

use crate::aim::{holds_output, is_mid_transfer};

/// One kill that the guest survived.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kill {
    /// From 1.
    pub(crate) number: usize,
    /// The node killed.
    pub(crate) node: &'static str,
    /// The primary's last word.
    pub(crate) hit: Hit,
    /// From SIGKILL to the standby's word that the guest runs there, µs.
    pub(crate) promotion_us: u64,
    /// The longest time any client was without an answer, µs.
    pub(crate) outage_us: u64,
    /// From the start of the new standby to protection, µs.
    pub(crate) resync_us: u64,
}

/// What the primary was doing when it was killed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Hit {
    /// Network frames held.
    pub(crate) held_frames: u64,
    /// Disk writes and flushes held.
    pub(crate) held_writes: u64,
    /// Bytes of all output held.
    pub(crate) held_bytes: u64,
    /// Disk writes and flushes given to the host and not finished.
    pub(crate) disk_writes: u64,
    /// Checkpoints not acknowledged.
    pub(crate) checkpoints_in_flight: u64,
    /// Bytes of the partial checkpoint: those that the standby may have.
    pub(crate) partial_bytes: u64,
    /// Its other bytes, which the standby will never have.
    pub(crate) unsent_bytes: u64,
    /// Output was held.
    pub(crate) held: bool,
    /// A checkpoint was sent in part.
    pub(crate) mid_transfer: bool,
    /// A disk write was under way at the host.
    pub(crate) disk_write: bool,
}

impl From<Evidence> for Hit {
    fn from(evidence: Evidence) -> Hit {
        let mid_transfer = is_mid_transfer(&evidence);
        Hit {
            held_frames: evidence.held_frames,
            held_writes: evidence.held_writes,
            held_bytes: evidence.held_bytes,
            disk_writes: evidence.disk_writes,
            checkpoints_in_flight: evidence.checkpoints_in_flight,
            partial_bytes: if mid_transfer { evidence.transfer_bytes.saturating_sub(evidence.unsent_bytes) } else { 0 },
            unsent_bytes: evidence.unsent_bytes,
            held: holds_output(&evidence),
            mid_transfer,
            disk_write: evidence.disk_writes > 0,
        }
    }
}

/// Why a round ended before its last kill.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Finding {
    /// Somebody outside could tell.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A node did not do its part.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The guest runs, or so its node says, and answers nobody.
    #[error("client {client} has had no answer for {} s after the promotion", waited.as_secs())]
    Silent {
        /// Which client.
        client: u32,
        /// How long it was waited for.
        waited: Duration,
    },
}
