//! How much this node wants to be promoted.

use kemari_control::{Replication, Role, Standing, Status};

use crate::authority::{Boot, Decision, Facts, Promotion, Record, boot, parse_generation, promote};

/// Of the node where the guest runs.
const PRIMARY: i32 = 100;
/// Of a node that has only to boot a guest that never ran.
const CREATED: i32 = 100;
/// Of a standby that holds the newest image.
pub(super) const STANDBY: i32 = 50;
/// Of a node that could boot the guest from its disk: less than one that can resume it.
const BOOTABLE: i32 = 10;

/// A promotion score; `None` is -INFINITY.
pub(super) type Score = Option<i32>;

/// The score of a node, by what its replicator says and what is known about the record and the other node.
pub(super) fn score(status: &Status, facts: &Facts<'_>) -> Score {
    if status.role == Role::Primary {
        return Some(PRIMARY);
    }
    if status.not_promotable.is_none() {
        let held = status.image.as_ref().map(|image| image.generation.as_str());
        let is_current = |record: &Record| held == Some(record.generation.to_string().as_str());
        return facts.record.is_some_and(|record| record.names(&status.node) && is_current(record)).then_some(STANDBY);
    }
    if status.replication != Replication::Alone {
        return None;
    }
    if status.standing == Some(Standing::Created) && facts.record.is_none() {
        return Some(CREATED);
    }
    let from = status.generation.as_deref().and_then(|generation| parse_generation(generation).ok())?;
    let attempt = Boot { from, to: from.next(0), first: false, insist: false };
    matches!(boot(facts, &attempt), Decision::Swap(_) | Decision::Already).then_some(BOOTABLE)
}

/// What would be in the way of a promotion that is to be expected now, for the operator.
pub(super) fn obstacle(status: &Status, facts: &Facts<'_>) -> Option<String> {
    if status.role == Role::Primary || status.replication != Replication::Alone {
        return None;
    }
    let from = status.generation.as_deref().and_then(|generation| parse_generation(generation).ok())?;
    let to = from.next(0);
    let decision = match status.not_promotable {
        None => promote(facts, &Promotion { from, to, handed_over_by: None }),
        Some(_) => boot(facts, &Boot { from, to, first: false, insist: false }),
    };
    match decision {
        Decision::No(refusal) => Some(refusal.to_string()),
        _ => None,
    }
}

/// As Pacemaker writes it.
pub(super) fn text(score: Score) -> String {
    score.map_or_else(|| "-INFINITY".to_owned(), |score| score.to_string())
}
