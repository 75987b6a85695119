//! What may be published: red sends the guests away, so it must be good for them.
//!
//! Red needs every guest here to have a standby in sync, and a node to go to that is not red itself. Two red nodes serve nobody:
//! if both have published red, the one with the lower id takes it back. Until red may be published the host is yellow, and says
//! why.

use std::time::Duration;

use serde::Serialize;

use super::Colour;
use crate::moment::Moment;

/// How long a guest may be without a standby in sync after red was published: that long a move may take.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// A guest of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Whether it runs here.
    pub runs_here: bool,
    /// Whether its standby is in sync.
    pub protected: bool,
    /// The node of its standby.
    pub peer: Option<String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its id in the cluster.
    pub id: u64,
    /// Whether it can run a guest.
    pub online: bool,
    /// What it has published; green if nothing.
    pub colour: Colour,
}

/// This node as the cluster knows it, and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub own_id: u64,
    /// The others.
    pub peers: Vec<Peer>,
}

/// What is to be published, and if that is less than the verdict, why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The colour.
    pub colour: Colour,
    /// What keeps a red host from saying so.
    pub held_back: Option<String>,
}

/// Remembers what was published.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    published: Colour,
    /// Since when a guest has had no standby in sync although red is published.
    without: Option<Moment>,
}

impl Gate {
    /// Decides.
    pub fn decide(&mut self, now: Moment, verdict: Colour, guests: &[Guest], cluster: &Cluster) -> Decision {
        let obstacle = if verdict == Colour::Red { self.obstacle(now, guests, cluster) } else { None };
        let colour = if obstacle.is_some() { Colour::Yellow } else { verdict };
        if colour != Colour::Red {
            self.without = None;
        }
        self.published = colour;
        Decision { colour, held_back: obstacle }
    }

    fn obstacle(&mut self, now: Moment, guests: &[Guest], cluster: &Cluster) -> Option<String> {
        // If both have published it in the same moment the higher id keeps it, and waits for the other to take its own back.
        let keeps = |peer: &Peer| self.published == Colour::Red && cluster.own_id > peer.id;
        let there: Vec<&Peer> = cluster.peers.iter().filter(|peer| peer.online).collect();
        let (good, red): (Vec<&Peer>, Vec<&Peer>) =
            there.into_iter().partition(|peer| peer.colour != Colour::Red || keeps(peer));
        match (good.first(), red.first()) {
            (None, None) => return Some("no other node is there".to_owned()),
            (None, Some(red)) => return Some(format!("{} is red, too", red.name)),
            (Some(_), _) => {}
        }
        let obstacle = guests.iter().filter(|guest| guest.runs_here).find_map(|guest| no_way_out(guest, &good));
        self.tolerate_a_move(now, obstacle)
    }

    /// While a guest moves away its standby is not in sync: that is no reason to call it back.
    fn tolerate_a_move(&mut self, now: Moment, obstacle: Option<String>) -> Option<String> {
        if obstacle.is_none() || self.published != Colour::Red {
            self.without = None;
            return obstacle;
        }
        let since = *self.without.get_or_insert(now);
        obstacle.filter(|_| now.since(since) >= MOVE_LIMIT)
    }
}

