//! The negative controls: each known bug, planted, must make a round fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kemari_core::sabotage::Bug;
use kemari_site::{ReplicationMode, SiteError};
use serde::Serialize;

use crate::aim::Aim;
use crate::report;
use crate::round::{Outcome, Round, RoundOptions};

/// Kills within which a bug must be caught.
const KILLS: u32 = 40;
/// Kills of the round without a bug: about as many as the slowest bug to be caught needs.
const CLEAN_KILLS: u32 = 15;
/// A dead connection is what most bugs end in, so it is not waited for as long as in a round that is to pass. TCP's
/// retransmissions have come by then: the fourth within 3 s of the kill.
const PATIENCE: Duration = Duration::from_secs(6);

/// What came of one control.
#[derive(Debug, Serialize)]
pub(crate) struct Control {
    /// The bug planted; `None` for the round without any, which must pass.
    pub(crate) bug: Option<&'static str>,
    /// Kills survived before it was caught.
    pub(crate) kills: usize,
    /// What gave it away.
    pub(crate) finding: Option<String>,
}

impl Control {
    /// Whether the bug was caught; without one, whether nothing was.
    pub(crate) fn passed(&self) -> bool {
        self.bug.is_some() == self.finding.is_some()
    }
}

/// Why no control could be played.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No such bug.
    #[error("there is no bug {0:?}; there are {known}", known = Bug::ALL.map(Bug::name).join(", "))]
    UnknownBug(String),
    /// A round cannot begin.
    #[error(transparent)]
    Site(#[from] SiteError),
}

/// Plays the controls: one round without a bug, then one for each, or for the one that is named.
pub(crate) fn run(
    binary: &Path,
    mode: ReplicationMode,
    seed: u64,
    only: Option<&str>,
) -> Result<Vec<Control>, ControlError> {
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| only.is_none_or(|name| bug.name() == name)).collect();
    if let (Some(name), true) = (only, bugs.is_empty()) {
        return Err(ControlError::UnknownBug(name.to_owned()));
    }
    let mut controls = Vec::new();
    for bug in std::iter::once(None).chain(bugs.into_iter().map(Some)) {
        eprintln!("\ncontrol: {}", bug.map_or("no bug", Bug::name));
        let options = RoundOptions { patience: PATIENCE, ..options(binary.to_owned(), mode, seed, bug) };
        let mut outcome = Outcome::new(seed, options.kills);
        Round::run(options, &mut outcome, &mut report::line)?;
        let Outcome { kills, findings, .. } = outcome;
        let finding = findings.into_iter().next();
        eprintln!("  {}", finding.as_deref().unwrap_or("nothing found"));
        controls.push(Control { bug: bug.map(Bug::name), kills: kills.len(), finding });
    }
    Ok(controls)
}

/// A round aimed where the bug does harm.
fn options(binary: PathBuf, mode: ReplicationMode, seed: u64, bug: Option<Bug>) -> RoundOptions {
    let Some(bug) = bug else { return RoundOptions::soak(binary, mode, seed, CLEAN_KILLS) };
    let round = RoundOptions { bug: Some(bug), ..RoundOptions::soak(binary, mode, seed, KILLS) };
    let aims: &[Aim] = match bug {
        // What was released is forgotten only with the epoch it belongs to.
        Bug::ReleaseAtHold => &[Aim::Uncommitted],
        // The part that arrived must not be the whole.
        Bug::AckBeforeVerify | Bug::PromotePartial => &[Aim::Transfer],
        // Something must be pending: the lost write leaves the ledger waiting for ever, the doubled one confuses its queue.
        Bug::ForgetPending | Bug::RewindAvail => &[Aim::DiskWrite, Aim::Held],
        // The used rings are written by the VMM alone, all the time.
        Bug::LoseVmmWrites => &[Aim::Anywhere],
        // A client that vanishes sees to it that the entry written early is not just written once more.
        Bug::AnswerWriteEarly => &[Aim::Uncommitted],
    };
    // A checkpoint must be long on its way for a kill to find it there.
    let travels = matches!(bug, Bug::AckBeforeVerify | Bug::PromotePartial);
    let (dirty_pages, dirty_rate) = if travels { (2048, 400_000) } else { (round.dirty_pages, round.dirty_rate) };
    RoundOptions { aims, bystander: bug == Bug::AnswerWriteEarly, dirty_pages, dirty_rate, ..round }
}
