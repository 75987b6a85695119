//! What the supervisor makes of a replicator's status.

use kemari_control::{ConsoleStatus, ImageName, Replication, Role, Standing, Status};
use kemari_core::Generation;

use super::death::owes_word;
use super::score::{obstacle, score, text};
use super::teller::{describe, is_forlorn, is_handed_over};
use crate::authority::{Facts, Policy, Record};
use crate::cluster;

const G: Generation = Generation { number: 7, id: 0x9f3 };

/// The status of beta, a standby that holds the newest image of a generation.
pub(crate) fn standby(replication: Replication, generation: Generation) -> Status {
    Status {
        guest: "web".to_owned(),
        node: "beta".to_owned(),
        pid: 1,
        role: Role::Standby,
        generation: Some(generation.to_string()),
        standing: Some(Standing::Standby),
        authority: None,
        replication,
        peer: Some("alpha".to_owned()),
        trouble: None,
        image: Some(ImageName { generation: generation.to_string(), epoch: 12, is_final: false }),
        commit_age_ms: Some(1500),
        crashes: None,
        halted: None,
        mended_pages: 0,
        not_promotable: None,
        sync: None,
        gate: None,
        checkpoints: None,
        nics: Vec::new(),
        disks: Vec::new(),
        console: ConsoleStatus { written_bytes: 0, dropped_bytes: 0 },
    }
}

/// The same without an image.
fn empty() -> Status {
    let why = Some("this node holds no image".to_owned());
    Status { image: None, not_promotable: why, ..standby(Replication::Alone, G) }
}

fn facts(record: Option<&Record>, other: cluster::Standing) -> Facts<'_> {
    Facts { node: "beta", record, other, other_holds: None, policy: Policy::default() }
}

#[test]
fn a_primary_comes_before_a_standby_before_who_could_boot() {
    let [both, alone] = [Record::protected(G, "alpha", "beta"), Record::alone(G, "beta")];
    let member = |record| facts(Some(record), cluster::Standing::Member);
    let primary = Status { role: Role::Primary, ..standby(Replication::Alone, G) };
    let scores = [
        score(&primary, &member(&both)),
        score(&standby(Replication::InSync, G), &member(&both)),
        score(&empty(), &member(&alone)),
    ];
    assert!(scores.iter().all(Option::is_some) && scores.is_sorted_by(|one, next| one > next), "{scores:?}");
    assert_eq!(text(None), "-INFINITY");
}

#[test]
fn who_lacks_what_was_shown_is_not_to_be_promoted() {
    let in_sync = standby(Replication::InSync, G);
    for record in [Record::alone(G, "alpha"), Record::protected(G.next(1), "alpha", "beta")] {
        assert_eq!(score(&in_sync, &facts(Some(&record), cluster::Standing::Member)), None, "{record}");
    }
    assert_eq!(score(&in_sync, &facts(None, cluster::Standing::Member)), None);
    let both = Record::protected(G, "alpha", "beta");
    let syncing = Status { replication: Replication::Syncing, ..empty() };
    assert_eq!(score(&syncing, &facts(Some(&both), cluster::Standing::Member)), None);
    // The first one named goes first, unless it is certainly off.
    assert_eq!(score(&empty(), &facts(Some(&both), cluster::Standing::Member)), None);
    assert!(score(&empty(), &facts(Some(&both), cluster::Standing::Fenced)).is_some());
}

#[test]
fn a_guest_that_never_ran_is_booted_where_it_was_created() {
    let created = Status { standing: Some(Standing::Created), ..empty() };
    assert!(score(&created, &facts(None, cluster::Standing::Lost)).is_some());
    assert_eq!(score(&empty(), &facts(None, cluster::Standing::Lost)), None);
}

#[test]
fn an_operator_is_told_what_is_in_the_way() {
    let both = Record::protected(G, "alpha", "beta");
    let lost = facts(Some(&both), cluster::Standing::Lost);
    let says = |status: &Status| obstacle(status, &lost).unwrap_or_default();
    assert!(says(&standby(Replication::Alone, G)).contains("was not fenced"));
    assert!(says(&empty()).contains("waiting for alpha"));
    assert_eq!(says(&standby(Replication::InSync, G)), "");
}

#[test]
fn what_operators_see_says_what_a_node_waits_for_and_not_what_it_once_did() {
    let state = |status: &Status, obstacle: Option<&str>| {
        let shown = describe(status, obstacle.map(str::to_owned));
        shown.into_iter().find(|(name, _)| *name == "state").map(|(_, value)| value)
    };
    let refused = |replication| Status { authority: Some("no consent".to_owned()), ..standby(replication, G) };
    assert_eq!(state(&refused(Replication::Alone), None).as_deref(), Some("alone; no consent"));
    assert_eq!(state(&refused(Replication::InSync), None).as_deref(), Some("in-sync"));
    assert_eq!(state(&standby(Replication::Alone, G), Some("fence it")).as_deref(), Some("alone; fence it"));
    let shown = describe(&standby(Replication::InSync, G), None);
    assert!(shown.contains(&("commit-age", "1.5s".to_owned())) && shown.contains(&("crashes", "none".to_owned())));
}

#[test]
fn a_guest_between_two_nodes_is_told_from_one_that_lost_its_primary() {
    let lost = standby(Replication::Alone, G);
    let image = lost.image.clone().map(|image| ImageName { is_final: true, ..image });
    let handed_over = Status { image, ..lost.clone() };
    assert!(is_forlorn(&lost) && !is_handed_over(&lost));
    assert!(is_handed_over(&handed_over));
    assert!(!is_handed_over(&Status { role: Role::Primary, ..handed_over.clone() }));
    assert!(!is_handed_over(&Status { not_promotable: Some("outdated".to_owned()), ..handed_over }));
    assert!(!is_forlorn(&standby(Replication::InSync, G)));
}

#[test]
fn only_a_standby_that_followed_a_primary_has_a_word_to_give_at_its_end() {
    let followed = standby(Replication::InSync, G);
    assert_eq!(owes_word(&followed), Some(G));
    assert_eq!(owes_word(&Status { role: Role::Primary, ..followed.clone() }), None);
    for standing in [Some(Standing::Created), None] {
        assert_eq!(owes_word(&Status { standing, ..followed.clone() }), None, "{standing:?}");
    }
    assert_eq!(owes_word(&Status { generation: Some("7".to_owned()), ..followed }), None);
}
