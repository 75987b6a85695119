//! The answers to a scraper.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::MetricsError;

/// Longest request, its headers included.
const REQUEST_BYTES: u64 = 8 << 10;
/// How long a scraper may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers one scraper after the other, for as long as this process lives: there are one or two of them, every some seconds.
pub(super) fn serve(
    address: SocketAddr,
    mut collect: impl FnMut() -> Result<String, MetricsError>,
) -> Result<(), MetricsError> {
    let failed = |source: io::Error| MetricsError::Listen { address, reason: source.to_string() };
    let listener = TcpListener::bind(address).map_err(failed)?;
    log::info!("metrics at http://{}/metrics", listener.local_addr().map_err(failed)?);
    for scraper in listener.incoming() {
        // One that went away before it was served is no reason to end.
        if let Err(error) = scraper.and_then(|scraper| answer(&scraper, &mut collect)) {
            log::warn!("a scraper: {error}");
        }
    }
    Ok(())
}

/// One request and its answer, as HTTP/1.0 has them (RFC 1945): the connection ends with it.
fn answer(scraper: &TcpStream, collect: impl FnOnce() -> Result<String, MetricsError>) -> io::Result<()> {
    scraper.set_write_timeout(Some(PATIENCE))?;
    let request = first_line(Patient { scraper, until: Instant::now() + PATIENCE })?;
    let mut words = request.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => match collect() {
            Ok(text) => ("200 OK", text),
            Err(error) => ("500 Internal Server Error", format!("{error}\n")),
        },
        (Some("GET"), Some(_)) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    // The version of the format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
    let kind = if status.starts_with("200") { "application/openmetrics-text; version=1.0.0" } else { "text/plain" };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut out = scraper;
    out.write_all(head.as_bytes())?;
    out.write_all(body.as_bytes())
}

/// Reads for a limited time in all, however little comes at a time.
struct Patient<'a> {
    scraper: &'a TcpStream,
    until: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.scraper.set_read_timeout(Some(left))?;
        self.scraper.read(into)
    }
}

/// Reads a whole request, so that closing the connection does not reset it, and keeps its first line.
fn first_line(scraper: impl Read) -> io::Result<String> {
    let mut lines = BufReader::new(scraper.take(REQUEST_BYTES));
    let mut first = String::new();
    lines.read_line(&mut first)?;
    let mut header = String::new();
    while lines.read_line(&mut header)? > 2 {
        header.clear();
    }
    // The request ends with an empty line (CR LF); a read of nothing is its limit, or the scraper's end.
    if header.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_that_dawdles_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut scraper = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (stream, _) = listener.accept().expect("connected");
        let begun = Instant::now();
        let dawdler = std::thread::spawn(move || {
            while begun.elapsed() < 3 * PATIENCE && scraper.write_all(b"x").is_ok() {
                std::thread::sleep(PATIENCE / 20);
            }
        });
        assert!(answer(&stream, || Ok(String::new())).is_err());
        assert!(begun.elapsed() < 2 * PATIENCE);
        drop(stream);
        dawdler.join().expect("it ends");
    }

    fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut scraper = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        scraper.write_all(request).expect("connected");
        scraper.shutdown(std::net::Shutdown::Write).expect("connected");
        let (stream, _) = listener.accept().expect("connected");
        // What is wrong with the request is the scraper's affair.
        let _ = answer(&stream, || Ok("kemari_up 1\n".to_owned()));
        drop(stream);
        let mut said = String::new();
        // What was not read of a request that is too long resets the connection.
        let _ = scraper.read_to_string(&mut said);
        said
    }

    #[test]
    fn a_scraper_gets_what_was_collected() {
        let said = ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.ends_with("\r\n\r\nkemari_up 1\n"), "{said}");
        assert!(ask(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.0 404 "));
        assert!(ask(b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.0 405 "));
    }

    #[test]
    fn nonsense_is_not_answered_and_not_kept() {
        assert_eq!(ask(b"GET /metr"), "");
        assert_eq!(ask(&[b'x'; 2 * REQUEST_BYTES as usize]), "");
        assert_eq!(ask(b"\xff\xfe\r\n\r\n"), "");
    }
}
