//! Two nodes, the link between them, and what is outside. Every call ends with all invariants checked.

mod invariants;
mod link;
mod outside;
mod primary;
mod standby;

use std::time::Duration;

use kemari_core::{ConsentReason, Generation, PAGE_SIZE};
use kemari_protocol::primary::Phase;
use kemari_protocol::{Config, Identity, Message, refuse_as_primary};

pub(crate) use link::Item;
use outside::Outside;
use primary::{Ended, Primary};
use standby::Standby;

pub(crate) const ALPHA: usize = 0;
pub(crate) const BETA: usize = 1;

const PAGES: u64 = 8;
const OLD: Generation = Generation { number: 1, id: 11 };
const SERVED: Generation = Generation { number: 2, id: 22 };
/// What a page of a node that was just started holds.
const NOTHING: u64 = u64::MAX;

pub(crate) fn config(node: &str, memory: &str) -> Config {
    Config {
        node: node.to_owned(),
        identity: Identity::new(vec![("memory_mib".to_owned(), memory.to_owned())]).expect("one key"),
        pages: PAGES,
        heartbeat: Duration::from_millis(100),
        peer_timeout: Duration::from_millis(500),
        depth: 1,
    }
}

fn page(counter: u64) -> Vec<u8> {
    let mut content = vec![0; PAGE_SIZE];
    content[..8].copy_from_slice(&counter.to_le_bytes());
    content
}

enum Role {
    Down,
    Primary(Box<Primary>),
    Standby(Box<Standby>),
}

struct Node {
    config: Config,
    /// The newest generation it knows, on stable storage.
    known: Generation,
    /// One number a page.
    memory: Vec<u64>,
    /// Whether this host can load the guest.
    fit: bool,
    /// How the handovers went that this node began.
    handovers: Vec<String>,
    role: Role,
}

pub(crate) struct World {
    pub(crate) outside: Outside,
    /// Whether the authority answers at once, and with yes. Else see [`World::decide`].
    pub(crate) eager: bool,
    nodes: [Node; 2],
}

impl World {
    pub(crate) fn new() -> World {
        World::of(config("alpha", "1"), config("beta", "1"))
    }

    /// Beta has just lost what it held: the record names both, and the gate of alpha is closed.
    pub(crate) fn of(alpha: Config, beta: Config) -> World {
        let outside = Outside::new(SERVED);
        let primary = Primary::new(outside.now, alpha.clone(), SERVED, None, 0);
        let standby = Standby::new(beta.clone(), OLD, None);
        let node = |config: Config, known, content, role| Node {
            memory: vec![content; config.pages as usize],
            config,
            known,
            fit: true,
            handovers: Vec::new(),
            role,
        };
        let nodes = [
            node(alpha, SERVED, 0, Role::Primary(Box::new(primary))),
            node(beta, OLD, NOTHING, Role::Standby(Box::new(standby))),
        ];
        World { outside, eager: true, nodes }
    }

    /// The primary at this node, if it is one.
    pub(crate) fn primary(&mut self, node: usize) -> Option<&mut Primary> {
        if let Role::Primary(primary) = &mut self.nodes[node].role { Some(primary) } else { None }
    }

    /// The standby at this node, if it is one.
    pub(crate) fn standby(&mut self, node: usize) -> Option<&mut Standby> {
        if let Role::Standby(standby) = &mut self.nodes[node].role { Some(standby) } else { None }
    }

    pub(crate) fn handovers(&self, node: usize) -> &[String] {
        &self.nodes[node].handovers
    }

    pub(crate) fn is_down(&self, node: usize) -> bool {
        matches!(self.nodes[node].role, Role::Down)
    }

    pub(crate) fn guest(&mut self, node: usize, speaks: bool) {
        let Node { role, memory, .. } = &mut self.nodes[node];
        if let Role::Primary(primary) = role {
            primary.guest(memory, speaks);
        }
        self.settle();
    }

    /// All nodes act on their events and say what they have to say, without anything being delivered.
    pub(crate) fn settle(&mut self) {
        [ALPHA, BETA].into_iter().for_each(|node| self.pump(node));
        while let Some(node) = [ALPHA, BETA].into_iter().find(|node| self.wants_to_dial(*node)) {
            self.dial(node);
            [ALPHA, BETA].into_iter().for_each(|node| self.pump(node));
        }
        if self.eager {
            [ALPHA, BETA].into_iter().for_each(|node| self.decide(node, true));
        }
        self.check();
    }

