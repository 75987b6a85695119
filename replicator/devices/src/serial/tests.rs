//! The port as a guest and the event loop see it, with real files, sockets and terminals.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use kemari_core::{Acknowledgement, Consent, ConsentReason, Epoch, Gate, Generation, Sealed, Weigh};

use super::*;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_ID: u64 = 2;
const LINE_STATUS: u64 = 5;
const READY: u8 = 0x60;

struct Machine {
    serial: Serial,
    irq: EventFd,
    gate: Gate<Output>,
}

fn generation() -> Generation {
    Generation { number: 1, id: 1 }
}

fn machine(sink: &Sink, hold: bool) -> Machine {
    let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    let serial = Serial::new(DeviceId(4), irq.try_clone().expect("eventfd"), sink, hold).expect("sink");
    Machine { serial, irq, gate: Gate::new(generation(), Epoch::FIRST, 1 << 20) }
}

impl Machine {
    fn started(mut self) -> Machine {
        self.serial.start();
        self
    }

    fn write(&self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.serial.bus().write(DATA, &[*byte]));
    }

    fn read(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.serial.bus().read(offset, &mut byte);
        byte[0]
    }

    fn received(&self) -> Vec<u8> {
        std::iter::from_fn(|| (self.read(LINE_STATUS) & 1 != 0).then(|| self.read(DATA))).collect()
    }

    fn service(&mut self) {
        let mut outputs = Vec::new();
        for source in self.serial.sources() {
            self.serial.service(source.id, &mut outputs, &mut Vec::new());
        }
        outputs.into_iter().for_each(|output| self.gate.hold(output));
    }

    /// A checkpoint that commits.
    fn commit(&mut self) {
        let sealed = Sealed::new(generation(), self.gate.seal(), 1);
        let proof = sealed.acknowledged_by(&Acknowledgement(sealed.image())).expect("the same image");
        self.gate.commit(&proof).expect("sealed here");
        while let Some(output) = self.gate.next_released() {
            self.serial.release(output);
        }
    }

    fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.serial.save(&mut state);
        state
    }

    fn load(&mut self, state: &[u8]) {
        self.serial.load(KIND.state_version, state).expect("good state");
        self.gate = Gate::new(generation(), Epoch::FIRST, 1 << 20);
    }
}

fn content(path: &Path) -> String {
    std::fs::read_to_string(path).expect("console file")
}

#[test]
fn bytes_are_held_until_their_checkpoint_is_committed() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("console");
    let mut machine = machine(&Sink::File(path.clone()), true).started();
    machine.write(b"one ");
    machine.service();
    assert_eq!(content(&path), "");
    assert_eq!(machine.gate.held().map(|(_, output)| output.weight_bytes()).sum::<usize>(), machine.gate.held_bytes());
    assert_eq!(machine.serial.stats().held_bytes, 4);
    // Written between the last service and the pause: collected into this checkpoint.
    machine.write(b"two ");
    let mut outputs = Vec::new();
    machine.serial.collect(&mut outputs);
    outputs.into_iter().for_each(|output| machine.gate.hold(output));
    machine.commit();
    assert_eq!(content(&path), "one two ");
    machine.write(b"three");
    machine.service();
    assert_eq!(content(&path), "one two ");
    machine.gate.open(Consent::recorded(generation(), ConsentReason::Operator)).expect("same generation");
    machine.commit();
    assert_eq!(content(&path), "one two three");
    assert_eq!(machine.serial.stats(), ConsoleStats { written_bytes: 13, ..ConsoleStats::default() });
}

#[test]
fn a_diagnostic_console_holds_nothing() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("console");
    std::fs::write(&path, "before ").expect("file");
    let mut machine = machine(&Sink::File(path.clone()), false).started();
    machine.write(b"now");
    machine.service();
    assert_eq!(content(&path), "before now");
    assert!(!machine.gate.is_holding());
}

