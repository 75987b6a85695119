//! The serial port: a 16550 and where its bytes go.
//!
//! What the guest sends is output like any other: it is kept here while the gate holds a promise of it ([`Output`]), and
//! reaches the sink when that is released. What is kept is part of the saved state, so it comes out again after a failover:
//! every byte at least once.

mod port;
mod pty;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kemari_core::Released;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::output::Payload;
use crate::{BusDevice, Device, DeviceEvent, DeviceId, Interest, Kind, Output, Source, SourceId, StateError};
use port::{Port, RECEIVE_BYTES_MAX, UartState};
use sink::Outlet;

pub(crate) static KIND: Kind = Kind {
    name: "serial",
    state_version: 1,
    replay: "what the guest says is held until a checkpoint covers it, and said again where that is not certain: \
        every byte at least once. What is typed is lost with the epoch, as on a line with a fault.",
};

/// Index of the port among the sources: the guest has sent something, or has room to receive.
const PORT: u8 = 0;
/// Index of the sink.
const SINK: u8 = 1;

/// Bytes kept from which on the guest has to wait with more: they are in every checkpoint, whose state has a limit.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Reads of unwanted input before the event loop gets its turn again.
const DISCARD_ROUNDS: usize = 16;

/// Where the bytes of a [`Serial`] go, and where those for the guest come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    None,
    /// Appended to a file, which is made if needed.
    File(PathBuf),
    /// A new pseudo-terminal, with a symbolic link to it at this path.
    Pty(PathBuf),
    /// A unix socket that listens at this path, for one client at a time.
    Socket(PathBuf),
}

/// Counters of a [`Serial`], since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleStats {
    /// Bytes taken from the guest and not released.
    pub held_bytes: u64,
    /// Bytes given to the sink.
    pub written_bytes: u64,
    /// Bytes lost because nobody read the sink, or the guest wrote although the port was not ready.
    pub dropped_bytes: u64,
    /// Bytes given to the guest.
    pub received_bytes: u64,
}

