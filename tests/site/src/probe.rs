//! Asks for the guest's counter by UDP, as fast as it is answered.
//!
//! A datagram that was answered is forgotten by everybody but the guest: nothing in the network would ever send it again. So
//! this sees at once what TCP would long hide behind retransmissions.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kemari_guest::wire::{self, MESSAGE, Reply};

use crate::{BRIDGE_ADDRESS, GUEST_ADDRESS, Progress, Violation, Witness};

/// How long an answer may take before the datagram is taken for lost.
const PATIENCE: Duration = Duration::from_millis(40);
/// Each datagram is sent from a port of its own, so that a late answer is never taken for that to another datagram. The same
/// port comes again after 20,000 of them.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A client at work on a thread of its own. What it finds wrong it reports to the [`Witness`], and stops.
#[derive(Debug)]
pub struct Probe {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Probe {
    /// Begins, with a rest of `pause` after each answer.
    #[must_use]
    pub fn start(pause: Duration, witness: Arc<Witness>) -> Probe {
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
        let thread = std::thread::spawn({
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            move || {
                let mut last_answer = Instant::now();
                for port in PORTS.cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match ask(port, &witness) {
                        Ok(true) => {
                            let now = Instant::now();
                            progress.answered(now - std::mem::replace(&mut last_answer, now));
                            std::thread::sleep(pause);
                        }
                        Ok(false) => {}
                        Err(violation) => return witness.report(violation),
                    }
                }
            }
        });
        Probe { thread, stop, progress }
    }

    /// Answers so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.progress.answers()
    }

    /// How it fares.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Ends it.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Sends one datagram. Returns whether it was answered.
fn ask(port: u16, witness: &Witness) -> Result<bool, Violation> {
    let before = witness.counter();
    let Ok(answer) = exchange(port) else {
        // Lost, or another socket has this port. Datagrams may be lost.
        return Ok(false);
    };
    match Reply::decode(&answer) {
        Ok((_, Reply::Counter { counter })) => witness.saw_counter("the UDP client", before, counter).map(|()| true),
        Ok((_, reply)) => Err(Violation::WrongAnswer {
            client: 0,
            asked: "the counter, by UDP".to_owned(),
            answered: format!("{reply:?}"),
        }),
        Err(source) => Err(Violation::Garbled { client: 0, source }),
    }
}

fn exchange(port: u16) -> io::Result<[u8; MESSAGE]> {
    let socket = UdpSocket::bind((BRIDGE_ADDRESS, port))?;
    socket.connect((GUEST_ADDRESS, wire::UDP_PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"counter")?;
    let mut answer = [0; MESSAGE];
    let length = socket.recv(&mut answer)?;
    if length == MESSAGE { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}
