//! virtio-net (virtio 1.2, section 5.1) on a tap.
//!
//! A frame the guest sends is copied when it is taken and becomes [`Output`]; its chain is given back only when the frame is on the
//! tap, so the chains taken *are* the held frames, and a standby that takes over sends them again.
//!
//! Checksums and segments may be left open on the way between guest and host; see [`offload`].

mod announce;
mod device;
mod door;
mod offload;
mod tap;
#[cfg(test)]
mod tests;

pub(crate) use device::KIND;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_ERR, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_OK, VIRTIO_NET_S_ANNOUNCE,
    VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::eventfd::EventFd;

use crate::output::Payload;
use crate::virtio::{Chain, Model, Segment, Ticket, Transport, gather, length, scatter};
use crate::{DeviceId, Memory, Output};
pub use door::{NetError, NetOptions, NetStats};
use offload::Offloads;
pub use tap::is_tap_name;
use tap::{Hearing, Tap};

const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// Index of the tap among the sources; those of the queues go before.
const TAP: u8 = QUEUE_SIZES.len() as u8;

/// `virtio_net_hdr_v1`: leads every frame in the queues and, by IFF_VNET_HDR, on the tap.
const HEADER_BYTES: usize = 12;
/// Where the header has the number of buffers of a received frame.
const HEADER_BUFFERS: std::ops::Range<usize> = 10..12;
/// An Ethernet header and the longest packet that an interface's MTU allows.
const FRAME_BYTES_MAX: usize = 14 + 65535;
/// Bits of the link's status.
const LINK_UP: u16 = VIRTIO_NET_S_LINK_UP as u16;
const LINK_ANNOUNCE: u16 = VIRTIO_NET_S_ANNOUNCE as u16;
/// Where the configuration has the link's status.
const CONFIG_STATUS: std::ops::Range<usize> = 6..8;
/// No frame may be on its way for as long as TCP takes for granted that none is (the MSL of RFC 9293, two minutes).
const LISTENING_LIMIT: Duration = Duration::from_mins(1);
/// Frames received before the event loop gets its turn again.
const RECEIVE_BATCH: usize = 128;

/// A frame that leaves the guest, led by its header.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// The chain to give back once it is on the tap; `None` for an announcement of ours.
    ticket: Option<Ticket>,
    history: u64,
}

/// A network card of the guest.
pub struct Net {
    id: DeviceId,
    mac: [u8; 6],
    tap: Tap,
    transport: Arc<Transport>,
    started: bool,
    backpressure: bool,
    /// Grows with each load: output of an earlier history is never performed.
    history: u64,
    /// Whether the tap may have something to read: it is edge-triggered, and left unread while the guest has no buffers.
    tap_readable: bool,
    /// What the tap was told that it may leave to the driver.
    offloads: Offloads,
    /// Bytes of a frame in `buffer` for which the guest has had too few buffers.
    waiting: Option<usize>,
    /// Since when the stopped card listens.
    listening: Option<Instant>,
    /// Released frames for which the tap has had no room, or that were released to a stopped card, oldest first. With a queue's
    /// worth of them nothing more is taken, so they are bounded by that and by what the gate holds.
    unsent: VecDeque<Frame>,
    /// The configuration's status field.
    link: u16,
    /// Whether the guest is owed an interrupt.
    owes_interrupt: bool,
    chain: Chain,
    buffer: Box<[u8]>,
    stats: NetStats,
}

impl Net {
    /// Opens the tap and makes the card, stopped. Until it is started the tap drops what arrives.
    /// `irq` is the irqfd of its interrupt line.
    ///
    /// # Errors
    /// The tap does not exist, is in use, or cannot be opened.
    pub fn new(id: DeviceId, memory: Memory, irq: EventFd, options: &NetOptions) -> Result<Net, NetError> {
        let tap = Tap::open(&options.tap)?;
        Net::on(tap, id, memory, irq, options.mac).map_err(|source| NetError::EventFd { source })
    }

    /// Opens the tap as [`new`](Net::new) would, and makes nothing of it.
    ///
    /// # Errors
    /// As `new`.
    pub fn check(tap: &str) -> Result<(), NetError> {
        Tap::open(tap).map(drop)
    }

