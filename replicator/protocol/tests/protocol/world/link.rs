//! The link between the two nodes: messages in order, until it is closed at an end, or dies without a word.

use std::collections::VecDeque;

use kemari_protocol::{Decoder, Frame, Message};

/// What travels.
pub(crate) enum Item {
    Message(Message),
    /// The other end closed the link.
    End,
}

pub(crate) struct Link {
    /// Whether the network carries anything.
    pub(crate) network: bool,
    /// Whether each node has its end open, as far as it knows.
    up: [bool; 2],
    /// The link was cut, and at least one end may not know yet.
    dead: bool,
    /// What is on its way to each node.
    wires: [VecDeque<Item>; 2],
}

impl Link {
    pub(crate) fn new() -> Link {
        Link { network: true, up: [false; 2], dead: false, wires: [VecDeque::new(), VecDeque::new()] }
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.up[node]
    }

    /// Whether both ends are open and something can still pass between them.
    pub(crate) fn is_whole(&self) -> bool {
        self.up == [true; 2] && !self.dead
    }

    pub(crate) fn open(&mut self) {
        *self = Link { up: [true; 2], ..Link::new() };
    }

    pub(crate) fn send(&mut self, from: usize, message: Message) {
        if self.is_up(from) && !self.dead {
            self.wires[1 - from].push_back(Item::Message(message));
        }
    }

    /// Closes one end; what it has sent still arrives.
    pub(crate) fn close(&mut self, node: usize) {
        if std::mem::take(&mut self.up[node]) && !self.dead {
            self.wires[1 - node].push_back(Item::End);
        }
        self.wires[node].clear();
    }

    /// Everything on its way is lost, and neither end is told.
    pub(crate) fn die(&mut self) {
        self.wires.iter_mut().for_each(VecDeque::clear);
        self.dead = true;
    }

    /// Tells an end that the link is dead. Returns whether that was news.
    pub(crate) fn notice(&mut self, node: usize) -> bool {
        self.dead && std::mem::take(&mut self.up[node])
    }

    /// What is on its way to a node, to be spoilt.
    pub(crate) fn wire(&mut self, to: usize) -> &mut VecDeque<Item> {
        &mut self.wires[to]
    }

    /// The next thing to arrive at a node.
    pub(crate) fn take(&mut self, to: usize) -> Option<Item> {
        let item = self.wires[to].pop_front()?;
        if matches!(item, Item::End) {
            self.up[to] = false;
        }
        Some(match item {
            Item::Message(message) => Item::Message(through_codec(message)),
            Item::End => Item::End,
        })
    }
}

fn through_codec(message: Message) -> Message {
    let frame = Frame::encode(message);
    let (head, body) = frame.parts();
    let bytes = [head, body].concat();
    Decoder::new().feed(&mut &bytes[..]).expect("our own frame").expect("a whole one")
}
