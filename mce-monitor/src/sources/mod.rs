//! Where records come from. Each source is read when it is ready; what is missing on this host is said once, and shown.

mod counters;
mod disks;
mod kmsg;
mod mcelog;
mod names;
mod netlink;
#[cfg(test)]
mod tests;
mod tracefs;

use std::io;

use mio::{Registry, Token};

use crate::config::SourcesConfig;
use crate::moment::Moment;
use crate::record::{Channel, Heard, Record};

pub(crate) use counters::{Accounted, Counters};
pub(crate) use disks::disks_of;
pub(crate) use mcelog::parse as mcelog_record;
pub(crate) use names::Names;
pub(crate) use netlink::{links, uevent};

/// Something that tells of hardware errors.
pub(crate) trait Source {
    /// Has the event loop say when there is something to read.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Reads what is there into `heard`, but no more than what leaves the others their turn.
    fn read(&mut self, now: Moment, heard: &mut Vec<Heard>) -> io::Result<Turn>;

    /// Whether something was begun that is whole only once nothing more comes.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Nothing more has come.
    fn flush(&mut self, _: &mut Vec<Heard>) {}

    /// The number of the last record, if this source numbers them and can go on behind one.
    fn sequence(&self) -> Option<u64> {
        None
    }
}

/// How a turn of reading has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// There is more to read.
    pub(crate) more: bool,
    /// So many records were lost; at least one if their number is not known.
    pub(crate) lost: u64,
}

/// A source, and what is to be said of it.
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) source: Box<dyn Source>,
    pub(crate) records: u64,
    pub(crate) lost: u64,
    /// Why it is not read any more.
    pub(crate) trouble: Option<String>,
}

/// What was found on this host.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) watched: Vec<Watched>,
    /// Names of sources that are not there, and why.
    pub(crate) missing: Vec<(String, String)>,
    /// Tracepoints that are on.
    pub(crate) events: Vec<&'static str>,
}

impl Found {
    fn add(&mut self, name: &str, source: io::Result<Box<dyn Source>>) {
        match source {
            Ok(source) => {
                self.watched.push(Watched { name: name.to_owned(), source, records: 0, lost: 0, trouble: None });
            }
            Err(error) => self.missing.push((name.to_owned(), error.to_string())),
        }
    }
}

/// What of the kernel's log was read by the daemon before this one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogRead {
    /// The number of the last record, on this boot.
    pub(crate) after: Option<u64>,
    /// Without a number: what was said before was heard on other ways, or never will be.
    pub(crate) since: Option<Moment>,
}

/// Opens every source.
pub(crate) fn open(config: &SourcesConfig, read: &LogRead) -> Found {
    let mut found = Found::default();
    tracefs::open(config, &mut found);
    found.add("kmsg", kmsg::Kmsg::open(&config.kmsg, read).map(|source| Box::new(source) as _));
    if found.events.contains(&"mce_record") {
        let reason = "not opened: the tracepoint mce_record says the same, and who reads it takes it from mcelogd";
        found.missing.push(("mcelog".to_owned(), reason.to_owned()));
    } else {
        found.add("mcelog", mcelog::Mcelog::open(&config.mcelog).map(|source| Box::new(source) as _));
    }
    if config.netlink {
        found.add("rtnetlink", netlink::Links::open(&config.links).map(|source| Box::new(source) as _));
        found.add("uevents", netlink::Uevents::open(&config.uevents).map(|source| Box::new(source) as _));
    }
    found
}

fn heard(at: Moment, channel: Channel, record: Record) -> Heard {
    Heard { at, channel, record }
}

/// Opens a file that is read when it is ready. A FIFO in place of one of the kernel's files is opened for writing, too: it must
/// not end when its last writer does.
fn open_pollable(path: &std::path::Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let fifo = std::fs::metadata(path)?.file_type().is_fifo();
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).write(fifo).custom_flags(nonblocking).open(path)
}

/// Has mio watch a file.
fn watch(file: &std::fs::File, registry: &Registry, token: Token) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    registry.register(&mut mio::unix::SourceFd(&file.as_raw_fd()), token, mio::Interest::READABLE)
}
