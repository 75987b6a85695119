//! What operators read.

use std::io::{self, Write};

use crate::control::Status;
use crate::health::PartView;
use crate::replay::Replay;

/// The status, a line for each thing.
pub(crate) fn status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(out, "{}: {}", status.node, status.colour)?;
    let line = |out: &mut dyn Write, name: &str, text: &str| {
        if text.is_empty() { Ok(()) } else { writeln!(out, "  {name:<12} {text}") }
    };
    line(out, "why", &status.why)?;
    let published = &status.published;
    line(out, "cluster", published.colour.map_or("not told yet", |colour| colour.word()))?;
    line(out, "held back", published.held_back.as_deref().unwrap_or_default())?;
    line(out, "trouble", published.trouble.as_deref().unwrap_or_default())?;
    line(out, "last", status.last.as_deref().unwrap_or_default())?;
    line(out, "records", &status.records.to_string())?;
    parts(out, &status.parts)?;
    for source in &status.sources {
        let lost = if source.lost > 0 { format!(", {} lost", source.lost) } else { String::new() };
        let trouble =
            source.trouble.as_ref().map(|trouble| format!(", not read any more: {trouble}")).unwrap_or_default();
        line(out, "watched", &format!("{}: {} records{lost}{trouble}", source.name, source.records))?;
    }
    for missing in &status.missing {
        line(out, "missing", &format!("{}: {}", missing.name, missing.reason))?;
    }
    Ok(())
}

fn parts(out: &mut impl Write, parts: &[PartView]) -> io::Result<()> {
    for part in parts {
        let why = if part.why.is_empty() { String::new() } else { format!(" ({})", part.why) };
        let PartView { place, colour, faults, last_s, .. } = part;
        writeln!(out, "  {colour:<12} {place}: {faults} faults, the last {last_s} s ago{why}")?;
    }
    Ok(())
}

/// What would have been decided, a line for each record.
pub(crate) fn replay(out: &mut impl Write, replay: &Replay) -> io::Result<()> {
    for step in &replay.steps {
        writeln!(out, "{:>14.6} {:<6} {}", step.at_s, step.colour, step.said)?;
    }
    for path in &replay.silent {
        writeln!(out, "{}: nothing about hardware is in it, in no form that is known", path.display())?;
    }
    writeln!(out, "at the end: {}", replay.verdict.colour)?;
    parts(out, &replay.parts)
}
