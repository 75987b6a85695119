//! The client, which holds the guest to account.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::clocks::clock_ns;
use crate::report::{Behind, Contract, Report};
use crate::serve::{send, take};
use crate::{Error, PORT};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);
/// After this a datagram counts as lost.
const DATAGRAM_LIMIT: Duration = Duration::from_millis(500);
/// Silence after which a session has not survived. TCP's retransmissions back off, up to about twice the outage; and a command may
/// take its time.
const SESSION_LIMIT: Duration = Duration::from_secs(120);

/// A TCP session with the guest.
struct Session {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    answers: u64,
}

impl Session {
    fn open(address: Ipv4Addr) -> Result<Session, Error> {
        let stream = TcpStream::connect((address, PORT)).map_err(Error::io("connect"))?;
        stream.set_nodelay(true).map_err(Error::io("TCP_NODELAY"))?;
        stream.set_read_timeout(Some(SESSION_LIMIT)).map_err(Error::io("SO_RCVTIMEO"))?;
        let lines = BufReader::new(stream.try_clone().map_err(Error::io("dup"))?);
        Ok(Session { stream, lines, answers: 0 })
    }

    fn ask(&mut self, line: &str) -> Result<String, Error> {
        writeln!(self.stream, "{line}").map_err(Error::io("send"))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut answer = String::new();
        let bytes = self.lines.read_line(&mut answer).map_err(Error::io("receive"))?;
        if bytes == 0 {
            return Err(Error::Closed { answers: self.answers });
        }
        self.answers += 1;
        Ok(answer.trim_end().to_owned())
    }
}

/// What an answer says: the guest's count, and its clock.
fn understood(asked: &str, answer: &str) -> Result<(u64, u64), Error> {
    let nonsense = || Error::Nonsense { asked: asked.to_owned(), answered: answer.to_owned() };
    let words: Vec<&str> = answer.split_whitespace().collect();
    let &[echo, count, clock] = &words[..] else { return Err(nonsense()) };
    match (echo == asked, count.parse(), clock.parse()) {
        (true, Ok(count), Ok(clock)) => Ok((count, clock)),
        _ => Err(nonsense()),
    }
}

/// The guest's clock must not go back, whoever asks.
struct Clock(u64);

impl Clock {
    fn goes_on(&mut self, now_ns: u64) -> Result<(), Error> {
        let before_ns = std::mem::replace(&mut self.0, now_ns);
        if now_ns < before_ns { Err(Error::Backwards { before_ns, after_ns: now_ns }) } else { Ok(()) }
    }
}

