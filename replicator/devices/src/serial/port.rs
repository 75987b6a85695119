//! The bus side of the serial port: the registers that vCPU threads see.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialEvents;
use vm_superio::{SerialState, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::Serial;
use crate::BusDevice;

const DATA: u8 = 0;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
const IIR_NONE: u8 = 1 << 0;
const IIR_TRANSMITTER_EMPTY: u8 = 1 << 1;
const LCR_DIVISOR_LATCH: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
/// Transmitter holding register empty, and transmitter idle.
const LSR_TRANSMITTER_READY: u8 = 1 << 5 | 1 << 6;

/// Bytes that wait for the event loop. Above that the transmitter says that it is not ready; what is written anyway is lost.
const SENT_BYTES_MAX: usize = 16 << 10;
/// Receive FIFO of vm-superio's UART.
pub(super) const RECEIVE_BYTES_MAX: usize = 64;

/// The interrupt line. While the port is stopped it stays silent: a rehearsal must leave no interrupt behind.
#[derive(Clone)]
struct Line {
    irq: Arc<EventFd>,
    started: Arc<AtomicBool>,
}

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if self.started.load(Ordering::Acquire) { self.irq.write(1) } else { Ok(()) }
    }
}

/// Makes the event loop come.
#[derive(Clone)]
struct Wake(Arc<EventFd>);

impl Wake {
    fn signal(&self) {
        // A count at its maximum (EAGAIN) has been signalled often enough.
        let _ = self.0.write(1);
    }
}

impl SerialEvents for Wake {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.signal();
    }
}

type Uart = vm_superio::Serial<Line, Wake, Vec<u8>>;

struct Registers {
    uart: Uart,
    /// Held output has reached its limit.
    backpressure: bool,
    lost_bytes: u64,
}

impl Registers {
    fn is_busy(&self) -> bool {
        self.backpressure || self.uart.writer().len() >= SENT_BYTES_MAX
    }

    fn has_divisor_latch(&self) -> bool {
        self.uart.state().line_control & LCR_DIVISOR_LATCH != 0
    }
}

/// A 16550A.
pub(super) struct Port {
    registers: Mutex<Registers>,
    line: Line,
    wake: Wake,
}

/// All registers of the UART: a mirror of vm-superio's `SerialState`, which has no serde.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UartState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

impl UartState {
    fn of(uart: &Uart) -> UartState {
        let state = uart.state();
        UartState {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }

    pub(super) fn received_bytes(&self) -> usize {
        self.received.len()
    }

    fn to_superio(&self) -> SerialState {
        SerialState {
            baud_divisor_low: self.divisor[0],
            baud_divisor_high: self.divisor[1],
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.received.clone(),
        }
    }
}

impl Port {
    pub(super) fn new(irq: EventFd, wake: EventFd) -> Port {
        let line = Line { irq: Arc::new(irq), started: Arc::new(AtomicBool::new(false)) };
        let wake = Wake(Arc::new(wake));
        let uart = Uart::with_events(line.clone(), wake.clone(), Vec::new());
        Port { registers: Mutex::new(Registers { uart, backpressure: false, lost_bytes: 0 }), line, wake }
    }

    /// An eventfd that is never read: a write makes an edge-triggered poller look again whatever the count is.
    pub(super) fn wake_fd(&self) -> RawFd {
        self.wake.0.as_raw_fd()
    }

    pub(super) fn wake(&self) {
        self.wake.signal();
    }

    pub(super) fn lost_bytes(&self) -> u64 {
        self.lock().lost_bytes
    }

    /// Moves what the guest has sent to the end of `into`.
    pub(super) fn take_sent(&self, into: &mut impl Extend<u8>) {
        let mut registers = self.lock();
        let was_busy = registers.is_busy();
        into.extend(registers.uart.writer_mut().drain(..));
        self.ready_again(registers, was_busy);
    }

