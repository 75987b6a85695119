use super::*;

const OLD: Generation = Generation { number: 6, id: 1 };
const NOW: Generation = Generation { number: 7, id: 0x9f3 };
/// Another history that counts as far.
const TWIN: Generation = Generation { number: 7, id: 2 };
const NEXT: Generation = Generation { number: 8, id: 0x51bc };

const STANDINGS: [Standing; 6] =
    [Standing::Member, Standing::Unclean, Standing::Fenced, Standing::Left, Standing::Lost, Standing::Stranger];
const UNPROTECTED: [Unprotected; 3] = [Unprotected::Never, Unprotected::Fenced, Unprotected::Always];

fn facts<'a>(node: &'a str, record: Option<&'a Record>, other: Standing, policy: Policy) -> Facts<'a> {
    Facts { node, record, other, other_holds: None, policy }
}

/// Every record that a node may meet: none, each generation, each pair of names.
fn records() -> Vec<Option<Record>> {
    let mut records = vec![None];
    for generation in [OLD, NOW, TWIN, NEXT] {
        for node in ["alpha", "beta", "gamma"] {
            records.push(Some(Record::alone(generation, node)));
        }
        for (primary, standby) in [("alpha", "beta"), ("beta", "alpha"), ("alpha", "gamma"), ("gamma", "beta")] {
            records.push(Some(Record::protected(generation, primary, standby)));
        }
    }
    records
}