#[test]
fn unreleased_bytes_come_out_again_after_a_failover_and_old_promises_are_void() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("console");
    let mut old = machine(&Sink::None, true).started();
    old.write(b"out ");
    old.service();
    old.commit();
    old.write(b"held ");
    old.service();
    old.write(b"sent");
    let state = old.state();

    // The machine that takes over has run before, in the other role, and held something of its own.
    let mut new = machine(&Sink::File(path.clone()), true).started();
    new.write(b"stale");
    new.service();
    let mut stale = std::mem::replace(&mut new.gate, Gate::new(generation(), Epoch::FIRST, 1));
    new.load(&state);
    new.service();
    assert!(!new.gate.is_holding(), "stopped");
    assert_eq!(new.state(), state, "what was loaded is saved again");
    new.serial.start();
    new.service();
    stale.open(Consent::recorded(generation(), ConsentReason::Operator)).expect("same generation");
    while let Some(output) = stale.next_released() {
        new.serial.release(output);
    }
    assert_eq!(content(&path), "");
    new.commit();
    assert_eq!(content(&path), "held sent");
}

#[test]
fn backpressure_makes_the_transmitter_not_ready_and_its_end_interrupts() {
    let mut machine = machine(&Sink::None, true).started();
    machine.serial.bus().write(INTERRUPT_ENABLE, &[0x02]);
    machine.irq.read().expect("the transmitter is empty");
    assert_eq!(machine.read(INTERRUPT_ID) & 0x0f, 0x02);
    machine.serial.set_backpressure(true);
    assert_eq!(machine.read(LINE_STATUS) & READY, 0);
    machine.write(b"impatient");
    machine.service();
    assert!(!machine.gate.is_holding());
    let _ = machine.irq.read();
    machine.serial.set_backpressure(false);
    assert_eq!(machine.read(LINE_STATUS) & READY, READY);
    machine.irq.read().expect("the transmitter is empty again");
    machine.service();
    assert_eq!(machine.serial.stats().held_bytes, 9);
}

#[test]
fn what_is_held_for_long_has_a_limit_and_the_guest_waits() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("console");
    let mut machine = machine(&Sink::File(path.clone()), true).started();
    let chunk = [b'x'; 4096];
    let mut sent = 0;
    while machine.read(LINE_STATUS) & READY != 0 {
        machine.write(&chunk);
        sent += chunk.len();
        machine.service();
        assert!(sent <= 2 << 20, "no limit");
    }
    assert_eq!(machine.serial.stats().held_bytes, 1 << 20);
    machine.commit();
    assert_eq!(machine.read(LINE_STATUS) & READY, READY);
    assert_eq!(content(&path).len(), sent);
    assert_eq!(machine.serial.stats().dropped_bytes, 0);
}

/// As much as is ever kept, taken over by a node that has never promised it, whether that holds the console or not.
#[test]
fn a_full_console_goes_on_after_a_failover() {
    let room = tempfile::tempdir().expect("tempdir");
    for hold in [true, false] {
        let mut old = machine(&Sink::None, true).started();
        while old.read(LINE_STATUS) & READY != 0 {
            old.write(&[b'x'; 4096]);
            old.service();
        }
        let path = room.path().join(format!("console-{hold}"));
        let mut new = machine(&Sink::File(path.clone()), hold);
        new.load(&old.state());
        new.serial.start();
        new.service();
        new.commit();
        assert_eq!(content(&path).len(), 1 << 20);
        assert_eq!(new.read(LINE_STATUS) & READY, READY, "hold: {hold}");
        new.write(b"alive");
        new.service();
        new.commit();
        assert!(content(&path).ends_with("alive"));
    }
}

#[test]
fn a_guest_that_does_not_wait_loses_bytes_and_costs_no_memory() {
    let machine = machine(&Sink::None, true).started();
    machine.write(&vec![b'x'; 40_000]);
    assert_eq!(machine.serial.stats().dropped_bytes, 40_000 - (16 << 10));
    assert_eq!(machine.read(LINE_STATUS) & READY, 0);
}