    pub(super) fn set_backpressure(&self, full: bool) {
        let mut registers = self.lock();
        let was_busy = registers.is_busy();
        registers.backpressure = full;
        self.ready_again(registers, was_busy);
    }

    /// Interrupts a driver that waits for the transmitter, if that has become ready.
    fn ready_again(&self, mut registers: MutexGuard<'_, Registers>, was_busy: bool) {
        let mut state = UartState::of(&registers.uart);
        if was_busy && !registers.is_busy() && state.interrupt_enable & IER_TRANSMITTER_EMPTY != 0 {
            state.interrupt_identification = state.interrupt_identification & !IIR_NONE | IIR_TRANSMITTER_EMPTY;
            let sent = std::mem::take(registers.uart.writer_mut());
            self.replace(&mut registers, &state, sent);
        }
    }

    /// How many more bytes the guest has room for now.
    pub(super) fn receive_room(&self) -> usize {
        let registers = self.lock();
        let looped = registers.uart.state().modem_control & MCR_LOOP != 0;
        if looped { 0 } else { registers.uart.fifo_capacity() }
    }

    /// Gives bytes to the guest. Returns how many it had room for.
    pub(super) fn receive(&self, bytes: &[u8]) -> usize {
        use vm_superio::serial::Error;
        match self.lock().uart.enqueue_raw_bytes(bytes) {
            Ok(count) => count,
            Err(Error::FullFifo) => 0,
            Err(error) => {
                log::error!("serial port: interrupt: {error}");
                bytes.len()
            }
        }
    }

    /// Registers, and what the guest has sent and the event loop has not taken.
    pub(super) fn save(&self) -> (UartState, Vec<u8>) {
        let registers = self.lock();
        (UartState::of(&registers.uart), registers.uart.writer().clone())
    }

    /// Replaces the registers; what was sent and not taken is forgotten. `state` must have room for what it has received.
    pub(super) fn load(&self, state: &UartState) {
        self.replace(&mut self.lock(), state, Vec::new());
    }

    /// Lets the line speak (with what it would have said meanwhile) or silences it.
    pub(super) fn set_started(&self, started: bool) {
        self.line.started.store(started, Ordering::Release);
        if started {
            let mut registers = self.lock();
            let state = UartState::of(&registers.uart);
            let sent = std::mem::take(registers.uart.writer_mut());
            // vm-superio raises what is pending and enabled when it makes a UART from state.
            self.replace(&mut registers, &state, sent);
        }
    }

    fn replace(&self, registers: &mut Registers, state: &UartState, sent: Vec<u8>) {
        match Uart::from_state(&state.to_superio(), self.line.clone(), self.wake.clone(), sent) {
            Ok(uart) => registers.uart = uart,
            Err(error) => log::error!("serial port: {error}"),
        }
    }

    /// A poisoned lock is taken all the same: nothing here leaves the registers half changed.
    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= Serial::PORTS {
            return;
        }
        if let Some(byte) = data.first_mut() {
            let mut registers = self.lock();
            *byte = registers.uart.read(offset as u8);
            if offset as u8 == LINE_STATUS && registers.is_busy() {
                *byte &= !LSR_TRANSMITTER_READY;
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first().filter(|_| offset < Serial::PORTS) else { return };
        let offset = offset as u8;
        let mut registers = self.lock();
        let sends = offset == DATA && !registers.has_divisor_latch();
        let waiting = registers.uart.writer().len();
        if sends && waiting >= SENT_BYTES_MAX {
            registers.lost_bytes += 1;
            return;
        }
        if let Err(error) = registers.uart.write(offset, value) {
            log::error!("serial port: interrupt: {error}");
        }
        // One signal for a batch; and input that waited for the end of the loop mode may go on.
        let first = waiting == 0 && !registers.uart.writer().is_empty();
        drop(registers);
        if first || offset == MODEM_CONTROL {
            self.wake.signal();
        }
    }
}
