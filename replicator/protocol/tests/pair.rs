//! A primary and a standby over a model link, stepped one message at a time: whatever is cut, and wherever, the standby's image
//! is a whole checkpoint, and nothing was released that it does not cover.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kemari_core::{Epoch, Gate, Generation, Image, PAGE_SIZE, PageSet, Weigh};
use kemari_protocol::primary::{self, Checkpoint, Phase, Primary};
use kemari_protocol::standby::{self, Held, Standby};
use kemari_protocol::{Chunk, ChunkError, Config, Decoder, Frame, Gathered, Identity, Message};

const PAGES: u64 = 8;
const OLD: Generation = Generation { number: 1, id: 11 };
const SERVED: Generation = Generation { number: 2, id: 22 };

/// What the guest said: its counter at that moment.
struct Said(u64);

impl Weigh for Said {
    fn weight_bytes(&self) -> usize {
        8
    }
}

fn config(node: &str, memory: &str) -> Config {
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

/// The two nodes, the guest, the standby's memory, and the messages between them.
struct Pair {
    now: Instant,
    primary: Primary,
    standby: Option<Standby>,
    gate: Gate<Said>,
    counter: u64,
    memory: Vec<u64>,
    dirty: PageSet,
    copy: Vec<u64>,
    wanted: bool,
    linked: bool,
    down: VecDeque<Message>,
    up: VecDeque<Message>,
    released: u64,
    unprotected: bool,
    voids: usize,
    cut: Vec<(Image, u64, Vec<u64>)>,
    frozen: bool,
    requested: bool,
    done: Vec<String>,
}

impl Pair {
    fn new() -> Pair {
        Pair::of(config("alpha", "1"), config("beta", "1"))
    }

    fn of(alpha: Config, beta: Config) -> Pair {
        let now = Instant::now();
        Pair {
            now,
            primary: Primary::new(now, alpha, SERVED, None, PageSet::empty(PAGES)).expect("a good configuration"),
            standby: Some(Standby::new(beta, Some(OLD), None::<Held>).expect("a good configuration")),
            gate: Gate::new(SERVED, Epoch::FIRST, 1 << 20),
            counter: 0,
            memory: vec![0; PAGES as usize],
            dirty: PageSet::empty(PAGES),
            copy: vec![u64::MAX; PAGES as usize],
            wanted: false,
            linked: false,
            down: VecDeque::new(),
            up: VecDeque::new(),
            released: 0,
            unprotected: false,
            voids: 0,
            cut: Vec::new(),
            frozen: false,
            requested: false,
            done: Vec::new(),
        }
    }

    fn standby(&mut self) -> &mut Standby {
        self.standby.as_mut().expect("not promoted")
    }

    /// The guest writes a page and says so.
    fn guest(&mut self) {
        self.counter += 1;
        let page = self.counter % PAGES;
        self.memory[page as usize] = self.counter;
        self.dirty.insert(page);
        self.gate.hold(Said(self.counter));
    }

    fn checkpoint(&mut self, last: bool) {
        let epoch = self.gate.seal();
        let mut pages = std::mem::replace(&mut self.dirty, PageSet::empty(PAGES));
        self.primary.begin_checkpoint(&mut pages);
        let memory = &self.memory;
        let chunks = Gathered::copy(&pages, |run, into| {
            (run.first..run.first + run.count).for_each(|number| into.extend(page(memory[number as usize])));
            Ok::<(), ChunkError>(())
        })
        .and_then(Gathered::into_chunks);
        let state = self.counter.to_le_bytes().to_vec();
        let checkpoint = Checkpoint { epoch, state, chunks: chunks.expect("pages of the guest"), last };
        self.primary.send_checkpoint(self.now, checkpoint).expect("asked before");
        self.wanted = false;
    }

    /// Both act on their events and say what they have to say, without delivering anything.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(event) = self.primary.event() {
                self.act_primary(event);
                quiet = false;
            }
            if self.primary.wants_precopy() {
                let memory = &self.memory;
                self.primary
                    .precopy(self.now, |run, into| {
                        (run.first..run.first + run.count)
                            .for_each(|number| into.extend(page(memory[number as usize])));
                        Ok::<(), ChunkError>(())
                    })
                    .expect("pages of the guest");
                quiet = false;
            }
            if self.primary.may_checkpoint() && (self.wanted || self.gate.awaits_checkpoint()) {
                self.checkpoint(false);
                quiet = false;
            }
            while let Some(event) = self.standby.as_mut().and_then(Standby::event) {
                self.act_standby(event);
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        while let Some(Said(counter)) = self.gate.next_released().map(kemari_core::Released::into_inner) {
            self.released = self.released.max(counter);
        }
        while let Some(message) = self.primary.transmit(self.now) {
            self.note_cut(&message);
            self.down.push_back(message);
        }
        while let Some(message) = self.standby.as_mut().and_then(|standby| standby.transmit(self.now)) {
            self.up.push_back(message);
        }
        self.check();
    }

    fn note_cut(&mut self, message: &Message) {
        if let Message::Manifest(manifest) = message {
            self.cut.push((manifest.image, self.counter, self.memory.clone()));
        }
    }

    fn act_primary(&mut self, event: primary::Event) {
        match event {
            primary::Event::Dial => {
                (self.linked, self.unprotected) = (true, false);
                self.down.clear();
                self.up.clear();
                self.primary.link_up(self.now);
                let now = self.now;
                self.standby().link_up(now);
            }
            primary::Event::Harvest => {
                let pages = std::mem::replace(&mut self.dirty, PageSet::empty(PAGES));
                self.primary.harvested(self.now, &pages);
            }
            primary::Event::CheckpointWanted => self.wanted = true,
            primary::Event::Committed(proof) => self.gate.commit(&proof).expect("of this gate"),
            primary::Event::InSync => self.primary.gate_closed(self.now),
            primary::Event::Close | primary::Event::Protected => {}
            other => self.done.push(format!("{other:?}")),
        }
    }

    fn act_standby(&mut self, event: standby::Event) {
        let now = self.now;
        match event {
            standby::Event::AdoptGeneration(generation) => self.standby().adopted(now, generation),
            standby::Event::Void => self.voids += 1,
            standby::Event::Write(chunk) => self.write(&chunk),
            standby::Event::Commit { chunks, .. } => chunks.iter().for_each(|chunk| self.write(chunk)),
            standby::Event::Rehearse => self.standby().rehearsed(now, Ok(())),
            standby::Event::Frozen => self.frozen = true,
            standby::Event::PromoteRequested { .. } => self.requested = true,
            standby::Event::Close => {}
            other => self.done.push(format!("{other:?}")),
        }
    }

    fn write(&mut self, chunk: &Chunk) {
        for (run, content) in chunk.contents() {
            for (number, bytes) in (run.first..).zip(content.chunks(PAGE_SIZE)) {
                self.copy[number as usize] = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            }
        }
    }

    /// What must hold at any time: what could be promoted is a whole checkpoint, and covers everything released.
    fn check(&mut self) {
        let Some(standby) = &self.standby else { return };
        let Ok(image) = standby.promotable() else {
            assert_eq!(self.released, 0, "released, and nobody could go on from there");
            return;
        };
        let (_, counter, memory) = self.cut.iter().find(|(cut, ..)| *cut == image).expect("an image that was cut");
        assert_eq!(&self.copy, memory, "a torn image");
        assert_eq!(standby.state(), Some(&counter.to_le_bytes()[..]));
        assert!(self.released <= *counter, "{} was released, {counter} is held", self.released);
    }

    /// Delivers the next message, through the codec. Returns whether there was one.
    fn deliver(&mut self) -> bool {
        let (message, to_standby) = match (self.down.pop_front(), self.up.is_empty()) {
            (Some(message), _) => (message, true),
            (None, false) => (self.up.pop_front().expect("not empty"), false),
            (None, true) => return false,
        };
        let frame = Frame::encode(message);
        let (head, body) = frame.parts();
        let bytes = [head, body].concat();
        let message = Decoder::new().feed(&mut &bytes[..]).expect("our own frame").expect("a whole one");
        let now = self.now;
        if to_standby {
            self.standby().receive(now, message);
        } else {
            self.primary.receive(now, message);
        }
        self.settle();
        true
    }

    fn cut_link(&mut self) {
        self.down.clear();
        self.up.clear();
        let now = self.now;
        self.primary.link_down(now, "cut");
        self.standby().link_down(now, "cut");
        self.linked = false;
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.primary.timeout(now);
        if let Some(standby) = &mut self.standby {
            standby.timeout(now);
        }
        self.settle();
    }

    /// Runs for so many deliveries, with a guest that goes on all the time.
    fn run(&mut self, steps: usize) {
        for step in 0..steps {
            if step % 3 == 0 {
                self.guest();
            }
            self.settle();
            if !self.deliver() {
                self.pass(Duration::from_millis(100));
            }
        }
    }

    fn until_protected(&mut self) {
        for _ in 0..200 {
            if self.primary.phase() == Phase::Protected {
                return;
            }
            self.run(1);
        }
        panic!("never protected: {:?} {:?}", self.primary.phase(), self.done);
    }

    /// The primary is gone: the standby is promoted, if it can be, and goes on from what it holds.
    fn fail_over(mut self) {
        self.down.clear();
        let now = self.now;
        self.standby().link_down(now, "reset by peer");
        match self.standby().freeze(now, 1) {
            Ok(()) => {}
            Err(_) => return assert_eq!(self.released, 0),
        }
        self.settle();
        assert!(self.frozen);
        let promoted = self.standby.take().expect("there").promote(SERVED.next(33)).expect("frozen");
        let counter = u64::from_le_bytes(promoted.state.try_into().expect("eight bytes"));
        assert!(self.released <= counter, "{} was shown, memory is of {counter}", self.released);
    }
}

