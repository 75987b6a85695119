//! The kernel's log, in case a tracepoint is missing or off. Only what the kernel itself has written counts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use mio::{Registry, Token};
use rustix::time::{ClockId, clock_gettime};

use super::{LogRead, Source, Turn, heard, open_pollable, watch};
use crate::lines::{Assembler, stamped};
use crate::moment::Moment;
use crate::record::{Channel, Heard};

/// Larger than any record (CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h).
const RECORD_BYTES: usize = 16 << 10;
/// How far the log's clock may be from CLOCK_BOOTTIME: a little, and 500 millionths of its age, which is the most that NTP slews
/// by (MAXFREQ in include/linux/timex.h).
const DRIFT_BASE: Duration = Duration::from_secs(1);
const DRIFT_DIVISOR: u32 = 2000;
/// Records that are read before the other sources have their turn.
const RECORDS_A_TURN: usize = 256;

pub(super) struct Kmsg {
    file: File,
    buffer: Vec<u8>,
    /// A line of which the end has not come, which a FIFO may have.
    partial: Vec<u8>,
    assembler: Assembler,
    /// The record that was read last, now or by the daemon before this one.
    sequence: Option<u64>,
    /// What was said before is not looked at.
    since: Option<Moment>,
    /// Whether everything that was there when it was opened is read, so that what comes is said now.
    is_live: bool,
}

impl Kmsg {
    /// Reads on behind what was read; if nothing was, everything since the boot.
    pub(super) fn open(path: &Path, read: &LogRead) -> io::Result<Kmsg> {
        Ok(Kmsg {
            file: open_pollable(path)?,
            buffer: vec![0; RECORD_BYTES],
            partial: Vec::new(),
            assembler: Assembler::default(),
            sequence: read.after,
            since: read.since.filter(|_| read.after.is_none()),
            is_live: false,
        })
    }

    fn take(&mut self, now: Moment, bytes: usize, into: &mut Vec<Heard>) {
        self.partial.extend_from_slice(&self.buffer[..bytes]);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(now, String::from_utf8_lossy(&line).trim_end(), into);
        }
        if self.partial.len() > RECORD_BYTES {
            self.partial.clear();
        }
    }

    fn line(&mut self, now: Moment, line: &str, into: &mut Vec<Heard>) {
        let line = stamped(line);
        // Without a number it is what the kernel adds to a record, such as `SUBSYSTEM=pci`.
        let Some(sequence) = line.sequence else { return };
        if self.sequence.is_some_and(|last| sequence <= last) {
            return;
        }
        self.sequence = Some(sequence);
        let at = line.at.map_or(now, |stamp| self.when(now, stamp));
        if line.by_program || self.since.is_some_and(|since| at < since) {
            return;
        }
        let whole = self.assembler.line(at, line.text);
        into.extend(whole.into_iter().map(|(at, said)| heard(at, Channel::Log, said)));
    }
}

impl Kmsg {
    /// When a record was written, on the clock of everything else. The log's own clock stands still while the host sleeps, and is
    /// not set right as others are: what comes while this waits for it is said now, if the clocks can be that far apart.
    fn when(&self, now: Moment, stamp: Duration) -> Moment {
        let written = Moment::after_boot(stamp).plus(asleep()).min(now);
        let apart = DRIFT_BASE + stamp / DRIFT_DIVISOR;
        if self.is_live && now.since(written) <= apart { now } else { written }
    }
}

/// How long the host has slept since it booted.
fn asleep() -> Duration {
    let of = |clock| {
        let time = clock_gettime(clock);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let awake = of(ClockId::Monotonic);
    of(ClockId::Boottime).saturating_sub(awake)
}

impl Source for Kmsg {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        watch(&self.file, registry, token)
    }

    fn read(&mut self, now: Moment, into: &mut Vec<Heard>) -> io::Result<Turn> {
        let mut lost = 0;
        for _ in 0..RECORDS_A_TURN {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Ok(Turn { more: false, lost }),
                Ok(bytes) => self.take(now, bytes, into),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_live = true;
                    return Ok(Turn { more: false, lost });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Records were overwritten before they were read; reading goes on with the oldest that is left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => lost += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Turn { more: true, lost })
    }

    fn is_waiting(&self) -> bool {
        self.assembler.is_waiting()
    }

    fn flush(&mut self, into: &mut Vec<Heard>) {
        into.extend(self.assembler.flush().into_iter().map(|(at, said)| heard(at, Channel::Log, said)));
    }

    fn sequence(&self) -> Option<u64> {
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kmsg(is_live: bool) -> Kmsg {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        Kmsg { is_live, ..Kmsg::open(file.path(), &LogRead::default()).expect("there") }
    }

    #[test]
    fn a_clock_that_is_not_set_right_does_not_move_what_is_said_now() {
        let now = Moment::after_boot(Duration::from_secs(1_000_000)).plus(asleep());
        let stamped = |behind_s| Duration::from_secs(1_000_000 - behind_s);
        assert!(now.since(kmsg(true).when(now, stamped(400))) < Duration::from_secs(1));
        // What was there already, or is older than any clock can be wrong, was said when it was.
        for (is_live, behind_s) in [(false, 400), (true, 2000)] {
            let since = now.since(kmsg(is_live).when(now, stamped(behind_s)));
            assert!(since.abs_diff(Duration::from_secs(behind_s)) < Duration::from_secs(1), "{since:?}");
        }
        assert_eq!(kmsg(false).when(now, Duration::from_secs(2_000_000)), now, "nothing is said in the future");
    }

    #[test]
    fn a_log_that_was_not_read_before_is_not_counted_from_the_boot_on() {
        let now = Moment::after_boot(Duration::from_secs(1000)).plus(asleep());
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let since = Moment::after_boot(Duration::from_secs(500)).plus(asleep());
        let mut kmsg = Kmsg::open(file.path(), &LogRead { after: None, since: Some(since) }).expect("there");
        let mut heard = Vec::new();
        for (sequence, seconds) in [(1, 400), (2, 600)] {
            let line = format!("4,{sequence},{seconds}000000,-;EDAC MC0: 1 UE error on A1 (csrow:0 page:0x0)");
            kmsg.line(now, &line, &mut heard);
        }
        assert_eq!(heard.len(), 1);
    }
}
