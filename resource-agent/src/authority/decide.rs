//! Who may speak: the decisions, as functions of what is known.
//!
//! A decision is never more than a plan: the swap that it asks for takes effect only if the record is still the one that was
//! looked at.

use kemari_core::Generation;

use super::refusal::Refusal;
use super::{Policy, Record, Unprotected};
use crate::cluster::Standing;
use crate::sabotage::{Bug, planted};

/// What is known when a node asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The node that asks.
    pub(crate) node: &'a str,
    pub(crate) record: Option<&'a Record>,
    /// How the other node that the record names stands; without meaning if it names no other.
    pub(crate) other: Standing,
    /// The generation of the image that it says it could resume.
    pub(crate) other_holds: Option<Generation>,
    pub(crate) policy: Policy,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing: the record says it already.
    Already,
    /// Swap the record that was looked at for one that says this.
    Swap(Record),
    /// Make the first record.
    Create(Record),
    /// Have the other node mark itself outdated, and ask again once it has.
    AskOutdate,
    /// Say no.
    No(Refusal),
}

/// A standby that holds the newest image of `from` is to become primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promotion<'a> {
    pub(crate) from: Generation,
    pub(crate) to: Generation,
    /// The node that says it has demoted itself.
    pub(crate) handed_over_by: Option<&'a str>,
}

pub(crate) fn promote(facts: &Facts<'_>, promotion: &Promotion<'_>) -> Decision {
    let target = Record::alone(promotion.to, facts.node);
    if already(facts, &target) {
        return Decision::Already;
    }
    let record = match current(facts, promotion.from) {
        Ok(record) => record,
        Err(refusal) => return Decision::No(refusal),
    };
    let other = record.other_than(facts.node);
    if other.is_none() || promotion.handed_over_by == other {
        return Decision::Swap(target);
    }
    match facts.other {
        // It reads the same record: what it did before this swap is in it, and after it its own swap fails.
        Standing::Member | Standing::Fenced | Standing::Left => Decision::Swap(target),
        Standing::Unclean => no(record, facts, Refusal::Unclean),
        // Its output is held, for want of acknowledgements and of consent; but what it released to a shared disk before may
        // still be on its way.
        Standing::Lost | Standing::Stranger
            if !facts.policy.shared_disk || facts.policy.unprotected == Unprotected::Always =>
        {
            Decision::Swap(target)
        }
        Standing::Lost | Standing::Stranger => no(record, facts, Refusal::SharedDisk),
    }
}

/// A node without image is to boot the guest from its disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    pub(crate) from: Generation,
    pub(crate) to: Generation,
    /// The guest was created here and never ran.
    pub(crate) first: bool,
    /// The operator's explicit command.
    pub(crate) insist: bool,
}

pub(crate) fn boot(facts: &Facts<'_>, boot: &Boot) -> Decision {
    let target = Record::alone(boot.to, facts.node);
    let Some(record) = facts.record else {
        let allowed = boot.first || boot.insist;
        return if allowed { Decision::Create(target) } else { Decision::No(Refusal::NoRecord) };
    };
    if already(facts, &target) {
        return Decision::Already;
    }
    if boot.insist {
        return insisted(facts, record, target);
    }
    let record = match current(facts, boot.from) {
        Ok(record) => record,
        Err(refusal) => return Decision::No(refusal),
    };
    let first_named = record.primary == facts.node;
    match (record.standby.is_some(), facts.other) {
        (false, _) => Decision::Swap(target),
        // The other is in no other partition, where it might have been promoted.
        (true, Standing::Fenced | Standing::Left) => Decision::Swap(target),
        // Right as far as the disk goes; but what the guest had in memory would be forgotten.
        (true, Standing::Member) if facts.other_holds == Some(record.generation) => {
            no(record, facts, Refusal::OtherResumes)
        }
        (true, Standing::Member) if first_named => Decision::Swap(target),
        (true, Standing::Member) => no(record, facts, Refusal::FirstGoesFirst),
        (true, Standing::Unclean) => no(record, facts, Refusal::Unclean),
        (true, Standing::Lost | Standing::Stranger)
            if facts.policy.unprotected == Unprotected::Always && first_named =>
        {
            Decision::Swap(target)
        }
        (true, Standing::Lost | Standing::Stranger) => no(record, facts, Refusal::LostAtBoot),
    }
}

/// The operator takes it upon himself that no other node runs the guest; not that history counts backwards.
fn insisted(facts: &Facts<'_>, record: &Record, target: Record) -> Decision {
    if !target.generation.is_newer_than(record.generation) {
        return Decision::No(Refusal::NotNewer { wanted: target.generation, record: record.clone() });
    }
    // This one is not about what is known but about what is running: the other host may write at this very moment.
    if record.other_than(facts.node).is_some() && facts.other == Standing::Unclean {
        return no(record, facts, Refusal::Unclean);
    }
    Decision::Swap(target)
}

