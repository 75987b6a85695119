//! The kernel's log, in case a tracepoint is missing or off. Only what the kernel itself has written counts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mio::{Registry, Token};

use super::{Source, Turn, heard, open_pollable, watch};
use crate::lines::{Assembler, stamped};
use crate::moment::Moment;
use crate::record::{Channel, Heard};

/// Larger than any record (CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h).
const RECORD_BYTES: usize = 16 << 10;
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
}

impl Kmsg {
    /// Reads on behind the record `after`; without it, everything since the boot.
    pub(super) fn open(path: &Path, after: Option<u64>) -> io::Result<Kmsg> {
        Ok(Kmsg {
            file: open_pollable(path)?,
            buffer: vec![0; RECORD_BYTES],
            partial: Vec::new(),
            assembler: Assembler::default(),
            sequence: after,
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
        if line.by_program {
            return;
        }
        // What was there before this daemon was happened when it was written.
        let at = line.at.map_or(now, Moment::after_boot).min(now);
        let whole = self.assembler.line(at, line.text);
        into.extend(whole.into_iter().map(|(at, said)| heard(at, Channel::Log, said)));
    }
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn { more: false, lost }),
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
