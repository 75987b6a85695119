//! SIGTERM and SIGINT as readiness on the event loop.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;

use mio::net::UnixStream;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Readable once somebody asked this process to end.
pub(crate) struct Signals {
    pub(crate) stream: UnixStream,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn new() -> io::Result<Signals> {
        let (read, write) = StdUnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Signals { stream: UnixStream::from_std(read) })
    }

    /// How many signals have arrived since the last call.
    pub(crate) fn drain(&mut self) -> usize {
        let mut bytes = [0; 64];
        let mut total = 0;
        while let Ok(count @ 1..) = self.stream.read(&mut bytes) {
            total += count;
        }
        total
    }
}