/// A primary has lost its standby and wants to go on alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone<'a> {
    /// None if this node never had a standby.
    pub(crate) peer: Option<&'a str>,
    pub(crate) generation: Generation,
    /// The peer said goodbye.
    pub(crate) left: bool,
    /// The operator takes it upon himself that the other node does not run the guest.
    pub(crate) insist: bool,
    /// The generation in which the other node says that it is outdated, and has that on its disk.
    pub(crate) outdated: Option<Generation>,
}

pub(crate) fn alone(facts: &Facts<'_>, alone: &Alone<'_>) -> Decision {
    let target = Record::alone(alone.generation, facts.node);
    let record = match of_primary(facts, alone.generation) {
        Ok(record) => record,
        Err(refusal) => return Decision::No(refusal),
    };
    // If it names no standby it is swapped nevertheless: a change that was on its way, of which nobody knew what became, is lost
    // from then on. It might have named the standby later, when that is outdated.
    if alone.insist || record.other_than(facts.node).is_none() {
        return Decision::Swap(target);
    }
    if facts.policy.unprotected == Unprotected::Never {
        return Decision::No(Refusal::Never);
    }
    let said_goodbye = alone.left && record.other_than(facts.node) == alone.peer;
    if said_goodbye || alone.outdated == Some(alone.generation) {
        return Decision::Swap(target);
    }
    match facts.other {
        Standing::Fenced | Standing::Left => Decision::Swap(target),
        Standing::Unclean => no(record, facts, Refusal::Unclean),
        Standing::Member | Standing::Lost | Standing::Stranger if facts.policy.unprotected == Unprotected::Always => {
            Decision::Swap(target)
        }
        Standing::Member if planted(Bug::ConsentUnasked) => Decision::Swap(target),
        Standing::Member => Decision::AskOutdate,
        Standing::Lost | Standing::Stranger => no(record, facts, Refusal::Lost),
    }
}

/// The standby `peer` holds everything, and its acknowledgements gate the output already.
pub(crate) fn protect(facts: &Facts<'_>, peer: &str, generation: Generation) -> Decision {
    let target = Record::protected(generation, facts.node, peer);
    let record = match of_primary(facts, generation) {
        Ok(record) => record,
        Err(refusal) => return Decision::No(refusal),
    };
    match record.other_than(facts.node) {
        None => Decision::Swap(target),
        // As above: a consent that was on its way is lost.
        Some(named) if named == peer => Decision::Swap(target),
        // It would be forgotten without having agreed to it.
        Some(named) => Decision::No(Refusal::OtherStandby { named: named.to_owned(), peer: peer.to_owned() }),
    }
}

/// The record that the primary of `generation` puts in the place of an older one. That has come back with the healing of a
/// partition: the history in which this node was promoted has vanished from the CIB, but not from its disk. Until the record is
/// in order the other node could go on by it, once this one is gone.
pub(crate) fn reassert(facts: &Facts<'_>, generation: Generation) -> Option<Record> {
    let older = facts.record.is_some_and(|record| generation.is_newer_than(record.generation));
    older.then(|| Record::alone(generation, facts.node))
}

/// The record, if it is one that the primary of `generation` may change: its own, or an older one that was healed into its place.
fn of_primary<'a>(facts: &Facts<'a>, generation: Generation) -> Result<&'a Record, Refusal> {
    let record = facts.record.ok_or(Refusal::NoRecord)?;
    if generation.is_newer_than(record.generation) {
        return Ok(record);
    }
    if record.generation != generation {
        return Err(Refusal::OtherHistory { record: record.clone(), known: generation });
    }
    if record.primary != facts.node {
        return Err(Refusal::NotPrimary { node: facts.node.to_owned(), record: record.clone() });
    }
    Ok(record)
}

/// Whether a generation was granted before, by an attempt of which nobody heard: its id was drawn for that attempt alone.
fn already(facts: &Facts<'_>, target: &Record) -> bool {
    facts.record.is_some_and(|record| record.says_the_same_as(target))
}

/// The record, if it is of the generation that the asking node speaks of and names that node.
fn current<'a>(facts: &Facts<'a>, generation: Generation) -> Result<&'a Record, Refusal> {
    let record = facts.record.ok_or(Refusal::NoRecord)?;
    if record.generation != generation {
        return Err(Refusal::OtherHistory { record: record.clone(), known: generation });
    }
    if !record.names(facts.node) && !planted(Bug::BootUnnamed) {
        return Err(Refusal::NotNamed { record: record.clone(), node: facts.node.to_owned() });
    }
    Ok(record)
}

fn no(record: &Record, facts: &Facts<'_>, refusal: fn(String) -> Refusal) -> Decision {
    Decision::No(refusal(record.other_than(facts.node).unwrap_or(facts.node).to_owned()))
}

#[cfg(test)]
mod tests;
