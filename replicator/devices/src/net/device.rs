//! The network card as the event loop sees it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kemari_core::Released;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::tap::Hearing;
use super::{CONTROL, LINK_ANNOUNCE, LINK_UP, LISTENING_LIMIT, Net, RX, TAP, TX};
use crate::output::Payload;
use crate::virtio::TransportState;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Kind, Output, Source, SourceId, StateError};

pub(crate) static KIND: Kind = Kind {
    name: "net",
    state_version: 1,
    replay: "a frame leaves only when a checkpoint covers it. One that was received after the last checkpoint is \
        lost, as a network may lose it, and whoever sent it sends it again.",
};

#[derive(Debug, Serialize, Deserialize)]
struct NetState {
    transport: TransportState,
    /// The configuration's status field.
    link: u16,
}

impl Device for Net {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.transport.clone()
    }

    fn sources(&self) -> Vec<Source> {
        let source = |fd, index, interest| Source { fd, id: SourceId { device: self.id, index }, interest };
        let queues = (0..).zip(self.transport.notifiers());
        let mut sources: Vec<_> =
            queues.map(|(index, notifier)| source(notifier.as_raw_fd(), index, Interest::Readable)).collect();
        sources.push(source(self.tap.fd(), TAP, Interest::ReadableWritable));
        sources
    }

    fn notifiers(&self) -> Vec<&EventFd> {
        self.transport.notifiers().iter().collect()
    }

    fn service(&mut self, source: SourceId, outputs: &mut Vec<Output>, _events: &mut Vec<DeviceEvent>) {
        match source.index {
            TAP => {
                self.tap_readable = true;
                self.send();
                // What is on the tap now made room.
                self.take_frames(outputs);
                self.receive();
            }
            index if usize::from(index) == RX => self.receive(),
            index if usize::from(index) == TX => {
                self.send();
                self.take_frames(outputs);
            }
            index if usize::from(index) == CONTROL => self.control(),
            _ => {}
        }
        self.signal();
    }

    fn collect(&mut self, outputs: &mut Vec<Output>) {
        self.take_frames(outputs);
        self.signal();
    }

    fn release(&mut self, output: Released<Output>) {
        match output.into_inner().payload {
            Payload::Frame(frame) if frame.history == self.history => {
                self.unsent.push_back(frame);
                // Behind others, it waits with them for room or for the start.
                if self.unsent.len() == 1 {
                    self.send();
                }
            }
            _ => log::debug!("{}: output of another history is not performed", self.transport.name()),
        }
    }

    fn signal(&mut self) {
        if std::mem::take(&mut self.owes_interrupt) {
            self.transport.interrupt_used();
        }
    }

    fn set_backpressure(&mut self, full: bool) {
        if self.backpressure && !full {
            self.transport.kick(TX);
        }
        self.backpressure = full;
    }

    fn start(&mut self) {
        if !self.started {
            if self.listening.take().is_none_or(|since| since.elapsed() > LISTENING_LIMIT) {
                // What came between the opening of the tap and its first filter, or before the last stop, or too long ago.
                self.hear(Hearing::Nothing);
                self.tap.drain();
            }
            self.waiting = None;
        }
        self.agree();
        self.hear(Hearing::Everything);
        self.started = true;
        self.tap_readable = true;
        self.transport.resume();
    }

    fn stop(&mut self) {
        self.started = false;
        self.listening = None;
        self.hear(Hearing::Nothing);
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        KIND.encode(&NetState { transport: self.transport.save(), link: self.link }, into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let NetState { transport, link } = KIND.decode(version, state)?;
        if link & !(LINK_UP | LINK_ANNOUNCE) != 0 {
            return Err(KIND.invalid(format!("link status {link:#x}")));
        }
        let checked = self.transport.check(transport).map_err(|what| KIND.invalid(what))?;
        self.stop();
        self.history += 1;
        self.unsent.clear();
        self.waiting = None;
        self.owes_interrupt = false;
        // Before the registers, whose generation counter is part of the state.
        self.set_link(link);
        self.transport.load(checked);
        Ok(())
    }
}
