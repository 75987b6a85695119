//! The verbs: what is known is gathered, a decision follows from it, and what it asks for is done.

use std::thread;
use std::time::{Duration, Instant};

use kemari_core::Generation;

use super::decide::{self, Alone, Boot, Decision, Facts, Promotion};
use super::refusal::Refusal;
use super::{Answer, Loss, Policy, Verb, Who, parse_generation};
use crate::attributes::{self, Wish};
use crate::cluster::{Attributes, ClusterError, Membership, RecordDoor, Standing, Stored, Swap};
use crate::sabotage::{Bug, planted};

/// How long the other node may take to mark itself outdated before the answer is no, for this time.
const OUTDATE_LIMIT: Duration = Duration::from_secs(3);
/// How often it is asked whether it has.
const OUTDATE_POLL: Duration = Duration::from_millis(40);
/// How often the membership is looked at anew meanwhile: the node may have been lost, and fenced.
const OUTDATE_ROUND: Duration = Duration::from_secs(1);

pub(super) fn answer(verb: &Verb, policy: Policy) -> Result<Answer, ClusterError> {
    match verb {
        Verb::Promote { who, step, peer, handed_over } => {
            let door = RecordDoor::new(&who.guest);
            let handed_over_by = peer.as_deref().filter(|_| *handed_over);
            let promotion = Promotion { from: step.from, to: step.to, handed_over_by };
            let scene = Scene::look(&door, &who.node, handed_over_by.is_none())?;
            let decision = decide::promote(&scene.facts(&who.node, policy), &promotion);
            if planted(Bug::PromoteWithoutSwap) && matches!(decision, Decision::Swap(_)) {
                return Ok(Answer::Yes);
            }
            carry_out(&door, &scene, decision)
        }
        Verb::Boot { who, step, first, insist } => {
            let door = RecordDoor::new(&who.guest);
            let mut scene = Scene::look(&door, &who.node, true)?;
            scene.other_holds = held_elsewhere(&who.guest, &who.node, scene.stored.as_ref())?;
            let to = if *insist { ahead(step.to, scene.stored.as_ref()) } else { step.to };
            let boot = Boot { from: step.from, to, first: *first, insist: *insist };
            let answer = carry_out(&door, &scene, decide::boot(&scene.facts(&who.node, policy), &boot))?;
            if matches!(answer, Answer::Yes) {
                println!("{to}");
            }
            Ok(answer)
        }
        Verb::Alone { who, peer, generation, epoch, how, insist } => {
            let left = *how == Loss::Left;
            let alone = Alone { peer: peer.as_deref(), generation: *generation, left, insist: *insist, outdated: None };
            go_on_alone(who, policy, alone, *epoch)
        }
        Verb::Protect { who, peer, generation } => {
            let door = RecordDoor::new(&who.guest);
            withdraw_outdating(&who.guest, peer)?;
            let scene = Scene::look(&door, &who.node, false)?;
            let decision = decide::protect(&scene.facts(&who.node, policy), peer, *generation);
            carry_out(&door, &scene, decision)
        }
    }
}

/// The record, and how the other node in it stands.
struct Scene {
    stored: Option<Stored>,
    other: Standing,
    other_holds: Option<Generation>,
}

impl Scene {
    /// Looks at the record and, where it matters, at the membership. The two are read at once: the guest waits for this.
    fn look(door: &RecordDoor, node: &str, at_others: bool) -> Result<Scene, ClusterError> {
        let (stored, membership) = thread::scope(|scope| {
            let membership = at_others.then(|| scope.spawn(Membership::read));
            (door.read(), membership.map(join))
        });
        let stored = stored?;
        let other = stored.as_ref().and_then(|stored| stored.record.other_than(node));
        let other = match (other, membership) {
            (Some(other), Some(membership)) => membership?.standing_of(other)?,
            // Nothing is known about it, and nothing may follow from that.
            _ => Standing::Lost,
        };
        Ok(Scene { stored, other, other_holds: None })
    }

    fn facts<'a>(&'a self, node: &'a str, policy: Policy) -> Facts<'a> {
        let record = self.stored.as_ref().map(|stored| &stored.record);
        Facts { node, record, other: self.other, other_holds: self.other_holds, policy }
    }
}

/// The generation that an operator means who insists, on a node that may be far behind the record: `to`, but after that.
fn ahead(to: Generation, stored: Option<&Stored>) -> Generation {
    match stored.map(|stored| stored.record.generation) {
        // An earlier attempt, of which nobody heard whether it took effect.
        Some(current) if current.id == to.id => current,
        Some(current) if !to.is_newer_than(current) => current.next(to.id),
        _ => to,
    }
}

