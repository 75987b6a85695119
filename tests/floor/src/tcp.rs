//! TCP over loopback, two threads, blocking, TCP_NODELAY.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::memory::PAGE;
use crate::sample::{Effort, SERIES, median_us, timed};

/// Bytes of a small message: a request without pages, and the answer to any.
const HEADER: usize = 64;
const BLOCK: usize = 1 << 20;

/// A header and that many pages there, a header back.
pub(crate) fn round_trip_us(pages: usize, effort: Effort) -> Result<f64, Error> {
    measure_round_trip(pages, effort).map_err(Error::of("TCP round trips over loopback"))
}

/// All that one stream takes.
pub(crate) fn stream_gb_s(effort: Effort) -> Result<f64, Error> {
    measure_stream(effort).map_err(Error::of("a TCP stream over loopback"))
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Each series has a connection and a thread of its own: where the scheduler puts them matters much.
fn measure_round_trip(pages: usize, effort: Effort) -> io::Result<f64> {
    (0..SERIES).try_fold(f64::INFINITY, |best, _| Ok(best.min(median_us(round_trips(pages, effort.short)?))))
}

fn round_trips(pages: usize, count: usize) -> io::Result<Vec<Duration>> {
    let (mut near, mut far) = pair()?;
    let request = vec![7; HEADER + pages * PAGE];
    let mut answer = [0; HEADER];
    thread::scope(|scope| {
        let mut received = vec![0; request.len()];
        scope.spawn(
            move || {
                while far.read_exact(&mut received).is_ok() && far.write_all(&received[..HEADER]).is_ok() {}
            },
        );
        let times = (0..count)
            .map(|_| {
                timed(|| {
                    near.write_all(&request)?;
                    near.read_exact(&mut answer)
                })
            })
            .collect();
        // Ends the other thread, which the scope waits for.
        drop(near);
        times
    })
}

fn measure_stream(effort: Effort) -> io::Result<f64> {
    let blocks = effort.stream_bytes / BLOCK;
    let (mut near, mut far) = pair()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let block = vec![3u8; BLOCK];
            (0..=SERIES * blocks).try_for_each(|_| near.write_all(&block))
        });
        let mut block = vec![0u8; BLOCK];
        // The window has opened when the first block is there.
        far.read_exact(&mut block)?;
        let mut best = 0.0f64;
        for _ in 0..SERIES {
            let begun = Instant::now();
            for _ in 0..blocks {
                far.read_exact(&mut block)?;
            }
            best = best.max((blocks * BLOCK) as f64 / begun.elapsed().as_secs_f64() / 1e9);
        }
        drop(far);
        match sender.join() {
            Ok(sent) => sent.map(|()| best),
            Err(_) => Err(io::Error::other("the sender failed")),
        }
    })
}