#[test]
fn registers_fifo_and_pending_interrupt_survive() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("socket");
    let mut old = machine(&Sink::Socket(path.clone()), true).started();
    let bus = old.serial.bus();
    for (offset, value) in [(3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (4, 0x0b), (7, 0x5a), (1, 0x01)] {
        bus.write(offset, &[value]);
    }
    let mut client = UnixStream::connect(&path).expect("listening");
    client.write_all(b"typed").expect("room");
    old.service();
    old.irq.read().expect("data are there");
    let state = old.state();

    let mut new = machine(&Sink::None, true);
    new.load(&state);
    assert!(new.irq.read().is_err(), "a rehearsal leaves no interrupt behind");
    assert_eq!(new.state(), state);
    new.serial.start();
    new.irq.read().expect("the interrupt is raised again");
    assert_eq!([1, 3, 4, 7].map(|offset| new.read(offset)), [0x01, 0x03, 0x0b, 0x5a]);
    assert_eq!(new.received(), b"typed");
}

#[test]
fn a_socket_serves_one_client_at_a_time_in_both_directions() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("socket");
    let mut machine = machine(&Sink::Socket(path.clone()), false).started();
    assert_eq!(std::fs::metadata(&path).expect("socket").permissions().mode() & 0o777, 0o600);
    let mut first = UnixStream::connect(&path).expect("listening");
    machine.service();
    let mut second = UnixStream::connect(&path).expect("listening");
    machine.service();
    assert_eq!(second.read(&mut [0; 8]).expect("hung up"), 0);

    let text = vec![b'i'; 1000];
    first.write_all(&text).expect("room");
    let mut seen = Vec::new();
    while seen.len() < text.len() {
        machine.service();
        let more = machine.received();
        assert!(!more.is_empty() && more.len() <= RECEIVE_BYTES_MAX);
        seen.extend(more);
    }
    machine.write(b"hello");
    machine.service();
    let mut answer = [0; 5];
    first.read_exact(&mut answer).expect("output");
    assert_eq!(&answer, b"hello");

    drop(first);
    let mut third = UnixStream::connect(&path).expect("listening");
    machine.service();
    machine.write(b"again");
    machine.service();
    third.read_exact(&mut answer).expect("output");
    assert_eq!(&answer, b"again");
}

#[test]
fn a_client_that_does_not_read_stops_nothing_and_loses_the_oldest() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("socket");
    let mut machine = machine(&Sink::Socket(path.clone()), false).started();
    let mut client = UnixStream::connect(&path).expect("listening");
    machine.service();
    let total: usize = 200 * 8192;
    for round in 0..200u8 {
        machine.write(&[round; 8192]);
        machine.service();
    }
    let stats = machine.serial.stats();
    assert!(stats.dropped_bytes > 0);
    client.set_nonblocking(true).expect("socket");
    let mut seen = Vec::new();
    while client.read_to_end(&mut seen).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        let before = seen.len();
        machine.service();
        let mut more = [0; 65536];
        match client.read(&mut more) {
            Ok(count) => seen.extend(&more[..count]),
            Err(_) if seen.len() == before => break,
            Err(_) => {}
        }
    }
    assert_eq!(seen.last(), Some(&199), "the newest is there");
    assert_eq!(seen.len() + machine.serial.stats().dropped_bytes as usize, total);
}

#[test]
fn a_socket_left_behind_is_replaced_and_nothing_else_is() {
    let room = tempfile::tempdir().expect("tempdir");
    let open = |path: &Path| Outlet::open(&Sink::Socket(path.to_owned())).map(|_| ());
    let path = room.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("socket"));
    open(&path).expect("nobody listens there");
    assert!(!path.exists(), "taken away with the console");
    let _living = std::os::unix::net::UnixListener::bind(&path).expect("socket");
    assert!(matches!(open(&path), Err(SinkError::InUse { .. })));
    assert!(path.exists());
    let file = room.path().join("file");
    std::fs::write(&file, "precious").expect("file");
    assert!(matches!(open(&file), Err(SinkError::Occupied { .. })));
    assert!(matches!(Outlet::open(&Sink::Pty(file.clone())), Err(SinkError::Occupied { .. })));
    assert_eq!(content(&file), "precious");
    assert!(matches!(Outlet::open(&Sink::File("/nowhere/console".into())), Err(SinkError::File { .. })));
}

