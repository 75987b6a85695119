//! How far a primary has come with its standby.

use kemari_core::Committed;

use crate::primary::Phase;
use crate::primary::lacking::Lacking;
use crate::primary::resync::Resync;

/// Where it stands; a [`Phase`] with what belongs to it.
#[derive(Debug)]
pub(super) enum Stage {
    Alone,
    Greeting,
    Syncing(Resync),
    /// The checkpoint that ends a resync is on its way.
    Committing(Resync),
    /// The checkpoint that ended it was acknowledged. The proof waits: nothing may be released before the standby could go on.
    Rehearsing(Committed),
    /// The driver was told to close the gate.
    Closing,
    Covering,
    Protected,
    Yielded,
    Superseded,
}

impl Stage {
    /// What it was doing, for the text of a violation.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            Stage::Alone => "no link was up",
            Stage::Greeting => "an offer awaited its answer",
            Stage::Syncing(_) | Stage::Committing(_) => "a resync was on its way",
            Stage::Rehearsing(_) => "the rehearsal's result was awaited",
            Stage::Closing | Stage::Covering | Stage::Protected => "checkpoints were on their way",
            Stage::Yielded => "a promotion was awaited",
            Stage::Superseded => "this side was superseded",
        }
    }

    pub(super) fn phase(&self, lacking: &Lacking) -> Phase {
        match self {
            Stage::Alone => Phase::Alone,
            Stage::Greeting => Phase::Greeting,
            Stage::Syncing(resync) | Stage::Committing(resync) => {
                let (done, total, round) = resync.progress(lacking);
                Phase::Syncing { done, total, round }
            }
            Stage::Rehearsing(_) => Phase::Rehearsing,
            Stage::Closing | Stage::Covering => Phase::Covering,
            Stage::Protected => Phase::Protected,
            Stage::Yielded => Phase::Yielded,
            Stage::Superseded => Phase::Superseded,
        }
    }
}