    fn pump(&mut self, node: usize) {
        let Node { role, memory, known, fit, .. } = &mut self.nodes[node];
        let ended = match role {
            Role::Down => None,
            Role::Primary(primary) => primary.pump(node, memory, &mut self.outside),
            Role::Standby(standby) => {
                standby.pump(node, memory, known, *fit, &mut self.outside);
                None
            }
        };
        if let Some(ended) = ended {
            self.step_down(node, ended);
        }
    }

    fn step_down(&mut self, node: usize, ended: Ended) {
        self.outside.link.close(node);
        match ended {
            Ended::Demoted { held, successor } => {
                let Node { config, known, role, handovers, .. } = &mut self.nodes[node];
                handovers.push(successor.map_or("not known".to_owned(), |successor| format!("to {successor}")));
                *known = successor.unwrap_or(*known);
                *role = Role::Standby(Box::new(Standby::new(config.clone(), *known, held)));
            }
            Ended::Superseded(generation) => {
                self.nodes[node].known = generation;
                self.start_empty(node);
            }
        }
    }

    fn start_empty(&mut self, node: usize) {
        let Node { config, known, memory, role, .. } = &mut self.nodes[node];
        memory.fill(NOTHING);
        *role = Role::Standby(Box::new(Standby::new(config.clone(), *known, None)));
    }

    /// A node restarts, and has met this generation elsewhere.
    pub(crate) fn meet_newer(&mut self, node: usize, generation: Generation) {
        self.nodes[node].known = generation;
        self.start_empty(node);
    }

    fn wants_to_dial(&mut self, node: usize) -> bool {
        self.primary(node).is_some_and(|primary| std::mem::take(&mut primary.dialling))
    }

    fn dial(&mut self, node: usize) {
        let now = self.outside.now;
        let busy = self.outside.link.is_up(1 - node);
        let [alpha, beta] = &mut self.nodes;
        let (from, to) = if node == ALPHA { (alpha, beta) } else { (beta, alpha) };
        let Role::Primary(primary) = &mut from.role else { return };
        match &mut to.role {
            Role::Standby(standby) if self.outside.link.network && !busy => {
                self.outside.link.open();
                primary.protocol.link_up(now);
                standby.protocol.link_up(now);
            }
            Role::Primary(rival) if self.outside.link.network => {
                primary.protocol.link_up(now);
                let Some(Message::Offer(offer)) = primary.protocol.transmit(now) else { panic!("no offer") };
                let answer = refuse_as_primary(&to.config.node, rival.generation, &offer);
                primary.protocol.receive(now, answer.answer);
                if let Some(generation) = answer.superseded_by {
                    self.step_down(1 - node, Ended::Superseded(generation));
                }
            }
            _ => primary.protocol.link_down(now, "unreachable"),
        }
    }

    /// Delivers the next thing on its way to a node. Returns whether there was one.
    pub(crate) fn deliver(&mut self, to: usize) -> bool {
        let was_up = self.outside.link.is_up(to);
        let Some(item) = self.outside.link.take(to) else { return false };
        let now = self.outside.now;
        match (&mut self.nodes[to].role, item) {
            _ if !was_up => {}
            (Role::Primary(primary), Item::Message(message)) => primary.protocol.receive(now, message),
            (Role::Primary(primary), Item::End) => primary.protocol.link_down(now, "closed"),
            (Role::Standby(standby), Item::Message(message)) => standby.protocol.receive(now, message),
            (Role::Standby(standby), Item::End) => standby.protocol.link_down(now, "closed"),
            (Role::Down, _) => {}
        }
        self.settle();
        true
    }

    /// Delivers one thing to either node.
    pub(crate) fn deliver_any(&mut self) -> bool {
        self.deliver(BETA) || self.deliver(ALPHA)
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.outside.now += time;
        let now = self.outside.now;
        for node in &mut self.nodes {
            match &mut node.role {
                Role::Primary(primary) => primary.protocol.timeout(now),
                Role::Standby(standby) => standby.protocol.timeout(now),
                Role::Down => {}
            }
        }
        self.settle();
        self.check_timeouts();
    }

    /// The link dies; neither end is told, and no other can be made until [`mend`](World::mend).
    pub(crate) fn cut_silently(&mut self) {
        self.outside.link.die();
        self.outside.link.network = false;
    }

    /// A node learns that its link is dead, if it is.
    pub(crate) fn notice(&mut self, node: usize) {
        let now = self.outside.now;
        if self.outside.link.notice(node) {
            match &mut self.nodes[node].role {
                Role::Primary(primary) => primary.protocol.link_down(now, "cut"),
                Role::Standby(standby) => standby.protocol.link_down(now, "cut"),
                Role::Down => {}
            }
        }
        self.settle();
    }

    /// The link is cut, and both ends know. The next dialling finds it mended.
    pub(crate) fn cut_link(&mut self) {
        self.cut_silently();
        [ALPHA, BETA].into_iter().for_each(|node| self.notice(node));
        self.mend();
    }