/// The generation of the image that the other node named in the record says it could resume.
pub(crate) fn held_elsewhere(
    guest: &str,
    node: &str,
    stored: Option<&Stored>,
) -> Result<Option<Generation>, ClusterError> {
    let Some(other) = stored.and_then(|stored| stored.record.other_than(node)) else { return Ok(None) };
    let held = Attributes::of(other).get(&attributes::holds(guest))?;
    Ok(held.and_then(|held| parse_generation(&held).ok()))
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(value) => value,
        // It goes on here as if it had happened here.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn carry_out(door: &RecordDoor, scene: &Scene, decision: Decision) -> Result<Answer, ClusterError> {
    let (target, swapped) = match (decision, &scene.stored) {
        (Decision::Already, _) => return Ok(Answer::Yes),
        (Decision::No(refusal), _) => return Ok(Answer::No(refusal)),
        (Decision::Swap(target), Some(stored)) => {
            let target = target.after(&stored.record);
            let swapped = door.swap(stored, &target);
            (target, swapped)
        }
        (Decision::Create(target), _) => {
            let swapped = door.create(&target);
            (target, swapped)
        }
        (Decision::Swap(_), None) => return Ok(Answer::No(Refusal::NoRecord)),
        (Decision::AskOutdate, _) => return Ok(Answer::No(Refusal::NoAnswer("the standby".to_owned()))),
    };
    match swapped {
        Ok(Swap::Won) => Ok(Answer::Yes),
        // Somebody was first; or an earlier attempt of this node, of which it never heard.
        Ok(Swap::Lost) => settled(door, &target),
        // It may have taken effect. If it did, that can be seen; if not, it still may.
        Err(error) => match door.read() {
            Ok(Some(stored)) if stored.record == target => Ok(Answer::Yes),
            _ => Err(error),
        },
    }
}

fn settled(door: &RecordDoor, target: &super::Record) -> Result<Answer, ClusterError> {
    Ok(match door.read()? {
        Some(stored) if stored.record == *target => Answer::Yes,
        Some(stored) => Answer::No(Refusal::Overtaken(stored.record.to_string())),
        None => Answer::No(Refusal::NoRecord),
    })
}

fn go_on_alone(who: &Who, policy: Policy, mut alone: Alone<'_>, epoch: u64) -> Result<Answer, ClusterError> {
    let (guest, node) = (&who.guest, &who.node);
    let wish = Wish { generation: alone.generation, epoch };
    let door = RecordDoor::new(guest);
    let deadline = Instant::now() + OUTDATE_LIMIT;
    let mut asked = false;
    loop {
        // A goodbye needs no membership.
        let scene = Scene::look(&door, node, !alone.left && !alone.insist)?;
        let facts = scene.facts(node, policy);
        let decision = decide::alone(&facts, &alone);
        let standby = facts.record.and_then(|record| record.other_than(node));
        let (Decision::AskOutdate, Some(standby)) = (&decision, standby) else {
            return consent(&door, &scene, decision);
        };
        if Instant::now() >= deadline {
            return Ok(Answer::No(Refusal::NoAnswer(standby.to_owned())));
        }
        let round = deadline.min(Instant::now() + OUTDATE_ROUND);
        alone.outdated = ask_to_be_outdated(guest, standby, wish, asked, round)?;
        asked = true;
        if alone.outdated == Some(alone.generation) {
            return consent(&door, &scene, decide::alone(&facts, &alone));
        }
    }
}

fn consent(door: &RecordDoor, scene: &Scene, decision: Decision) -> Result<Answer, ClusterError> {
    if planted(Bug::ConsentWithoutSwap) && matches!(decision, Decision::Swap(_)) {
        return Ok(Answer::Yes);
    }
    carry_out(door, scene, decision)
}

/// Asks `standby` to mark itself outdated, and waits for its word.
fn ask_to_be_outdated(
    guest: &str,
    standby: &str,
    wish: Wish,
    mut asked: bool,
    until: Instant,
) -> Result<Option<Generation>, ClusterError> {
    let attributes = Attributes::of(standby);
    loop {
        let word = attributes.get(&attributes::outdated(guest))?;
        let answers = word.is_some_and(|word| wish.is_answered_by(&word));
        if answers || Instant::now() >= until {
            return Ok(answers.then_some(wish.generation));
        }
        // Not before its word was looked for: if its replicator died it has said so unasked.
        if !asked {
            attributes.set(&attributes::outdate(guest), &wish.to_string())?;
            asked = true;
        }
        thread::sleep(OUTDATE_POLL);
    }
}

/// Forgets that `peer` was outdated once: it is in sync now, and the next loss is another one.
///
/// This comes before the record names it again, so that no old word can pass for consent.
fn withdraw_outdating(guest: &str, peer: &str) -> Result<(), ClusterError> {
    let attributes = Attributes::of(peer);
    for name in [attributes::outdate(guest), attributes::outdated(guest)] {
        if attributes.get(&name)?.is_none() {
            continue;
        }
        attributes.delete(&name)?;
        let deadline = Instant::now() + OUTDATE_LIMIT;
        while attributes.get(&name)?.is_some() {
            if Instant::now() >= deadline {
                return Err(ClusterError::Unreadable { command: "attrd_updater", reason: format!("{name} stays") });
            }
            thread::sleep(OUTDATE_POLL);
        }
    }
    Ok(())
}