#[test]
fn a_check_of_a_sink_leaves_nothing_behind() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("console");
    for sink in [Sink::None, Sink::File(path.clone()), Sink::Pty(path.clone()), Sink::Socket(path.clone())] {
        Serial::check(&sink).expect("possible");
        assert!(path.symlink_metadata().is_err(), "{sink:?}");
    }
    std::fs::write(&path, "precious").expect("file");
    Serial::check(&Sink::File(path.clone())).expect("possible");
    assert_eq!(content(&path), "precious");
    assert!(matches!(Serial::check(&Sink::Socket(path)), Err(SinkError::Occupied { .. })));
}

#[test]
fn a_pty_carries_raw_bytes_both_ways() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("tty");
    std::os::unix::fs::symlink("/dev/pts/left-behind", &path).expect("symlink");
    let mut machine = machine(&Sink::Pty(path.clone()), false).started();
    let mut terminal = std::fs::File::options().read(true).write(true).open(&path).expect("terminal");
    machine.write(b"\x01line\r\n");
    machine.service();
    let mut seen = [0; 7];
    terminal.read_exact(&mut seen).expect("output");
    assert_eq!(&seen, b"\x01line\r\n");
    terminal.write_all(b"\x03ls\r").expect("room");
    machine.service();
    assert_eq!(machine.received(), b"\x03ls\r");
    drop(terminal);
    machine.write(&vec![b'x'; 16000]);
    machine.service();
    assert_eq!(machine.serial.stats().dropped_bytes, 0, "kept for who opens it next");
    drop(machine);
    assert!(path.symlink_metadata().is_err());
}

/// The event loop polls edge-triggered, and sees a new client, input and hang-ups through the one descriptor of the sink.
#[test]
fn edges_come_through() {
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("socket");
    let mut machine = machine(&Sink::Socket(path.clone()), false).started();
    let poll = Epoll::new().expect("epoll");
    for source in machine.serial.sources() {
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, u64::from(source.id.index));
        poll.ctl(ControlOperation::Add, source.fd, event).expect("epoll");
    }
    let turn = |machine: &mut Machine| {
        let mut events = [EpollEvent::default(); 4];
        let count = poll.wait(1000, &mut events).expect("epoll");
        for event in &events[..count] {
            let id = SourceId { device: DeviceId(4), index: event.data() as u8 };
            machine.serial.service(id, &mut Vec::new(), &mut Vec::new());
        }
        count
    };
    turn(&mut machine);
    let mut client = UnixStream::connect(&path).expect("listening");
    assert_eq!(turn(&mut machine), 1, "the client");
    for round in 0..3 {
        client.write_all(b"k").expect("room");
        while machine.read(LINE_STATUS) & 1 == 0 {
            assert!(turn(&mut machine) > 0, "input {round}");
        }
        assert_eq!(machine.received(), b"k");
        machine.write(b"echo");
        assert!(turn(&mut machine) > 0, "output {round}");
    }
    let mut text = [0; 12];
    client.read_exact(&mut text).expect("output");
    assert_eq!(&text, b"echoechoecho");
}

#[test]
fn what_is_typed_at_a_stopped_machine_is_for_nobody() {
    let room = tempfile::tempdir().expect("tempdir");
    let path = room.path().join("socket");
    let mut machine = machine(&Sink::Socket(path.clone()), true);
    let mut client = UnixStream::connect(&path).expect("listening");
    client.write_all(b"poweroff\r").expect("room");
    machine.service();
    machine.serial.start();
    machine.service();
    assert_eq!(machine.received(), b"");
}

#[test]
fn foreign_state_is_refused() {
    let mut machine = machine(&Sink::None, true);
    let state = machine.state();
    assert!(matches!(machine.serial.load(2, &state), Err(StateError::Version { .. })));
    assert!(matches!(machine.serial.load(1, &state[..4]), Err(StateError::Encoding { .. })));
    assert!(matches!(machine.serial.load(1, &[&state[..], &[0]].concat()), Err(StateError::Invalid { .. })));
}