#[test]
fn a_primary_that_dies_at_any_step_is_followed_without_loss() {
    let mut shown = 0;
    for steps in 0..120 {
        let mut pair = Pair::new();
        pair.settle();
        pair.run(steps);
        shown = shown.max(pair.released);
        pair.fail_over();
    }
    assert!(shown > 5, "the guest never got to say anything");
}

#[test]
fn a_link_cut_at_any_step_comes_back_without_sending_everything_again() {
    for steps in 0..90 {
        let mut pair = Pair::new();
        pair.settle();
        pair.until_protected();
        let voids = pair.voids;
        pair.run(steps);
        pair.cut_link();
        let shown = pair.released;
        pair.guest();
        pair.settle();
        assert_eq!(pair.released, shown, "output left without a standby");
        pair.pass(Duration::from_secs(1));
        pair.until_protected();
        pair.run(20);
        assert_eq!(pair.voids, voids, "a full resync after {steps} steps");
        assert!(pair.released > shown, "nothing left after the link came back");
        pair.fail_over();
    }
}

#[test]
fn a_cut_during_the_first_resync_begins_it_anew() {
    for steps in 0..25 {
        let mut pair = Pair::new();
        pair.settle();
        pair.run(steps);
        pair.cut_link();
        pair.pass(Duration::from_secs(1));
        pair.until_protected();
        pair.run(20);
        pair.fail_over();
    }
}