    fn on(tap: Tap, id: DeviceId, memory: Memory, irq: EventFd, mac: [u8; 6]) -> io::Result<Net> {
        let model = Model {
            name: format!("net {}", tap.name()),
            device_type: VIRTIO_ID_NET,
            features: 1 << VIRTIO_NET_F_MAC
                | 1 << VIRTIO_NET_F_STATUS
                | 1 << VIRTIO_NET_F_CTRL_VQ
                | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE
                | offload::FEATURES,
            queue_sizes: &QUEUE_SIZES,
            config: [&mac[..], &LINK_UP.to_le_bytes()].concat(),
        };
        Ok(Net {
            id,
            mac,
            tap,
            transport: Arc::new(Transport::new(model, memory, irq)?),
            started: false,
            backpressure: false,
            history: 0,
            tap_readable: false,
            offloads: Offloads::default(),
            waiting: None,
            listening: None,
            unsent: VecDeque::new(),
            link: LINK_UP,
            owes_interrupt: false,
            chain: Chain::default(),
            buffer: vec![0; HEADER_BYTES + FRAME_BYTES_MAX].into_boxed_slice(),
            stats: NetStats::default(),
        })
    }

    /// Tells the network where the guest is now (RARP), and the guest to tell it, too (gratuitous ARP). The frame is output
    /// like any other. To be called after `start`.
    pub fn announce(&mut self, outputs: &mut Vec<Output>) {
        let frame = Frame { bytes: announce::rarp(self.mac), ticket: None, history: self.history };
        outputs.push(Output::new(self.id, Payload::Frame(frame)));
        if self.transport.session().is_some_and(|session| session.negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE)) {
            self.set_link(LINK_UP | LINK_ANNOUNCE);
            self.transport.interrupt_configuration();
        }
    }

    /// Whether the stopped card keeps what comes for the guest, until it is started: it may be that nobody else hears it. What
    /// is kept for longer than a minute is not given to the guest. A load ends it.
    pub fn set_listening(&mut self, listening: bool) {
        if self.started || listening == self.listening.is_some() {
            return;
        }
        self.listening = listening.then(Instant::now);
        if listening {
            self.tap.drain();
        }
        self.hear(if listening { Hearing::Only(self.mac) } else { Hearing::Nothing });
    }

    fn hear(&self, what: Hearing) {
        if let Err(error) = self.tap.hear(what) {
            log::error!("{}: what the tap is to hear cannot be set: {error}", self.transport.name());
        }
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        NetStats { held_frames: self.transport.taken(TX) as u64, ..self.stats }
    }

    fn set_link(&mut self, status: u16) {
        self.link = status;
        self.transport.configure(|config| config[CONFIG_STATUS].copy_from_slice(&status.to_le_bytes()));
    }

    /// Copies what the guest wants to send: no more at once than fits its queue, so that a guest that fills the queue as fast as
    /// it is emptied does not keep the event loop.
    fn take_frames(&mut self, outputs: &mut Vec<Output>) {
        for _ in 0..QUEUE_SIZES[TX] {
            if !self.started || self.backpressure || self.unsent.len() >= usize::from(QUEUE_SIZES[TX]) {
                return;
            }
            let Some(mut session) = self.transport.session() else { return };
            let Some(ticket) = session.take(TX, &mut self.chain) else { return };
            let bytes = length(&self.chain.readable);
            let mut frame = Vec::new();
            if (HEADER_BYTES + 1..=HEADER_BYTES + FRAME_BYTES_MAX).contains(&bytes) {
                frame.resize(bytes, 0);
            }
            if frame.is_empty() || gather(session.memory(), &self.chain.readable, 0, &mut frame).is_err() {
                self.stats.send_errors += 1;
                self.owes_interrupt |= session.finish(ticket, 0);
                continue;
            }
            Offloads::agreed(&session).restrict_sent(&mut frame[..HEADER_BYTES]);
            let frame = Frame { bytes: frame, ticket: Some(ticket), history: self.history };
            outputs.push(Output::new(self.id, Payload::Frame(frame)));
        }
        self.transport.kick(TX);
    }

    /// Writes released frames to the tap, in order, for as long as it has room.
    fn send(&mut self) {
        while self.started
            && let Some(frame) = self.unsent.front()
        {
            match self.tap.write(&frame.bytes) {
                Ok(()) => {
                    self.stats.sent_frames += 1;
                    self.stats.sent_bytes += (frame.bytes.len() - HEADER_BYTES) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // As on a real wire without a link: the frame is lost.
                Err(error) => {
                    log::debug!("{}: frame dropped: {error}", self.transport.name());
                    self.stats.send_errors += 1;
                }
            }
            if let Some(ticket) = frame.ticket
                && let Some(mut session) = self.transport.session()
            {
                self.owes_interrupt |= session.finish(ticket, 0);
            }
            self.unsent.pop_front();
        }
    }

    /// Tells the tap what the driver has agreed to do itself, if that is something else than before.
    fn agree(&mut self) {
        let agreed = self.transport.session().map_or(Offloads::default(), |session| Offloads::agreed(&session));
        let before = std::mem::replace(&mut self.offloads, agreed);
        if before.of_tap() != agreed.of_tap()
            && let Err(error) = self.tap.set_offloads(agreed.of_tap())
        {
            log::error!("{}: the tap cannot be told what to leave to the guest: {error}", self.transport.name());
        }
    }

    /// Gives the guest what has arrived, for as long as it has buffers.
    fn receive(&mut self) {
        self.agree();
        for _ in 0..RECEIVE_BATCH {
            let has_buffers = || self.transport.session().is_some_and(|session| session.offers(RX));
            if !self.started || !has_buffers() {
                return;
            }
            let Some(bytes) = self.waiting.take().or_else(|| self.next_frame()) else { return };
            if !self.deliver(bytes) {
                self.waiting = Some(bytes);
                return;
            }
        }
        self.transport.kick(RX);
    }

    /// Reads the next frame into `buffer`. Its bytes.
    fn next_frame(&mut self) -> Option<usize> {
        while self.tap_readable {
            match self.tap.read(&mut self.buffer) {
                Ok(bytes) if bytes >= HEADER_BYTES && self.offloads.may_receive(&self.buffer[..HEADER_BYTES]) => {
                    return Some(bytes);
                }
                Ok(_) => self.stats.receive_drops += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        log::warn!("{}: read: {error}", self.transport.name());
                    }
                    self.tap_readable = false;
                }
            }
        }
        None
    }

    /// Puts the frame in `buffer` into the guest's next receive buffer, or into as many as it takes if the driver merges them.
    /// `false` if there are too few as yet.
    fn deliver(&mut self, bytes: usize) -> bool {
        let Some(mut session) = self.transport.session() else { return true };
        let most = if self.offloads.merges_buffers() { usize::from(QUEUE_SIZES[RX]) } else { 1 };
        let mut taken: Vec<(Ticket, usize)> = Vec::new();
        let mut place: Vec<Segment> = Vec::new();
        let mut room = 0;
        while room < bytes && taken.len() < most {
            let Some(ticket) = session.take(RX, &mut self.chain) else { break };
            let capacity = length(&self.chain.writable);
            taken.push((ticket, capacity));
            place.extend(&self.chain.writable);
            room += capacity;
        }
        if room < bytes && self.offloads.merges_buffers() && !session.is_drained_by(RX, taken.len()) {
            session.put_back(taken.iter().map(|(ticket, _)| *ticket));
            return false;
        }
        self.buffer[HEADER_BUFFERS].copy_from_slice(&(taken.len() as u16).to_le_bytes());
        let mut left = if bytes <= room && scatter(session.memory(), &place, 0, &self.buffer[..bytes]).is_ok() {
            self.stats.received_frames += 1;
            self.stats.received_bytes += (bytes - HEADER_BYTES) as u64;
            bytes
        } else {
            self.stats.receive_drops += 1;
            // This tells the driver that there is no frame in it.
            0
        };
        let in_each = |(ticket, capacity)| {
            let written = left.min(capacity);
            left -= written;
            (ticket, written as u32)
        };
        let finished: Vec<_> = taken.into_iter().map(in_each).collect();
        self.owes_interrupt |= session.finish_all(&finished);
        true
    }

    /// Serves the control queue. There is one command: the guest has seen that it is to announce itself.
    fn control(&mut self) {
        for _ in 0..QUEUE_SIZES[CONTROL] {
            let Some(mut session) = self.transport.session().filter(|_| self.started) else { return };
            let Some(ticket) = session.take(CONTROL, &mut self.chain) else { return };
            let mut command = [0; 2];
            let got = gather(session.memory(), &self.chain.readable, 0, &mut command).unwrap_or_default();
            let known = [VIRTIO_NET_CTRL_ANNOUNCE as u8, VIRTIO_NET_CTRL_ANNOUNCE_ACK as u8];
            let acknowledged = got == command.len() && command == known;
            let answer = if acknowledged { VIRTIO_NET_OK } else { VIRTIO_NET_ERR } as u8;
            let written = scatter(session.memory(), &self.chain.writable, 0, &[answer]).unwrap_or_default();
            self.owes_interrupt |= session.finish(ticket, written as u32);
            drop(session);
            if acknowledged {
                self.set_link(LINK_UP);
            }
        }
        self.transport.kick(CONTROL);
    }
}