/// One session, every request of which is counted once, and datagrams, of which some may be lost and none forgotten.
pub(crate) fn talk(address: Ipv4Addr, until: &Path) -> Result<String, Error> {
    let mut session = Session::open(address)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("UDP"))?;
    socket.connect((address, PORT)).map_err(Error::io("UDP"))?;
    socket.set_read_timeout(Some(DATAGRAM_LIMIT)).map_err(Error::io("SO_RCVTIMEO"))?;
    let mut clock = Clock(0);
    let mut longest = Duration::ZERO;
    let (mut datagrams, mut lost, mut last_count) = (0u64, 0u64, 0);
    let mut number = 0u64;
    while !until.exists() {
        number += 1;
        let asked = number.to_string();
        let begun = Instant::now();
        let (count, clock_ns) = understood(&asked, &session.ask(&asked)?)?;
        longest = longest.max(begun.elapsed());
        if count != number {
            return Err(Error::Count { protocol: "TCP", counted: count, expected: asked });
        }
        clock.goes_on(clock_ns)?;
        match exchange(&socket, &asked)? {
            None => lost += 1,
            Some((count, _)) if count <= last_count => {
                let expected = format!("more than {last_count}");
                return Err(Error::Count { protocol: "UDP", counted: count, expected });
            }
            Some((count, clock_ns)) => {
                clock.goes_on(clock_ns)?;
                last_count = count;
                datagrams += 1;
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(format!("requests={number} longest_ms={} datagrams={datagrams} lost={lost}", longest.as_millis()))
}

/// Sends a datagram and waits for its answer; passes over late answers to others.
fn exchange(socket: &UdpSocket, asked: &str) -> Result<Option<(u64, u64)>, Error> {
    // ECONNREFUSED tells of an earlier datagram, EHOSTUNREACH of a guest that does not answer ARP: both are losses.
    if socket.send(asked.as_bytes()).is_err() {
        return Ok(None);
    }
    let mut buffer = [0; 128];
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => {
                let answer = String::from_utf8_lossy(&buffer[..bytes]);
                if answer.split_whitespace().next() == Some(asked) {
                    return understood(asked, &answer).map(Some);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Ok(None),
        }
    }
}

/// So many bytes from the guest, and to it.
pub(crate) fn bulk(address: Ipv4Addr, bytes: u64) -> Result<String, Error> {
    let mut session = Session::open(address)?;
    let begun = Instant::now();
    writeln!(session.stream, "send {bytes}").map_err(Error::io("send"))?;
    take(&mut session.lines, bytes).map_err(Error::io("receive"))?.map_err(|at| Error::Corrupt { at })?;
    let received = begun.elapsed();
    let asked = format!("take {bytes}");
    writeln!(session.stream, "{asked}").map_err(Error::io("send"))?;
    send(&mut session.stream, bytes).map_err(Error::io("send"))?;
    let answered = session.answer()?;
    if answered != "taken" {
        return Err(Error::Nonsense { asked, answered });
    }
    let sent = begun.elapsed() - received;
    Ok(format!("bytes={bytes} received_ms={} sent_ms={}", received.as_millis(), sent.as_millis()))
}

/// Has the guest's watch begin a new longest step, and a timer; keeps how far its clock is behind.
pub(crate) fn mark(address: Ipv4Addr, file: &Path, timer: Duration) -> Result<String, Error> {
    let (report, behind) = look(address, &format!("mark {}", timer.as_millis()))?;
    let kept = serde_json::to_string(&behind).map_err(|error| error.into());
    kept.and_then(|kept| std::fs::write(file, kept)).map_err(Error::io("the mark"))?;
    Ok(format!("longest_before_ms={} behind={behind}", report.longest_before_ns / 1_000_000))
}

/// Whether the guest's clocks are what the contract says, since the mark.
pub(crate) fn clocks(address: Ipv4Addr, file: &Path, contract: Contract) -> Result<String, Error> {
    let bad = |reason: String| Error::Mark { path: file.to_owned(), reason };
    let kept = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let marked = serde_json::from_slice(&kept).map_err(|error| bad(error.to_string()))?;
    let (report, behind) = look(address, "clocks")?;
    contract.holds(&report, marked, behind)?;
    Ok(format!(
        "cpus={} looks={} longest_before_ms={} longest_ms={} by_tsc_ms={} timer_late_us={} behind={behind} before={marked}",
        report.cpus,
        report.looks,
        report.longest_before_ns / 1_000_000,
        report.longest_ns / 1_000_000,
        report.longest_by_tsc_ns / 1_000_000,
        report.timer_late_ns.unwrap_or_default() / 1000
    ))
}

fn look(address: Ipv4Addr, asked: &str) -> Result<(Report, Behind), Error> {
    let mut session = Session::open(address)?;
    let asked_ns = clock_ns(libc::CLOCK_REALTIME);
    let answered = session.ask(asked)?;
    let answered_ns = clock_ns(libc::CLOCK_REALTIME);
    let report: Report = serde_json::from_str(&answered)
        .map_err(|_| Error::Nonsense { asked: asked.to_owned(), answered: answered.clone() })?;
    let behind = Behind::new(asked_ns, report.realtime_ns, answered_ns);
    Ok((report, behind))
}

/// Has the guest run a command line, as one would by ssh. What it said, or that it failed.
pub(crate) fn run(address: Ipv4Addr, command: &str) -> Result<String, Error> {
    let mut session = Session::open(address)?;
    let asked = format!("run {command}");
    let answered = session.ask(&asked)?;
    let numbers: Vec<u64> = answered.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let &[status, bytes] = &numbers[..] else { return Err(Error::Nonsense { asked, answered }) };
    let mut output = Vec::new();
    session.lines.take(bytes).read_to_end(&mut output).map_err(Error::io("receive"))?;
    let output = String::from_utf8_lossy(&output).trim_end().to_owned();
    if status == 0 { Ok(output) } else { Err(Error::Command { status, output }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_to_what_was_asked() {
        assert_eq!(understood("7", "7 3 99").ok(), Some((3, 99)));
        for answer in ["8 3 99", "7 3", "7 x 99", ""] {
            assert!(understood("7", answer).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn a_clock_may_stand_still_but_not_go_back() {
        let mut clock = Clock(5);
        assert!(clock.goes_on(5).is_ok() && clock.goes_on(9).is_ok() && clock.goes_on(8).is_err());
    }
}
