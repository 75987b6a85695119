//! A node whose guest runs, as the daemon drives it.

use std::time::{Duration, Instant};

use kemari_core::{Consent, ConsentReason, Epoch, Gate, Generation, Image, PageRun, PageSet, Released, Weigh};
use kemari_protocol::primary::{Checkpoint, Event, Phase, Primary as Protocol};
use kemari_protocol::standby::Held;
use kemari_protocol::{Chunk, ChunkError, Config, Gathered};

use super::outside::{Cut, Outside};
use super::page;

/// After this a handover is given up.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);

/// What the guest said: its counter at that moment.
pub(crate) struct Said(u64);

impl Weigh for Said {
    fn weight_bytes(&self) -> usize {
        8
    }
}

pub(crate) struct Handover {
    promote: bool,
    begun: Instant,
    stage: Stage,
}

enum Stage {
    Draining,
    Final { epoch: Epoch, state: Vec<u8> },
    Yielded(Held),
}

/// Why this node is not the primary any more.
pub(crate) enum Ended {
    Demoted { held: Option<Held>, successor: Option<Generation> },
    Superseded(Generation),
}

pub(crate) struct Primary {
    pub(crate) protocol: Protocol,
    pub(crate) generation: Generation,
    pub(crate) gate: Gate<Said>,
    pub(crate) counter: u64,
    pub(crate) running: bool,
    pub(crate) handover: Option<Handover>,
    pub(crate) wanted: bool,
    pub(crate) dialling: bool,
    /// A page whose content is asked for, with what it had, while the guest stands still.
    lost: Option<(u64, u64)>,
    /// What the protocol has told that changes nothing here.
    pub(crate) news: Vec<String>,
    dirty: PageSet,
}

impl Primary {
    pub(crate) fn new(
        now: Instant,
        config: Config,
        generation: Generation,
        base: Option<Image>,
        counter: u64,
    ) -> Primary {
        let pages = config.pages;
        Primary {
            protocol: Protocol::new(now, config, generation, base, PageSet::empty(pages))
                .expect("a good configuration"),
            generation,
            gate: Gate::new(generation, Epoch::FIRST, 1 << 20),
            counter,
            running: true,
            handover: None,
            wanted: false,
            dialling: false,
            lost: None,
            news: Vec::new(),
            dirty: PageSet::empty(pages),
        }
    }

    /// The gate opens: the record names this node alone.
    pub(crate) fn open_gate(&mut self, now: Instant, reason: ConsentReason) {
        self.gate.open(Consent::recorded(self.generation, reason)).expect("of this gate");
        self.protocol.gate_opened(now);
    }

    /// The guest writes a page, and says so if it `speaks`.
    pub(crate) fn guest(&mut self, memory: &mut [u64], speaks: bool) {
        if !self.running {
            return;
        }
        self.counter += 1;
        let page = self.counter % self.dirty.size();
        memory[page as usize] = self.counter;
        self.dirty.insert(page);
        if speaks {
            self.gate.hold(Said(self.counter));
        }
    }

    /// A checkpoint that fails after the dirty log was read.
    pub(crate) fn spoil_checkpoint(&mut self, now: Instant) {
        if self.protocol.may_checkpoint() && self.handover.is_none() {
            self.gate.seal();
            let mut pages = self.harvest();
            self.protocol.begin_checkpoint(&mut pages);
            self.protocol.harvested(now, &pages);
        }
    }

    /// The hardware loses a page. What cannot be had back ends a node; that is [`World::crash`].
    pub(crate) fn lose_page(&mut self, now: Instant, memory: &[u64], number: u64) {
        if !self.running || self.lost.is_some() {
            return;
        }
        let pages = self.harvest();
        self.protocol.harvested(now, &pages);
        if self.protocol.ask_for_page(number) {
            self.running = false;
            self.lost = Some((number, memory[number as usize]));
        }
    }

    fn page_back(&mut self, chunk: &Chunk) {
        let (number, content) = self.lost.take().expect("asked for");
        assert_eq!(chunk.runs(), [PageRun { first: number, count: 1 }]);
        assert_eq!(chunk.data(), page(content), "page {number} is not what was lost");
        self.running = true;
    }

    pub(crate) fn begin_handover(&mut self, now: Instant, promote: bool) -> bool {
        let may = self.handover.is_none() && self.lost.is_none() && self.protocol.phase() == Phase::Protected;
        if may {
            self.running = false;
            self.handover = Some(Handover { promote, begun: now, stage: Stage::Draining });
        }
        may
    }

    pub(crate) fn has_yielded(&self) -> bool {
        matches!(&self.handover, Some(Handover { stage: Stage::Yielded(_), .. }))
    }

    /// Does everything there is to do.
    pub(crate) fn pump(&mut self, node: usize, memory: &[u64], outside: &mut Outside) -> Option<Ended> {
        self.protocol.precopy(outside.now, |run, into| copy(memory, run, into)).expect("pages of the guest");
        loop {
            while let Some(event) = self.protocol.event() {
                let ended = self.act(node, event, outside);
                if ended.is_some() {
                    self.transmit(node, outside);
                    return ended;
                }
            }
            while let Some(Said(counter)) = self.gate.next_released().map(Released::into_inner) {
                outside.show(self.generation, counter);
            }
            if !self.cut_if_due(memory, outside) {
                break;
            }
        }
        self.transmit(node, outside);
        self.end_late_handover(outside.now)
    }