/// Calls `check` with everything that can be known.
fn everywhere(mut check: impl FnMut(Facts<'_>)) {
    for record in records() {
        for other in STANDINGS {
            for unprotected in UNPROTECTED {
                for shared_disk in [false, true] {
                    for node in ["alpha", "beta"] {
                        check(facts(node, record.as_ref(), other, Policy { unprotected, shared_disk }));
                    }
                }
            }
        }
    }
}

fn is_yes(decision: &Decision) -> bool {
    matches!(decision, Decision::Already | Decision::Swap(_) | Decision::Create(_))
}

const FENCED: Policy = Policy { unprotected: Unprotected::Fenced, shared_disk: true };

#[test]
fn promotion_needs_the_newest_history_a_name_in_it_and_a_silent_other() {
    for handed_over_by in [None, Some("alpha"), Some("gamma")] {
        let promotion = Promotion { from: NOW, to: NEXT, handed_over_by };
        everywhere(|facts| {
            let target = Record::alone(NEXT, facts.node);
            let expected = match facts.record {
                Some(record) if *record == target => true,
                Some(record) if record.generation == NOW && record.names(facts.node) => {
                    let other = record.other_than(facts.node);
                    other.is_none()
                        || other == handed_over_by
                        || [Standing::Member, Standing::Fenced, Standing::Left].contains(&facts.other)
                        || ([Standing::Lost, Standing::Stranger].contains(&facts.other)
                            && (!facts.policy.shared_disk || facts.policy.unprotected == Unprotected::Always))
                }
                _ => false,
            };
            let decision = promote(&facts, &promotion);
            assert_eq!(is_yes(&decision), expected, "{facts:?} {promotion:?}");
            if let Decision::Swap(to) = decision {
                assert_eq!(to, target);
            }
        });
    }
}

/// Whether the primary of `NOW` may change the record at all: its own, or an older one that was healed into its place.
fn is_its_own(facts: &Facts<'_>, record: &Record) -> bool {
    record.generation == OLD || (record.generation == NOW && record.primary == facts.node)
}

#[test]
fn going_on_alone_needs_the_other_s_silence_proven() {
    for (left, outdated) in [(false, None), (false, Some(OLD)), (false, Some(TWIN)), (false, Some(NOW)), (true, None)] {
        let plea = Alone { peer: Some("beta"), insist: false, generation: NOW, left, outdated };
        everywhere(|facts| {
            let target = Record::alone(NOW, facts.node);
            let decision = alone(&facts, &plea);
            let Some(record) = facts.record else { return assert!(!is_yes(&decision)) };
            let other = record.other_than(facts.node);
            let own = is_its_own(&facts, record);
            let proven = outdated == Some(NOW)
                || (left && other == Some("beta"))
                || [Standing::Fenced, Standing::Left].contains(&facts.other);
            let forking = facts.policy.unprotected == Unprotected::Always && facts.other != Standing::Unclean;
            let may = own && facts.policy.unprotected != Unprotected::Never && other.is_some();
            let expected = (own && other.is_none()) || (may && (proven || forking));
            assert_eq!(is_yes(&decision), expected, "{facts:?} {plea:?}");
            let asks = may && !proven && !forking && facts.other == Standing::Member;
            assert_eq!(decision == Decision::AskOutdate, asks, "{facts:?} {plea:?}");
            if let Decision::Swap(to) = decision {
                assert_eq!(to, target);
            }
        });
    }
}

#[test]
fn a_standby_is_named_only_in_a_record_that_names_nobody_else() {
    everywhere(|facts| {
        let expected = facts.record.is_some_and(|record| {
            is_its_own(&facts, record) && record.other_than(facts.node).is_none_or(|other| other == "gamma")
        });
        assert_eq!(is_yes(&protect(&facts, "gamma", NOW)), expected, "{facts:?}");
    });
}

#[test]
fn a_primary_replaces_an_older_record_and_no_other() {
    everywhere(|facts| {
        let older = facts.record.is_some_and(|record| record.generation == OLD);
        assert_eq!(reassert(&facts, NOW), older.then(|| Record::alone(NOW, facts.node)));
    });
}

#[test]
fn a_cold_boot_follows_the_record() {
    let plain = Boot { from: NOW, to: NEXT, first: false, insist: false };
    everywhere(|facts| {
        let expected = match facts.record {
            Some(record) if *record == Record::alone(NEXT, facts.node) => true,
            Some(record) if record.generation == NOW && record.names(facts.node) => {
                let first = record.primary == facts.node;
                match facts.other {
                    _ if record.standby.is_none() => true,
                    Standing::Fenced | Standing::Left => true,
                    Standing::Member => first,
                    Standing::Unclean => false,
                    Standing::Lost | Standing::Stranger => first && facts.policy.unprotected == Unprotected::Always,
                }
            }
            _ => false,
        };
        assert_eq!(is_yes(&boot(&facts, &plain)), expected, "{facts:?}");
    });
}

#[test]
fn nobody_boots_while_the_other_node_can_resume() {
    let both = Record::protected(NOW, "alpha", "beta");
    let plain = Boot { from: NOW, to: NEXT, first: false, insist: false };
    let facts = |other_holds| Facts { other_holds, ..facts("alpha", Some(&both), Standing::Member, FENCED) };
    assert_eq!(boot(&facts(Some(NOW)), &plain), Decision::No(Refusal::OtherResumes("beta".to_owned())));
    // What is older than the record is nothing to wait for.
    for holds in [None, Some(OLD)] {
        assert_eq!(boot(&facts(holds), &plain), Decision::Swap(Record::alone(NEXT, "alpha")));
    }
}

#[test]
fn a_first_boot_makes_the_record_only_where_there_is_none() {
    let first = Boot { from: OLD, to: NOW, first: true, insist: false };
    everywhere(|facts| {
        let decision = boot(&facts, &first);
        match facts.record {
            None => assert_eq!(decision, Decision::Create(Record::alone(NOW, facts.node))),
            Some(_) => assert!(!matches!(decision, Decision::Create(_))),
        }
        if facts.record.is_some_and(|record| ![OLD, NOW].contains(&record.generation)) {
            assert!(matches!(decision, Decision::No(Refusal::OtherHistory { .. })), "{facts:?}");
        }
    });
    let missing = boot(&facts("alpha", None, Standing::Lost, FENCED), &Boot { first: false, ..first });
    assert_eq!(missing, Decision::No(Refusal::NoRecord));
}

#[test]
fn an_operator_who_insists_is_refused_only_what_counts_backwards_or_may_still_write() {
    let insisting = Boot { from: OLD, to: NEXT, first: false, insist: true };
    everywhere(|facts| {
        let decision = boot(&facts, &insisting);
        let Some(record) = facts.record else {
            assert_eq!(decision, Decision::Create(Record::alone(NEXT, facts.node)));
            return;
        };
        let unclean = facts.other == Standing::Unclean && record.other_than(facts.node).is_some();
        let expected = *record == Record::alone(NEXT, facts.node) || (record.generation.number < 8 && !unclean);
        assert_eq!(is_yes(&decision), expected, "{facts:?}");
    });
}

#[test]
fn nobody_unclean_was_ever_silent() {
    let both = Record::protected(NOW, "alpha", "beta");
    for unprotected in UNPROTECTED {
        let policy = Policy { unprotected, shared_disk: false };
        let [alpha, beta] = ["alpha", "beta"].map(|node| facts(node, Some(&both), Standing::Unclean, policy));
        let plea = Alone { peer: Some("beta"), insist: false, generation: NOW, left: false, outdated: None };
        assert!(!is_yes(&alone(&alpha, &plea)));
        assert!(!is_yes(&promote(&beta, &Promotion { from: NOW, to: NEXT, handed_over_by: None })));
        assert!(!is_yes(&boot(&alpha, &Boot { from: NOW, to: NEXT, first: false, insist: true })));
    }
}

/// Both decide on the same facts, in either order: never do both get their way.
#[test]
fn of_a_consent_and_a_promotion_that_race_one_fails() {
    let both = Record::protected(NOW, "alpha", "beta");
    let plea = Alone { peer: Some("beta"), insist: false, generation: NOW, left: false, outdated: Some(NOW) };
    let promotion = Promotion { from: NOW, to: NEXT, handed_over_by: None };
    let member = |node, record| facts(node, Some(record), Standing::Member, FENCED);
    let (Decision::Swap(consented), Decision::Swap(promoted)) =
        (alone(&member("alpha", &both), &plea), promote(&member("beta", &both), &promotion))
    else {
        panic!("either is right as long as it is alone");
    };
    assert!(!is_yes(&promote(&member("beta", &consented), &promotion)));
    assert!(!is_yes(&alone(&member("alpha", &promoted), &plea)));
}

/// A change of which nobody knows what became may take effect as late as it likes: whoever asks again makes it fail.
#[test]
fn what_is_so_already_is_swapped_nevertheless() {
    let before = Record::alone(NOW, "alpha");
    let facts = |record| facts("alpha", Some(record), Standing::Member, FENCED);
    let Decision::Swap(protected) = protect(&facts(&before), "beta", NOW) else { panic!("nobody else is named") };
    let plea = Alone { peer: Some("beta"), insist: false, generation: NOW, left: false, outdated: None };
    let Decision::Swap(alone) = alone(&facts(&before), &plea) else { panic!("nobody else is named") };
    assert_ne!(alone.after(&before), before, "the late change would find what it was meant for");
    let named = protected.after(&before);
    assert!(
        matches!(protect(&facts(&named), "beta", NOW), Decision::Swap(again) if again.clone().after(&named) != named)
    );
}