/// Why a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file.
    #[error("console file {path} cannot be opened for appending")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pseudo-terminal, or the link to it.
    #[error("no pseudo-terminal with a link to it at {path} can be made")]
    Pty {
        /// Path of the link.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket.
    #[error("console socket {path} cannot be made")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A live socket.
    #[error("console socket {path} is in use by another process; give this console a path of its own")]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// Something else is where the console is to be.
    #[error("{path} exists and is not a console left behind; remove it or give the console another path")]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// Out of file descriptors or memory.
    #[error("the console cannot be polled")]
    Poll {
        /// What the kernel said.
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct ConsoleState {
    uart: UartState,
    /// Bytes that the guest has sent and that are not known to be out.
    unreleased: Vec<u8>,
}

/// A serial port (16550A) of the guest.
pub struct Serial {
    id: DeviceId,
    port: Arc<Port>,
    outlet: Outlet,
    hold: bool,
    started: bool,
    /// The gate has no room for more.
    gate_full: bool,
    /// The guest has to wait, for the gate or for what is kept here.
    throttled: bool,
    /// Grows with each load: output of an earlier history is never performed.
    history: u64,
    /// Bytes taken from the guest and not released, oldest first.
    held: VecDeque<u8>,
    /// How many of them the gate knows of.
    promised: usize,
    /// Input that the guest had no room for.
    typed: Vec<u8>,
    received_bytes: u64,
}

impl Serial {
    /// Bytes of its port window (COM1: from 0x3f8).
    pub const PORTS: u64 = 8;

    /// Opens the sink and makes the port. `irq` is the irqfd of its interrupt line (COM1: 4). If not `hold`, bytes go to the
    /// sink at once, for diagnosis: they may then show what never happened.
    ///
    /// # Errors
    /// The sink cannot be opened.
    pub fn new(id: DeviceId, irq: EventFd, sink: &Sink, hold: bool) -> Result<Serial, SinkError> {
        let wake = EventFd::new(EFD_NONBLOCK).map_err(|source| SinkError::Poll { source })?;
        Ok(Serial {
            id,
            port: Arc::new(Port::new(irq, wake)),
            outlet: Outlet::open(sink)?,
            hold,
            started: false,
            gate_full: false,
            throttled: false,
            history: 0,
            held: VecDeque::new(),
            promised: 0,
            typed: Vec::with_capacity(RECEIVE_BYTES_MAX),
            received_bytes: 0,
        })
    }

    /// Opens the sink as [`new`](Serial::new) would, and leaves nothing behind.
    ///
    /// # Errors
    /// As `new`.
    pub fn check(sink: &Sink) -> Result<(), SinkError> {
        Outlet::check(sink)
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> ConsoleStats {
        ConsoleStats {
            held_bytes: self.held.len() as u64,
            written_bytes: self.outlet.written_bytes,
            dropped_bytes: self.outlet.lost_bytes + self.port.lost_bytes(),
            received_bytes: self.received_bytes,
        }
    }

    /// Takes everything that the guest has sent and that is not out, so that it can be [put back](Serial::put_back) after a reset:
    /// the last that a guest says is what one wants to read.
    pub fn take_unreleased(&mut self) -> Vec<u8> {
        self.port.take_sent(&mut self.held);
        self.promised = 0;
        // What is released of it from here on is not to be had any more.
        self.history += 1;
        self.held.drain(..).collect()
    }

    /// Puts back what was [taken](Serial::take_unreleased). It is output anew, before anything that the guest sends now.
    pub fn put_back(&mut self, unreleased: Vec<u8>) {
        debug_assert!(self.promised == 0 && self.held.is_empty(), "only after a load");
        self.held = unreleased.into();
        self.throttle();
    }

    /// Takes what the guest has sent.
    fn take(&mut self, outputs: &mut Vec<Output>) {
        if !self.started {
            return;
        }
        // Also while the guest has to wait: what a load has brought is not promised yet, and only its release ends the wait.
        if !self.throttled {
            self.port.take_sent(&mut self.held);
        }
        let bytes = self.held.len() - self.promised;
        if !self.hold {
            self.outlet.write(self.held.drain(..));
        } else if bytes > 0 {
            self.promised += bytes;
            outputs.push(Output::new(self.id, Payload::Console { bytes, history: self.history }));
        }
        self.throttle();
    }

    /// Makes the guest wait, or lets it go on.
    fn throttle(&mut self) {
        let throttled = self.gate_full || self.held.len() >= HELD_BYTES_MAX;
        if std::mem::replace(&mut self.throttled, throttled) != throttled {
            self.port.set_backpressure(throttled);
            self.port.wake();
        }
    }

    /// Gives the guest what was typed, for as long as it has room.
    fn receive(&mut self) {
        if !self.started {
            self.typed.clear();
            return self.discard_input();
        }
        loop {
            if self.typed.is_empty() {
                // Without room nothing is read: the port says when it has some again.
                let room = self.port.receive_room().min(RECEIVE_BYTES_MAX);
                let mut bytes = [0; RECEIVE_BYTES_MAX];
                let count = if room > 0 { self.outlet.read(&mut bytes[..room]) } else { 0 };
                self.typed.extend(&bytes[..count]);
            }
            let count = self.port.receive(&self.typed);
            if count == 0 {
                return;
            }
            self.typed.drain(..count);
            self.received_bytes += count as u64;
        }
    }

    /// What comes while the port is stopped is for nobody.
    fn discard_input(&mut self) {
        let mut nobody = [0; 4096];
        for _ in 0..DISCARD_ROUNDS {
            if self.outlet.read(&mut nobody) == 0 {
                return;
            }
        }
        self.port.wake();
    }
}

impl Device for Serial {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn bus(&self) -> Arc<dyn BusDevice> {
        self.port.clone()
    }

    fn sources(&self) -> Vec<Source> {
        [(self.port.wake_fd(), PORT), (self.outlet.fd(), SINK)]
            .map(|(fd, index)| Source { fd, id: SourceId { device: self.id, index }, interest: Interest::Readable })
            .into()
    }

    fn service(&mut self, source: SourceId, outputs: &mut Vec<Output>, _events: &mut Vec<DeviceEvent>) {
        match source.index {
            PORT => {
                self.take(outputs);
                self.receive();
            }
            SINK => {
                self.outlet.service();
                self.receive();
            }
            _ => {}
        }
    }

    fn collect(&mut self, outputs: &mut Vec<Output>) {
        self.take(outputs);
    }

    fn release(&mut self, output: Released<Output>) {
        if let Payload::Console { bytes, history } = output.into_inner().payload
            && history == self.history
        {
            let bytes = bytes.min(self.promised);
            self.promised -= bytes;
            self.outlet.write(self.held.drain(..bytes));
            self.throttle();
        }
    }

    fn set_backpressure(&mut self, full: bool) {
        self.gate_full = full;
        self.throttle();
    }

    fn start(&mut self) {
        self.started = true;
        self.port.set_started(true);
        self.port.wake();
    }

    fn stop(&mut self) {
        self.started = false;
        self.port.set_started(false);
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn save(&self, into: &mut Vec<u8>) {
        let (uart, sent) = self.port.save();
        let unreleased = self.held.iter().copied().chain(sent).collect();
        KIND.encode(&ConsoleState { uart, unreleased }, into);
    }

    fn load(&mut self, version: u16, state: &[u8]) -> Result<(), StateError> {
        let ConsoleState { uart, unreleased } = KIND.decode(version, state)?;
        if uart.received_bytes() > RECEIVE_BYTES_MAX {
            let what = format!("{} bytes received, where {RECEIVE_BYTES_MAX} fit", uart.received_bytes());
            return Err(KIND.invalid(what));
        }
        self.stop();
        self.history += 1;
        self.held = unreleased.into();
        self.promised = 0;
        self.typed.clear();
        self.port.load(&uart);
        self.throttle();
        Ok(())
    }
}
