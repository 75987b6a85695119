//! What must hold at any time, and that the guest can go on in the end.

use std::time::Duration;

use kemari_protocol::primary::Phase;

use super::{ALPHA, BETA, Role, World};

impl World {
    /// To be called whenever anything has happened.
    pub(super) fn check(&mut self) {
        for node in [ALPHA, BETA] {
            match &self.nodes[node].role {
                Role::Primary(_) => self.check_primary(node),
                Role::Standby(_) => self.check_standby(node),
                Role::Down => {}
            }
        }
        self.check_exposure();
    }

    /// As long as the record names a connected standby that could not go on, nothing more is shown: nobody has consented.
    fn check_exposure(&mut self) {
        let exposed = self.outside.link.is_whole()
            && [ALPHA, BETA].into_iter().any(|node| {
                self.outside.record.named[node]
                    && matches!(self.nodes[node].role, Role::Standby(_))
                    && !self.is_candidate(node)
            });
        let shown = self.outside.shown;
        let before = self.outside.exposed.filter(|_| exposed).unwrap_or(shown);
        assert!(shown <= before, "{shown} was released, and the standby cannot go on");
        self.outside.exposed = exposed.then_some(before);
    }

    /// What a standby holds is a whole checkpoint, and if it may go on from there, nothing is forgotten.
    fn check_standby(&self, node: usize) {
        let Role::Standby(standby) = &self.nodes[node].role else { return };
        let Some(image) = standby.protocol.image() else { return };
        let cut = self.outside.cut(image);
        assert_eq!(self.nodes[node].memory, cut.memory, "a torn image of {image}");
        assert_eq!(standby.protocol.state(), Some(&cut.counter.to_le_bytes()[..]));
        let record = &self.outside.record;
        if standby.protocol.promotable().is_ok() {
            assert!(standby.loaded, "promotable, and never loaded here");
            assert_eq!(image.generation, self.nodes[node].known, "promotable, and not the newest");
        }
        if standby.protocol.promotable().is_ok() && image.generation == record.generation && record.named[node] {
            let (shown, acknowledged) = (self.outside.shown, self.outside.acknowledged);
            assert!(shown <= cut.counter, "{shown} was released, {} is held", cut.counter);
            assert!(acknowledged <= cut.counter, "{acknowledged} was acknowledged, {} is held", cut.counter);
        }
    }

    /// Only the primary of the newest generation speaks without a standby; one that yielded stands still; and one that says
    /// that it is protected is.
    fn check_primary(&self, node: usize) {
        let Role::Primary(primary) = &self.nodes[node].role else { return };
        let record = &self.outside.record;
        let newest = primary.generation == record.generation;
        assert!(primary.gate.consent().is_none() || newest, "an old primary's gate is open");
        assert!(!(primary.has_yielded() && primary.running), "a primary runs that has yielded");
        assert!(primary.protocol.in_flight() <= self.nodes[node].config.depth);
        if primary.protocol.phase() != Phase::Protected || !self.outside.link.is_whole() {
            return;
        }
        let Role::Standby(standby) = &self.nodes[1 - node].role else { return };
        let image = standby.protocol.promotable().expect("it protects a primary");
        assert!(newest && primary.gate.consent().is_none() && record.named[1 - node]);
        let committed = primary.protocol.committed().expect("protected");
        assert_eq!(committed.generation, image.generation);
        assert!(committed.epoch <= image.epoch, "{committed} is committed, {image} is held");
    }

    /// Nobody wants to be called again at once for ever.
    pub(super) fn check_timeouts(&self) {
        for node in &self.nodes {
            let next = match &node.role {
                Role::Primary(primary) => primary.protocol.next_timeout(),
                Role::Standby(standby) => standby.protocol.next_timeout(),
                Role::Down => None,
            };
            assert!(next.is_none_or(|at| at > self.outside.now), "{} would spin", node.config.node);
        }
    }

    /// How many guests run.
    pub(crate) fn running(&mut self) -> usize {
        [ALPHA, BETA].into_iter().filter(|node| self.primary(*node).is_some_and(|primary| primary.running)).count()
    }

    /// The node that is primary of the newest generation, even if its guest is paused for a handover.
    pub(crate) fn serving(&mut self) -> Option<usize> {
        let newest = self.outside.record.generation;
        [ALPHA, BETA].into_iter().find(|node| {
            self.primary(*node).is_some_and(|primary| primary.generation == newest && !primary.has_yielded())
        })
    }

    /// Whether the guest could go on from this node's memory if it were promoted.
    pub(crate) fn is_candidate(&mut self, node: usize) -> bool {
        let newest = self.outside.record.generation;
        if !self.outside.record.named[node] {
            return false;
        }
        match &self.nodes[node].role {
            Role::Primary(primary) => primary.generation == newest && primary.has_yielded(),
            Role::Standby(standby) => standby.protocol.promotable().is_ok_and(|image| image.generation == newest),
            Role::Down => false,
        }
    }

    /// Whether the guest is not lost if this node is.
    pub(crate) fn is_dispensable(&mut self, node: usize) -> bool {
        self.serving() == Some(1 - node) || self.is_candidate(1 - node)
    }

    /// With the nodes and the network as they are, the guest runs on before long: where it does, or by a promotion.
    pub(crate) fn must_go_on(&mut self) -> usize {
        for _ in 0..200 {
            while self.deliver_any() {}
            [ALPHA, BETA].into_iter().for_each(|node| self.decide(node, true));
            let serving = self.serving();
            if let Some(node) = serving
                && self.primary(node).is_some_and(|primary| primary.running)
            {
                return node;
            }
            let candidate = [ALPHA, BETA].into_iter().find(|node| self.is_candidate(*node));
            if let (None, Some(node)) = (serving, candidate) {
                self.ask_promotion(node);
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("the guest is lost");
    }

    /// All faults are mended: the guest is protected again before long, and gets to say something.
    pub(crate) fn must_recover(&mut self) {
        self.mend();
        for node in [ALPHA, BETA] {
            self.set_fit(node, true);
            self.restart(node);
        }
        for _ in 0..800 {
            let node = self.must_go_on();
            let protected = self.primary(node).is_some_and(|primary| primary.protocol.phase() == Phase::Protected);
            if protected && self.outside.link.is_whole() {
                return self.must_speak(node);
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("never protected again");
    }

    fn must_speak(&mut self, node: usize) {
        self.guest(node, true);
        let said = self.primary(node).map(|primary| primary.counter);
        for _ in 0..10 {
            while self.deliver_any() {}
            self.pass(Duration::from_millis(20));
        }
        assert_eq!(Some(self.outside.shown), said, "what a protected guest says does not come out");
    }
}
