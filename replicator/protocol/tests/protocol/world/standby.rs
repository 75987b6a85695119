//! A node that holds the image, as the daemon drives it.

use std::time::Instant;

use kemari_core::{Generation, PAGE_SIZE, PageRun};
use kemari_protocol::standby::{Event, Held, Standby as Protocol};
use kemari_protocol::{Chunk, Config};

use super::outside::Outside;
use super::page;

/// Who asked for a promotion.
enum Asked {
    Operator,
    Primary,
}

pub(crate) struct Standby {
    pub(crate) protocol: Protocol,
    /// It is frozen, and the authority was asked.
    pub(crate) deciding: bool,
    /// Whether this host has loaded what it holds, or an earlier checkpoint of it.
    pub(crate) loaded: bool,
    /// Resyncs in place that have begun here.
    pub(crate) voids: usize,
    /// Promotions that the primary has asked for.
    pub(crate) requests: usize,
    asked: Option<Asked>,
    nonce: u64,
    /// What the protocol has told that changes nothing here.
    pub(crate) news: Vec<String>,
}

impl Standby {
    pub(crate) fn new(config: Config, known: Generation, held: Option<Held>) -> Standby {
        Standby {
            loaded: held.is_some(),
            protocol: Protocol::new(config, Some(known), held).expect("a good configuration"),
            deciding: false,
            voids: 0,
            requests: 0,
            asked: None,
            nonce: 0,
            news: Vec::new(),
        }
    }

    /// An operator, or the cluster, wants this node promoted. Returns whether it can be.
    pub(crate) fn ask_promotion(&mut self, now: Instant) -> bool {
        self.nonce += 1;
        let possible = self.protocol.freeze(now, self.nonce).is_ok();
        if possible {
            self.asked = Some(Asked::Operator);
        }
        possible
    }

    /// There will be no promotion.
    pub(crate) fn refuse(&mut self, now: Instant, reason: &str) {
        self.deciding = false;
        match self.asked.take() {
            Some(Asked::Primary) => self.protocol.refuse_promotion(now, reason),
            Some(Asked::Operator) | None => self.protocol.unfreeze(now),
        }
    }

    /// Does everything there is to do.
    pub(crate) fn pump(
        &mut self,
        node: usize,
        memory: &mut [u64],
        known: &mut Generation,
        fit: bool,
        outside: &mut Outside,
    ) {
        while let Some(event) = self.protocol.event() {
            match event {
                Event::AdoptGeneration(generation) => {
                    *known = generation;
                    self.protocol.adopted(outside.now, generation);
                }
                Event::Write(chunk) => write(memory, &chunk),
                Event::Commit { chunks, .. } => chunks.iter().for_each(|chunk| write(memory, chunk)),
                Event::Rehearse => {
                    self.loaded = fit;
                    let result = if fit { Ok(()) } else { Err("an MSR was refused".to_owned()) };
                    self.protocol.rehearsed(outside.now, result);
                }
                Event::PageWanted { page } => {
                    let run = PageRun { first: page, count: 1 };
                    let content = self::page(memory[page as usize]);
                    self.protocol.give_page(Chunk::new(vec![run], content).expect("one page"));
                }
                Event::Close => {
                    self.transmit(node, outside);
                    outside.link.close(node);
                }
                other => self.act(other, outside),
            }
        }
        self.transmit(node, outside);
    }

    fn act(&mut self, event: Event, outside: &Outside) {
        let now = outside.now;
        match event {
            Event::Void => {
                self.voids += 1;
                self.loaded = false;
            }
            Event::Frozen => self.deciding = true,
            Event::FreezeRefused { reason } => {
                self.refuse(now, &reason);
                self.news.push(format!("freeze refused: {reason}"));
            }
            Event::PromoteRequested { .. } => self.primary_yields(now),
            Event::PeerLost { reason } => {
                outside.hear_accusation(&reason);
                self.news.push(format!("lost: {reason}"));
            }
            Event::Refused { reason } => self.news.push(format!("refused: {reason}")),
            _ => {}
        }
    }

    fn primary_yields(&mut self, now: Instant) {
        self.requests += 1;
        self.nonce += 1;
        match self.protocol.freeze(now, self.nonce) {
            Ok(()) => {
                self.asked.get_or_insert(Asked::Primary);
            }
            Err(error) => self.protocol.refuse_promotion(now, &error.to_string()),
        }
    }

    fn transmit(&mut self, node: usize, outside: &mut Outside) {
        while let Some(message) = self.protocol.transmit(outside.now) {
            outside.link.send(node, message);
        }
    }
}

fn write(memory: &mut [u64], chunk: &Chunk) {
    for (run, content) in chunk.contents() {
        for (number, bytes) in (run.first..).zip(content.chunks(PAGE_SIZE)) {
            memory[number as usize] = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        }
    }
}
