//! The guest's service.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::clocks::{Clocks, clock_ns};
use crate::pattern::Pattern;
use crate::{Error, PORT};

/// Serves TCP and UDP; does not end.
pub(crate) fn serve() -> Result<String, Error> {
    let clocks = Clocks::watch();
    let everywhere = (Ipv4Addr::UNSPECIFIED, PORT);
    let socket = UdpSocket::bind(everywhere).map_err(Error::io("UDP"))?;
    let listener = TcpListener::bind(everywhere).map_err(Error::io("TCP"))?;
    thread::spawn(move || datagrams(&socket));
    for stream in listener.incoming() {
        let (stream, clocks) = (stream.map_err(Error::io("accept"))?, clocks.clone());
        // A session that ends, ends; the client knows whether it should have.
        thread::spawn(move || session(stream, &clocks));
    }
    Ok(String::new())
}

/// `N` is answered by `N COUNT MONOTONIC_NS`, where the count is of this session.
fn session(mut stream: TcpStream, clocks: &Clocks) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut count = 0u64;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        count += 1;
        if let Some(command) = line.strip_prefix("run ") {
            execute(&mut stream, command)?;
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["clocks"] => writeln!(stream, "{}", serde_json::to_string(&clocks.report())?)?,
            ["mark", ms] => {
                clocks.mark(Duration::from_millis(ms.parse().unwrap_or_default()))?;
                writeln!(stream, "{}", serde_json::to_string(&clocks.report())?)?;
            }
            ["send", bytes] => send(&mut stream, bytes.parse().unwrap_or_default())?,
            ["take", bytes] => {
                let answer = match take(&mut lines, bytes.parse().unwrap_or_default())? {
                    Ok(()) => "taken".to_owned(),
                    Err(at) => format!("wrong {at}"),
                };
                writeln!(stream, "{answer}")?;
            }
            _ => writeln!(stream, "{} {count} {}", line.trim_end(), clock_ns(libc::CLOCK_MONOTONIC))?,
        }
    }
}

/// Runs a command line; answers its exit status and how many bytes of output follow, and them.
fn execute(stream: &mut TcpStream, command: &str) -> std::io::Result<()> {
    let output = Command::new("sh").args(["-c", &format!("exec 2>&1; {command}")]).output()?;
    writeln!(stream, "{} {}", output.status.code().unwrap_or(-1), output.stdout.len())?;
    stream.write_all(&output.stdout)
}

/// The same by UDP, where the count is of all datagrams.
fn datagrams(socket: &UdpSocket) {
    let mut count = 0u64;
    let mut buffer = [0; 64];
    while let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
        count += 1;
        let asked = String::from_utf8_lossy(&buffer[..bytes]);
        // What cannot be sent is lost, as datagrams are.
        let _ = socket.send_to(format!("{asked} {count} {}", clock_ns(libc::CLOCK_MONOTONIC)).as_bytes(), from);
    }
}

/// Sends so many bytes of the pattern.
pub(crate) fn send(to: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    let mut pattern = Pattern::default();
    let mut buffer = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..piece]);
        to.write_all(&buffer[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

/// Takes so many bytes; the inner error is the place of the first that is not of the pattern.
pub(crate) fn take(from: &mut impl Read, bytes: u64) -> std::io::Result<Result<(), u64>> {
    let mut pattern = Pattern::default();
    let mut buffer = vec![0; 64 << 10];
    let mut left = bytes;
    let mut result = Ok(());
    while left > 0 {
        let room = left.min(buffer.len() as u64) as usize;
        let piece = from.read(&mut buffer[..room])?;
        if piece == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if result.is_ok() {
            result = pattern.check(&buffer[..piece]);
        }
        left -= piece as u64;
    }
    Ok(result)
}
