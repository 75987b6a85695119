//! Tracepoints, read from an instance of tracefs that belongs to this daemon alone: others that trace are not disturbed, and what
//! they do does not reach here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mio::{Registry, Token};
use rustix::io::Errno;

use super::{Found, Source, Turn, heard, open_pollable, watch};
use crate::config::SourcesConfig;
use crate::moment::Moment;
use crate::record::{Channel, Heard};
use crate::trace::{Format, Page, PageLayout, TRACEPOINTS, Tracepoint, record};

/// Buffer of each processor: a quarter of a second of 10,000 records a second.
const BUFFER_KIB: &str = "256";
/// Pages that are read before the other sources have their turn.
const PAGES_A_TURN: usize = 64;

/// The instance. It goes, with what is enabled in it, when the last of its buffers is closed.
struct Instance {
    path: PathBuf,
    /// Whether records have the time since the boot; else it is the time of reading.
    has_clock: bool,
    /// What is enabled in it, below `events`.
    events: Vec<String>,
    formats: Vec<Format>,
    layout: PageLayout,
}

/// Opens the buffer of every processor.
pub(super) fn open(config: &SourcesConfig, found: &mut Found) {
    match Instance::open(config, found) {
        Ok(instance) => instance.open_buffers(found),
        Err(error) => found.missing.push(("tracepoints".to_owned(), error.to_string())),
    }
}

impl Instance {
    fn open(config: &SourcesConfig, found: &mut Found) -> io::Result<Instance> {
        let instances = config.tracefs.join("instances");
        if !instances.is_dir() {
            let reason = format!("{}: not there; is tracefs mounted, and is this root?", instances.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        let path = instances.join(&config.instance);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Before anything is enabled: with the default of 50 a reader is not woken by single events.
        set(&path.join("buffer_percent"), "0")?;
        let try_to_set = |file: &str, value| {
            let result = set(&path.join(file), value);
            if let Err(error) = &result {
                log::debug!("{}: {error}", path.join(file).display());
            }
            result.is_ok()
        };
        try_to_set("buffer_size_kb", BUFFER_KIB);
        let has_clock = try_to_set("trace_clock", "boot");
        try_to_set("tracing_on", "1");
        let layout = fs::read_to_string(path.join("events/header_page")).map(|text| PageLayout::parse(&text));
        let mut instance =
            Instance { path, has_clock, events: Vec::new(), formats: Vec::new(), layout: layout.unwrap_or_default() };
        instance.enable_all(found);
        Ok(instance)
    }

    fn enable_all(&mut self, found: &mut Found) {
        // A kernel without CXL has none of its tracepoints: that is worth one line.
        let mut absent: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for event in &TRACEPOINTS {
            match self.directory(event).map(|directory| self.enable(directory)) {
                Some(Ok(())) => found.events.push(event.name),
                Some(Err(reason)) => found.missing.push((format!("tracepoint {}", event.name), reason)),
                None => absent.entry(event.groups[0]).or_default().push(event.name),
            }
        }
        for (group, names) in absent {
            found.missing.push((format!("tracepoints of {group}"), format!("this kernel has no {}", names.join(", "))));
        }
    }

    /// Where an event is, below `events`.
    fn directory(&self, event: &Tracepoint) -> Option<String> {
        let mut directories = event.groups.iter().map(|group| format!("{group}/{}", event.name));
        directories.find(|directory| self.path.join("events").join(directory).is_dir())
    }

    fn enable(&mut self, directory: String) -> Result<(), String> {
        let path = self.path.join("events").join(&directory);
        let text = fs::read_to_string(path.join("format")).map_err(|error| error.to_string())?;
        let format = Format::parse(&text).map_err(|error| error.to_string())?;
        set(&path.join("enable"), "1").map_err(|error| error.to_string())?;
        self.events.push(directory);
        self.formats.push(format);
        Ok(())
    }

    fn open_buffers(self, found: &mut Found) {
        let instance = Rc::new(self);
        let cpus = match fs::read_dir(instance.path.join("per_cpu")) {
            Ok(cpus) => cpus.filter_map(Result::ok).map(|entry| entry.path()),
            Err(error) => return found.missing.push(("tracepoints".to_owned(), error.to_string())),
        };
        let mut cpus: Vec<PathBuf> = cpus.collect();
        cpus.sort();
        for cpu in cpus {
            let name = format!("tracepoints {}", cpu.file_name().unwrap_or_default().to_string_lossy());
            let buffer = Buffer::open(&cpu.join("trace_pipe_raw"), Rc::clone(&instance));
            found.add(&name, buffer.map(|buffer| Box::new(buffer) as _));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for event in &self.events {
            if let Err(error) = set(&self.path.join("events").join(event).join("enable"), "0") {
                log::debug!("{event}: {error}");
            }
        }
        // Only tracefs lets a directory go that has files in it.
        if let Err(error) = fs::remove_dir(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

/// Writes to a file of the kernel's, which must be there.
fn set(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// The ring buffer of one processor.
struct Buffer {
    file: File,
    page: Vec<u8>,
    filled: usize,
    instance: Rc<Instance>,
}

impl Buffer {
    fn open(path: &Path, instance: Rc<Instance>) -> io::Result<Buffer> {
        let page = vec![0; instance.layout.page_bytes];
        Ok(Buffer { file: open_pollable(path)?, page, filled: 0, instance })
    }

    /// Reads a page; none if there is none. The kernel gives whole ones, a FIFO need not.
    fn fill(&mut self) -> io::Result<Option<()>> {
        while self.filled < self.page.len() {
            match self.file.read(&mut self.page[self.filled..]) {
                Ok(0) => return Ok(None),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The processor was never there. If it comes it is read at the next look at everything.
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Ok(Some(()))
    }
}

impl Source for Buffer {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        watch(&self.file, registry, token)
    }

    fn read(&mut self, now: Moment, into: &mut Vec<Heard>) -> io::Result<Turn> {
        let mut lost = 0;
        for _ in 0..PAGES_A_TURN {
            let Some(()) = self.fill()? else { return Ok(Turn { more: false, lost }) };
            let page = Page::new(&self.page, self.instance.layout);
            lost += page.lost.map_or(0, |count| count.max(1));
            for event in page {
                let Some(id) = event.bytes.first_chunk().map(|id| u16::from_le_bytes(*id)) else { continue };
                let format = self.instance.formats.iter().find(|format| format.id == id);
                let said = format.and_then(|format| record(&format.fields(event.bytes)));
                let at = if self.instance.has_clock {
                    Moment::after_boot(Duration::from_nanos(event.clock_ns))
                } else {
                    now
                };
                into.extend(said.map(|said| heard(at.min(now), Channel::Trace, said)));
            }
        }
        Ok(Turn { more: true, lost })
    }
}