/// Why a guest cannot leave for one of the nodes that are `good`.
fn no_way_out(guest: &Guest, good: &[&Peer]) -> Option<String> {
    if !guest.protected {
        return Some(format!("guest {} has no standby in sync", guest.name));
    }
    let name = guest.peer.as_deref()?;
    let there = good.iter().any(|peer| peer.name == name);
    (!there).then(|| format!("{name}, the standby of guest {}, is red, too, or not there", guest.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_boot(Duration::from_secs(seconds))
    }

    fn guest(protected: bool) -> Vec<Guest> {
        vec![Guest { name: "web".into(), runs_here: true, protected, peer: Some("beta".into()) }]
    }

    fn cluster(own_id: u64, online: bool, colour: Colour) -> Cluster {
        Cluster { own_id, peers: vec![Peer { name: "beta".into(), id: 2, online, colour }] }
    }

    fn decide(guests: &[Guest], cluster: &Cluster) -> Decision {
        Gate::default().decide(at(0), Colour::Red, guests, cluster)
    }

    #[test]
    fn red_needs_somewhere_to_go() {
        let good = cluster(1, true, Colour::Yellow);
        assert_eq!(decide(&guest(true), &good).colour, Colour::Red);
        assert_eq!(decide(&[], &good).colour, Colour::Red);
        for (guests, cluster, word) in [
            (guest(false), good.clone(), "web has no standby"),
            (guest(true), cluster(1, false, Colour::Green), "no other node"),
            (guest(true), cluster(1, true, Colour::Red), "beta is red"),
            (guest(true), cluster(3, true, Colour::Red), "beta is red"),
            (vec![Guest { peer: Some("gamma".into()), ..guest(true).remove(0) }], good, "gamma"),
        ] {
            let decision = decide(&guests, &cluster);
            assert_eq!(decision.colour, Colour::Yellow, "{word}");
            assert!(decision.held_back.as_deref().is_some_and(|why| why.contains(word)), "{decision:?}");
        }
    }

    #[test]
    fn of_three_nodes_the_standby_s_counts() {
        let three = |beta, gamma| {
            let peer = |name: &str, id, colour| Peer { name: name.into(), id, online: true, colour };
            Cluster { own_id: 1, peers: vec![peer("beta", 2, beta), peer("gamma", 3, gamma)] }
        };
        assert_eq!(decide(&guest(true), &three(Colour::Green, Colour::Red)).colour, Colour::Red);
        assert_eq!(decide(&guest(true), &three(Colour::Red, Colour::Green)).colour, Colour::Yellow);
        assert_eq!(decide(&[], &three(Colour::Red, Colour::Green)).colour, Colour::Red);
    }

    #[test]
    fn what_is_not_red_needs_nothing() {
        for colour in [Colour::Green, Colour::Yellow] {
            let decision = Gate::default().decide(at(0), colour, &guest(false), &Cluster::default());
            assert_eq!(decision, Decision { colour, held_back: None });
        }
    }

    #[test]
    fn a_guest_that_only_stands_by_here_has_nothing_to_leave() {
        let standby = [Guest { runs_here: false, ..guest(false).remove(0) }];
        assert_eq!(decide(&standby, &cluster(1, true, Colour::Green)).colour, Colour::Red);
    }

    #[test]
    fn of_two_that_are_red_the_higher_id_stays_so() {
        for (own_id, colour) in [(1, Colour::Yellow), (3, Colour::Red)] {
            let mut gate = Gate::default();
            gate.decide(at(0), Colour::Red, &guest(true), &cluster(own_id, true, Colour::Green));
            let again = gate.decide(at(1), Colour::Red, &guest(true), &cluster(own_id, true, Colour::Red));
            assert_eq!(again.colour, colour, "id {own_id}");
        }
    }

    #[test]
    fn a_move_is_not_called_back_while_it_is_on_its_way() {
        let mut gate = Gate::default();
        let peers = cluster(1, true, Colour::Green);
        let mut colour_at = |second, protected| gate.decide(at(second), Colour::Red, &guest(protected), &peers).colour;
        assert_eq!(colour_at(0, true), Colour::Red);
        assert_eq!(colour_at(1, false), Colour::Red);
        assert_eq!(colour_at(9, false), Colour::Red);
        assert_eq!(colour_at(12, false), Colour::Yellow);
        assert_eq!(colour_at(13, true), Colour::Red);
    }

    #[test]
    fn a_node_that_dies_takes_red_back() {
        let mut gate = Gate::default();
        gate.decide(at(0), Colour::Red, &[], &cluster(1, true, Colour::Green));
        let alone = gate.decide(at(1), Colour::Red, &[], &cluster(1, false, Colour::Green));
        assert_eq!(alone.colour, Colour::Yellow);
    }
}
