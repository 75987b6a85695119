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
const KILLS: u32 = 120;
/// Kills that the same round without the bug has at least.
const CLEAN_KILLS: u32 = 6;
/// A dead connection is what most bugs end in, so it is not waited for as long as in a round that is to pass. TCP's
/// retransmissions have come by then: the fourth within 3 s of the kill.
const PATIENCE: Duration = Duration::from_secs(6);

/// What came of one control.
#[derive(Debug, Serialize)]
pub(crate) struct Control {
    /// The bug planted.
    pub(crate) bug: &'static str,
    /// Kills survived before it was caught.
    pub(crate) kills: usize,
    /// What gave it away.
    pub(crate) finding: Option<String>,
    /// Kills survived by the same replicator in the same kind of round without the bug, twice as many at least.
    pub(crate) clean_kills: usize,
    /// What was found there, wrongly.
    pub(crate) clean_finding: Option<String>,
}

impl Control {
    /// Whether the bug was caught, and nothing where there was none: it was the bug that made the round fail.
    pub(crate) fn passed(&self) -> bool {
        self.finding.is_some() && self.clean_finding.is_none()
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

/// Plays the controls, or the one that is named.
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
    bugs.into_iter().map(|bug| play(binary, mode, seed, bug)).collect()
}

/// Plays a round with the bug until it is caught, and one without it that is longer.
fn play(binary: &Path, mode: ReplicationMode, seed: u64, bug: Bug) -> Result<Control, ControlError> {
    let options = RoundOptions { patience: PATIENCE, ..options(binary.to_owned(), mode, seed, bug) };
    let round = |bug: Option<Bug>, kills: u32| {
        let mut outcome = Outcome::new(seed, kills);
        Round::run(RoundOptions { bug, kills, ..options.clone() }, &mut outcome, &mut report::line)?;
        let finding = outcome.findings.into_iter().next();
        eprintln!("  {}", finding.as_deref().unwrap_or("nothing found"));
        Ok::<_, SiteError>((outcome.kills.len(), finding))
    };
    eprintln!("\n{}", bug.name());
    let (kills, finding) = round(Some(bug), KILLS)?;
    eprintln!("the same without {}", bug.name());
    let (clean_kills, clean_finding) = round(None, CLEAN_KILLS + 2 * kills as u32)?;
    Ok(Control { bug: bug.name(), kills, finding, clean_kills, clean_finding })
}

/// A round aimed where the bug does harm.
fn options(binary: PathBuf, mode: ReplicationMode, seed: u64, bug: Bug) -> RoundOptions {
    let round = RoundOptions::soak(binary, mode, seed, KILLS);
    let aims: &[Aim] = match bug {
        // What was released is forgotten only with the epoch it belongs to.
        Bug::ReleaseAtHold => &[Aim::Uncommitted],
        // The part that arrived must not be the whole.
        Bug::AckBeforeVerify | Bug::PromotePartial => &[Aim::Transfer],
        // Something must be pending: the ledger waits for ever for the write that is lost.
        Bug::ForgetPending => &[Aim::DiskWrite, Aim::Held],
        // Without a read that overtook a held write, the used index is where the pending requests begin, and the bug does no harm.
        Bug::RewindAvail => &[Aim::Uncommitted],
        // The used rings are written by the VMM alone, all the time.
        Bug::LoseVmmWrites => &[Aim::Anywhere],
        // A client that vanishes sees to it that the entry written early is not just written once more.
        Bug::AnswerWriteEarly => &[Aim::Uncommitted],
    };
    // A checkpoint must be long on its way for a kill to find it there, and for reads to overtake the writes that wait for it.
    let travels = matches!(bug, Bug::AckBeforeVerify | Bug::PromotePartial | Bug::RewindAvail);
    let (dirty_pages, dirty_rate) = if travels { (2048, 400_000) } else { (round.dirty_pages, round.dirty_rate) };
    RoundOptions { aims, move_every: None, bystander: bug == Bug::AnswerWriteEarly, dirty_pages, dirty_rate, ..round }
}
