//! `/dev/mcelog`, which kernels had before tracepoints and some still have (CONFIG_X86_MCELOG_LEGACY).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mio::{Registry, Token};
use rustix::ioctl::{Getter, ioctl, opcode};

use super::{Source, Turn, heard, open_pollable, watch};
use crate::moment::Moment;
use crate::record::{Channel, Heard, MachineCheck, Record, Vendor};

/// `MCE_GET_RECORD_LEN` and `MCE_GET_LOG_LEN` (asm/mce.h).
const RECORD_LEN: rustix::ioctl::Opcode = opcode::read::<i32>(b'M', 1);
const LOG_LEN: rustix::ioctl::Opcode = opcode::read::<i32>(b'M', 2);
/// What kernels of today say, in case the file is a recorded stream.
const RECORD_BYTES: usize = 128;
const RECORDS: usize = 32;
/// More is no record, and no log.
const RECORD_BYTES_MAX: usize = 4096;
const RECORDS_MAX: usize = 65_536;

pub(super) struct Mcelog {
    file: File,
    record_bytes: usize,
    buffer: Vec<u8>,
}

impl Mcelog {
    pub(super) fn open(path: &Path) -> io::Result<Mcelog> {
        let file = open_pollable(path)?;
        // SAFETY: both write one int, which is what the getter gives them room for.
        let (record, log) =
            unsafe { (ioctl(&file, Getter::<RECORD_LEN, i32>::new()), ioctl(&file, Getter::<LOG_LEN, i32>::new())) };
        let size = |value: Result<i32, _>, default, max| {
            value
                .ok()
                .and_then(|value| usize::try_from(value).ok())
                .filter(|value| (1..=max).contains(value))
                .unwrap_or(default)
        };
        let record_bytes = size(record, RECORD_BYTES, RECORD_BYTES_MAX);
        // The kernel gives the whole log or nothing.
        let buffer = vec![0; record_bytes * size(log, RECORDS, RECORDS_MAX)];
        Ok(Mcelog { file, record_bytes, buffer })
    }
}

impl Source for Mcelog {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        watch(&self.file, registry, token)
    }

    fn read(&mut self, now: Moment, into: &mut Vec<Heard>) -> io::Result<Turn> {
        match self.file.read(&mut self.buffer) {
            Ok(0) => Ok(Turn::default()),
            Ok(bytes) => {
                let records = self.buffer[..bytes].chunks(self.record_bytes).filter_map(parse);
                into.extend(records.map(|check| heard(now, Channel::Mcelog, Record::MachineCheck(check))));
                Ok(Turn { more: true, lost: 0 })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Turn { more: true, lost: 0 }),
            Err(error) => Err(error),
        }
    }
}

/// A `struct mce` (asm/mce.h), of which newer kernels only ever added to the end.
pub(crate) fn parse(record: &[u8]) -> Option<MachineCheck> {
    let long = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let int = |at: usize| record.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let code_segment = *record.get(64)?;
    Some(MachineCheck {
        status: long(0)?,
        misc: long(8)?,
        address: long(16)?,
        mcg_status: long(24)?,
        unix_s: long(48)?,
        vendor: Vendor::from_number(u64::from(*record.get(56)?)),
        signature: int(60)?,
        in_kernel: code_segment != 0 && code_segment & 3 == 0,
        bank: *record.get(65)?,
        cpu: int(68)?,
        socket: int(72)?,
        ipid: long(96).unwrap_or(0),
    })
}
