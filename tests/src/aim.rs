//! Where a primary is hit.

use std::time::Duration;

use kemari_replicator::evidence::Evidence;
use kemari_site::{Node, SiteError};

use crate::random::Random;

/// How often a primary is stopped and looked at before it is killed wherever it is.
const LOOKS: u32 = 400;

/// What the primary must be doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Whatever it is doing.
    Anywhere,
    /// It holds output.
    Held,
    /// A checkpoint is sent in part.
    Transfer,
    /// The standby has not acknowledged a checkpoint yet.
    Uncommitted,
    /// A disk write or flush is given to the host and not finished.
    DiskWrite,
}

impl Aim {
    /// Whether a primary that left this evidence is hit as wanted.
    pub(crate) fn is_met_by(self, evidence: &Evidence) -> bool {
        match self {
            Aim::Anywhere => true,
            Aim::Held => holds_output(evidence),
            Aim::Transfer => is_mid_transfer(evidence),
            Aim::Uncommitted => evidence.checkpoints_in_flight > 0,
            Aim::DiskWrite => evidence.disk_writes > 0,
        }
    }

    /// Stops the primary at a moment that meets the aim, or wherever it is if there was none in a while; what it was doing then.
    pub(crate) fn take(self, primary: &mut Node, random: &mut Random) -> Result<Evidence, SiteError> {
        for _ in 0..LOOKS {
            let evidence = look(primary)?;
            if self.is_met_by(&evidence) {
                return Ok(evidence);
            }
            primary.thaw()?;
            std::thread::sleep(random.micros(100..1500));
        }
        look(primary)
    }
}

fn look(primary: &mut Node) -> Result<Evidence, SiteError> {
    primary.freeze()?;
    Evidence::read(primary.control()).map_err(|source| SiteError::File { path: primary.control().to_owned(), source })
}

/// Whether anything was held.
pub(crate) fn holds_output(evidence: &Evidence) -> bool {
    evidence.held_frames + evidence.held_writes + evidence.held_console > 0
}

/// Whether the standby will never have the whole of a checkpoint of which it may have a part.
pub(crate) fn is_mid_transfer(evidence: &Evidence) -> bool {
    evidence.unsent_bytes > 0
}

/// Rests for a random time in the range, in milliseconds.
pub(crate) fn rest(random: &mut Random, millis: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(random.within(millis)));
}