    fn harvest(&mut self) -> PageSet {
        let pages = self.dirty.size();
        std::mem::replace(&mut self.dirty, PageSet::empty(pages))
    }

    fn transmit(&mut self, node: usize, outside: &mut Outside) {
        while let Some(message) = self.protocol.transmit(outside.now) {
            outside.link.send(node, message);
        }
    }

    fn act(&mut self, node: usize, event: Event, outside: &mut Outside) -> Option<Ended> {
        match event {
            Event::Dial => self.dialling = true,
            Event::Close => {
                self.transmit(node, outside);
                outside.link.close(node);
            }
            Event::Harvest => {
                let pages = self.harvest();
                self.protocol.harvested(outside.now, &pages);
            }
            Event::CheckpointWanted => self.wanted = true,
            Event::Committed(proof) => {
                outside.acknowledge(proof.image());
                if self.is_final(proof.image()) {
                    return self.yield_to_peer(outside.now, proof.image());
                }
                self.gate.commit(&proof).expect("of this gate");
            }
            Event::InSync => {
                self.gate.close();
                self.protocol.gate_closed(outside.now);
            }
            Event::Protected => outside.name_both(self.generation),
            Event::PeerLost { reason, .. } => {
                outside.hear_accusation(&reason);
                self.abandon_handover();
                self.news.push(format!("lost: {reason}"));
            }
            Event::PeerLeft { .. } => self.abandon_handover(),
            Event::Refused { reason } => {
                self.abandon_handover();
                self.news.push(format!("refused: {reason}"));
            }
            Event::Superseded { generation } => return Some(Ended::Superseded(generation)),
            Event::PageBack(chunk) => self.page_back(&chunk),
            Event::HandoverDone { generation } => return Some(self.handed_over(Some(generation))),
            Event::HandoverFailed { .. } => return Some(self.handed_over(None)),
        }
        None
    }

    fn cut_if_due(&mut self, memory: &[u64], outside: &mut Outside) -> bool {
        if !self.protocol.may_checkpoint() || self.lost.is_some() {
            return false;
        }
        match &mut self.handover {
            None if self.wanted || self.gate.awaits_checkpoint() => {
                self.cut(memory, outside, false);
                true
            }
            Some(Handover { stage: Stage::Draining, .. }) if self.protocol.in_flight() == 0 => {
                let (epoch, state) = self.cut(memory, outside, true);
                if let Some(handover) = &mut self.handover {
                    handover.stage = Stage::Final { epoch, state };
                }
                true
            }
            _ => false,
        }
    }

    fn cut(&mut self, memory: &[u64], outside: &mut Outside, last: bool) -> (Epoch, Vec<u8>) {
        let epoch = self.gate.seal();
        let mut pages = self.harvest();
        self.protocol.begin_checkpoint(&mut pages);
        let gathered = Gathered::copy(&pages, |run, into| copy(memory, run, into)).expect("pages of the guest");
        let chunks = gathered.into_chunks().expect("as many bytes as the pages have");
        let state = self.counter.to_le_bytes().to_vec();
        outside.remember(self.generation, epoch, Cut { counter: self.counter, memory: memory.to_vec() });
        let checkpoint = Checkpoint { epoch, state: state.clone(), chunks, last };
        self.protocol.send_checkpoint(outside.now, checkpoint).expect("asked before");
        self.wanted = false;
        (epoch, state)
    }

    fn is_final(&self, image: Image) -> bool {
        matches!(&self.handover, Some(Handover { stage: Stage::Final { epoch, .. }, .. }) if *epoch == image.epoch)
    }

    fn yield_to_peer(&mut self, now: Instant, image: Image) -> Option<Ended> {
        let Some(Handover { promote, begun, stage: Stage::Final { state, .. } }) = self.handover.take() else {
            return None;
        };
        self.protocol.yield_to_peer(now, promote).expect("final and committed");
        let held = Held { image, state, rehearsed: true };
        self.handover = Some(Handover { promote, begun, stage: Stage::Yielded(held) });
        if promote { None } else { Some(self.handed_over(None)) }
    }

    fn handed_over(&mut self, successor: Option<Generation>) -> Ended {
        match self.handover.take() {
            Some(Handover { stage: Stage::Yielded(held), .. }) => Ended::Demoted { held: Some(held), successor },
            _ => Ended::Demoted { held: None, successor },
        }
    }

    /// Before this side has yielded, the guest goes on here.
    fn abandon_handover(&mut self) {
        if self.handover.take_if(|handover| !matches!(handover.stage, Stage::Yielded(_))).is_some() {
            self.running = true;
        }
        if self.lost.take().is_some() {
            self.running = true;
        }
    }

    fn end_late_handover(&mut self, now: Instant) -> Option<Ended> {
        if self.handover.as_ref()?.begun + HANDOVER_LIMIT > now {
            return None;
        }
        self.abandon_handover();
        self.has_yielded().then(|| self.handed_over(None))
    }
}

fn copy(memory: &[u64], run: PageRun, into: &mut Vec<u8>) -> Result<(), ChunkError> {
    (run.first..run.first + run.count).for_each(|number| into.extend(page(memory[number as usize])));
    Ok(())
}