#[test]
fn a_silent_standby_is_given_up_and_output_stays_held() {
    let mut pair = Pair::new();
    pair.settle();
    pair.until_protected();
    let shown = pair.released;
    pair.guest();
    pair.settle();
    (0..6).for_each(|_| {
        pair.down.clear();
        pair.up.clear();
        pair.now += Duration::from_millis(100);
        pair.primary.timeout(pair.now);
        while let Some(event) = pair.primary.event() {
            pair.act_primary(event);
        }
    });
    assert!(pair.done.iter().any(|event| event.contains("PeerLost")), "{:?}", pair.done);
    assert_eq!(pair.released, shown);
}

#[test]
fn a_living_primary_keeps_the_standby_from_being_promoted() {
    let mut pair = Pair::new();
    pair.settle();
    pair.until_protected();
    let now = pair.now;
    pair.standby().freeze(now, 7).expect("in sync");
    pair.settle();
    pair.run(30);
    assert!(!pair.frozen);
    assert!(pair.done.iter().any(|event| event.contains("FreezeRefused")), "{:?}", pair.done);
    let shown = pair.released;
    pair.run(30);
    assert!(pair.released > shown, "the freeze did not end");
}

#[test]
fn a_handover_asks_for_promotion_and_is_answered() {
    let mut pair = Pair::new();
    pair.settle();
    pair.until_protected();
    while pair.primary.status().in_flight > 0 {
        pair.deliver();
    }
    pair.checkpoint(true);
    pair.settle();
    while pair.deliver() {}
    pair.primary.yield_to_peer(pair.now, true).expect("final and committed");
    pair.settle();
    while pair.deliver() {}
    assert!(pair.requested);
    let now = pair.now;
    pair.standby().freeze(now, 1).expect("in sync");
    pair.settle();
    assert!(pair.frozen, "a demoted primary needs no probe");
    let promoted = pair.standby.take().expect("there").promote(SERVED.next(33)).expect("frozen");
    promoted.farewell.into_iter().for_each(|message| pair.primary.receive(now, message));
    pair.settle();
    assert!(pair.done.iter().any(|event| event.contains("HandoverDone")), "{:?}", pair.done);
}

#[test]
fn differences_are_refused_by_name() {
    let mut pair = Pair::of(config("alpha", "64"), config("beta", "128"));
    pair.pass(Duration::ZERO);
    while pair.deliver() {}
    let said = pair.done.join(" ");
    assert!(said.contains("memory_mib: alpha has 64, beta has 128"), "{said}");
}

#[test]
fn an_older_generation_is_superseded() {
    let mut pair = Pair::new();
    let newer = SERVED.next(99);
    pair.standby = Some(Standby::new(config("beta", "1"), Some(newer), None::<Held>).expect("good"));
    pair.pass(Duration::ZERO);
    while pair.deliver() {}
    assert_eq!(pair.primary.phase(), Phase::Superseded);
    assert!(pair.done.iter().any(|event| event.contains("Superseded")), "{:?}", pair.done);
}