    pub(crate) fn mend(&mut self) {
        self.outside.link.network = true;
    }

    /// A node loses all it had in memory. If its whole host is gone, nothing of what it sent arrives and nobody is told.
    pub(crate) fn crash(&mut self, node: usize, whole_host: bool) {
        self.nodes[node].role = Role::Down;
        self.nodes[node].memory.fill(NOTHING);
        if whole_host {
            self.outside.link.die();
            self.outside.link.notice(node);
        } else {
            self.outside.link.close(node);
        }
        self.settle();
    }

    pub(crate) fn restart(&mut self, node: usize) {
        if self.is_down(node) {
            self.start_empty(node);
            self.settle();
        }
    }

    /// A node says goodbye and stops.
    pub(crate) fn leave(&mut self, node: usize) {
        let now = self.outside.now;
        match &mut self.nodes[node].role {
            Role::Primary(primary) => primary.protocol.leave(now, "stopped"),
            Role::Standby(standby) => standby.protocol.leave(now, "stopped"),
            Role::Down => {}
        }
        self.pump(node);
        self.crash(node, false);
    }

    /// Whether this host can load the guest from here on.
    pub(crate) fn set_fit(&mut self, node: usize, fit: bool) {
        self.nodes[node].fit = fit;
    }

    /// Somebody wants a checkpoint now.
    pub(crate) fn want_checkpoint(&mut self, node: usize) {
        if let Some(primary) = self.primary(node) {
            primary.wanted |= primary.protocol.phase() == Phase::Protected;
        }
        self.settle();
    }

    pub(crate) fn spoil_checkpoint(&mut self, node: usize) {
        let now = self.outside.now;
        if let Some(primary) = self.primary(node) {
            primary.spoil_checkpoint(now);
        }
        self.settle();
    }

    pub(crate) fn lose_page(&mut self, node: usize, number: u64) {
        let now = self.outside.now;
        let Node { role, memory, .. } = &mut self.nodes[node];
        if let Role::Primary(primary) = role {
            primary.lose_page(now, memory, number);
        }
        self.settle();
    }

    /// Begins a handover; with `promote` the standby is asked to be promoted. Returns whether that is possible.
    pub(crate) fn begin_handover(&mut self, node: usize, promote: bool) -> bool {
        let now = self.outside.now;
        let begun = self.primary(node).is_some_and(|primary| primary.begin_handover(now, promote));
        self.settle();
        begun
    }

    /// The cluster or an operator wants this node promoted. Returns whether the node can be.
    pub(crate) fn ask_promotion(&mut self, node: usize) -> bool {
        let now = self.outside.now;
        let asked = self.standby(node).is_some_and(|standby| standby.ask_promotion(now));
        self.settle();
        asked
    }

    /// The authority answers a node that has asked: a yes counts only if the record allows it.
    pub(crate) fn decide(&mut self, node: usize, grant: bool) {
        let now = self.outside.now;
        let Role::Standby(standby) = &mut self.nodes[node].role else { return };
        if !standby.deciding {
            return;
        }
        let image = standby.protocol.promotable().expect("what was frozen stays promotable");
        match grant.then(|| self.outside.grant(node, image)).flatten() {
            Some(generation) => self.promote(node, generation),
            None => standby.refuse(now, "the authority says no"),
        }
        self.settle();
    }

    fn promote(&mut self, node: usize, generation: Generation) {
        let Node { config, known, role, .. } = &mut self.nodes[node];
        let Role::Standby(standby) = std::mem::replace(role, Role::Down) else { return };
        let promoted = standby.protocol.promote(generation).expect("frozen, and told");
        promoted.farewell.into_iter().for_each(|message| self.outside.link.send(node, message));
        self.outside.link.close(node);
        let counter = u64::from_le_bytes(promoted.state.try_into().expect("eight bytes"));
        *known = generation;
        let mut primary = Primary::new(self.outside.now, config.clone(), generation, Some(promoted.image), counter);
        primary.open_gate(self.outside.now, ConsentReason::NamedAlone);
        *role = Role::Primary(Box::new(primary));
    }

    /// The primary at this node asks to go on alone.
    pub(crate) fn go_on_alone(&mut self, node: usize) {
        let Role::Primary(primary) = &mut self.nodes[node].role else { return };
        let gated = matches!(primary.protocol.phase(), Phase::Covering | Phase::Protected);
        if !gated && primary.handover.is_none() && self.outside.name_alone(primary.generation, node) {
            primary.open_gate(self.outside.now, ConsentReason::Operator);
        }
        self.settle();
    }
}
