//! What would have been decided about a captured stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::classify::{Host, classify};
use crate::fault::{Fault, Finding};
use crate::health::{Colour, Health, PartView, Verdict};
use crate::lines::{Assembler, stamped};
use crate::moment::Moment;
use crate::record::{Channel, Heard, Record};
use crate::trace::{Format, FormatError, Page, PageLayout, parse_line, record};

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A format is none.
    #[error("{}: {source}; give the event's format file as it is in tracefs", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// There are no formats.
    #[error("{}: a raw trace; name the format file of each of its events, too", path.display())]
    NoFormat {
        /// The file.
        path: PathBuf,
    },
}

/// What a record would have led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Seconds on the stream's clock.
    pub at_s: f64,
    /// Class, part and so on, as one line; or what else was said.
    pub said: String,
    /// The class, if it is a fault.
    pub class: Option<crate::fault::Class>,
    /// The part, if it is a fault.
    pub place: Option<String>,
    /// How many.
    pub count: u64,
    /// The health after it.
    pub colour: Colour,
}

/// What would have been decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replay {
    /// Everything that was said, in the order of the streams.
    pub steps: Vec<Step>,
    /// The health at the end.
    pub verdict: Verdict,
    /// What is known about each part at the end.
    pub parts: Vec<PartView>,
    /// Files in which nothing about hardware was found.
    pub silent: Vec<PathBuf>,
}

/// Replays files, each as what its content shows it to be: printed trace, raw trace (with `format` files among the others), or
/// kernel log in any form. Several streams are taken to be of one host, and of one clock.
///
/// # Errors
/// A file cannot be read.
pub fn replay(paths: &[PathBuf], health: Health) -> Result<Replay, ReplayError> {
    let mut formats = Vec::new();
    let mut streams = Vec::new();
    for path in paths {
        let bytes = fs::read(path).map_err(|source| ReplayError::Read { path: path.clone(), source })?;
        match as_format(&bytes) {
            Some(text) => {
                formats.push(Format::parse(text).map_err(|source| ReplayError::Format { path: path.clone(), source })?)
            }
            None => streams.push((path, bytes)),
        }
    }
    let (mut heard, mut silent) = (Vec::new(), Vec::new());
    let several = streams.len() > 1;
    for (path, bytes) in streams {
        let said = if looks_like_text(&bytes) {
            from_text(&String::from_utf8_lossy(&bytes))
        } else {
            from_pages(path, &bytes, &formats)?
        };
        if said.is_empty() {
            silent.push(path.clone());
        }
        heard.extend(said);
    }
    if several {
        heard.sort_by_key(|heard| heard.at);
    }
    Ok(Replay { silent, ..decide(heard, health) })
}

fn as_format(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.starts_with("name: ") && text.contains("\nformat:"))
}

/// A log may have a byte that is no UTF-8; a page of a trace is full of zeros.
fn looks_like_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}

/// Reads lines of whatever form.
#[must_use]
pub fn from_text(text: &str) -> Vec<Heard> {
    let mut assembler = Assembler::default();
    let mut now = Moment::default();
    let mut heard = Vec::new();
    for line in text.lines() {
        if let Some((at, said)) = parse_line(line) {
            heard.extend(said.map(|record| Heard { at, channel: Channel::Trace, record }));
            continue;
        }
        let line = stamped(line);
        now = line.at.map_or(now, Moment::after_boot);
        if line.by_program {
            continue;
        }
        let log = |(at, record)| Heard { at, channel: Channel::Log, record };
        heard.extend(assembler.line(now, line.text).into_iter().map(log));
    }
    heard.extend(assembler.flush().into_iter().map(|(at, record)| Heard { at, channel: Channel::Log, record }));
    heard
}

fn from_pages(path: &Path, bytes: &[u8], formats: &[Format]) -> Result<Vec<Heard>, ReplayError> {
    if formats.is_empty() {
        return Err(ReplayError::NoFormat { path: path.to_owned() });
    }
    let layout = PageLayout::default();
    let mut heard = Vec::new();
    for event in bytes.chunks(layout.page_bytes).flat_map(|page| Page::new(page, layout)) {
        let at = Moment::after_boot(Duration::from_nanos(event.clock_ns));
        let id = event.bytes.first_chunk().map(|id| u16::from_le_bytes(*id));
        let said = formats.iter().find(|format| Some(format.id) == id);
        let said = said.and_then(|format| record(&format.fields(event.bytes)));
        heard.extend(said.map(|record| Heard { at, channel: Channel::Trace, record }));
    }
    Ok(heard)
}

/// Decides about what was heard.
#[must_use]
pub fn decide(heard: Vec<Heard>, mut health: Health) -> Replay {
    let mut replay = Replay::default();
    let mut now = Moment::default();
    for heard in heard {
        now = now.max(heard.at);
        let finding = classify(&heard, &Host::default());
        health.tick(heard.at);
        health.take(finding.clone());
        let fault = if let Finding::Fault(fault) = &finding { Some(fault) } else { None };
        replay.steps.push(Step {
            at_s: heard.at.since_boot().as_secs_f64(),
            said: said(&finding, &heard.record),
            class: fault.map(|fault| fault.class),
            place: fault.map(|fault| fault.place.to_string()),
            count: fault.map_or(0, |fault: &Fault| fault.count),
            colour: health.verdict().colour,
        });
    }
    replay.verdict = health.verdict();
    replay.parts = health.parts(now);
    replay
}

fn said(finding: &Finding, record: &Record) -> String {
    match finding {
        Finding::Fault(fault) => fault.to_string(),
        Finding::Storm { begins: true, .. } => "a storm of corrected errors begins".to_owned(),
        Finding::Storm { .. } => "the storm is over".to_owned(),
        Finding::Throttle { place, hot: true, .. } => format!("{place}: too hot"),
        Finding::Throttle { place, .. } => format!("{place}: not too hot any more"),
        Finding::Throttled { place, span, .. } => format!("{place}: was too hot for {} ms", span.as_millis()),
        Finding::Link { interface, up: false, .. } => format!("network {interface}: no carrier"),
        Finding::Link { .. } => format!("{record:?}"),
    }
}
