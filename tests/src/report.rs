//! What is printed.

use std::io::{self, Write};

use crate::controls::Control;
use crate::kill::Kill;
use crate::round::Outcome;

/// One line about a kill, on stderr, as it has happened.
pub(crate) fn line(kill: &Kill) {
    let hit = &kill.hit;
    let mark = |hit: bool, name: &'static str| if hit { name } else { "" };
    eprintln!(
        "kill {:>3}  {:<5}  held {:>3} frames {:>3} writes  {:<8} {:<12} {:<10}  promoted {:>6.1} ms  outage {:>5.0} ms  resync {:>5.0} ms",
        kill.number,
        kill.node,
        hit.held_frames,
        hit.held_writes,
        mark(hit.held, "held"),
        mark(hit.mid_transfer, "mid-transfer"),
        mark(hit.disk_write, "disk write"),
        kill.promotion_us as f64 / 1e3,
        kill.outage_us as f64 / 1e3,
        kill.resync_us as f64 / 1e3,
    );
}

/// The result of a round.
pub(crate) fn round(outcome: &Outcome, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(
            &mut out,
            &serde_json::json!({
                "passed": outcome.passed(),
                "shortfalls": outcome.shortfalls(),
                "outcome": outcome,
            }),
        )?;
        return writeln!(out);
    }
    writeln!(out, "\nkills survived   {} of {} (seed {})", outcome.kills.len(), outcome.wanted, outcome.seed)?;
    for (kind, hits, wanted) in outcome.quotas() {
        writeln!(out, "  {kind:<28} {hits:>4}  (at least {wanted})")?;
    }
    writeln!(out, "entries acknowledged        {:>8}", outcome.entries)?;
    writeln!(out, "counters answered by UDP    {:>8}", outcome.counters)?;
    let of_kills = |figure: fn(&Kill) -> u64| outcome.kills.iter().map(figure).collect();
    for (name, mut sorted) in [
        ("promotion", of_kills(|kill| kill.promotion_us)),
        ("outage", of_kills(|kill| kill.outage_us)),
        ("resync", of_kills(|kill| kill.resync_us)),
        ("planned move", outcome.moves_us.clone()),
    ] {
        sorted.sort_unstable();
        if let (Some(worst), Some(median)) = (sorted.last(), sorted.get(sorted.len() / 2)) {
            writeln!(
                out,
                "{name:<12} {:>4} times, median {:>7.1} ms, longest {:>7.1} ms",
                sorted.len(),
                *median as f64 / 1e3,
                *worst as f64 / 1e3
            )?;
        }
    }
    for finding in &outcome.findings {
        writeln!(out, "FOUND: {finding}")?;
    }
    for shortfall in outcome.shortfalls() {
        writeln!(out, "TOO FEW: {shortfall}")?;
    }
    if !outcome.logs.is_empty() {
        writeln!(out, "{}", outcome.logs)?;
    }
    writeln!(out, "{}", if outcome.passed() { "PASSED: nobody could tell" } else { "FAILED" })
}

/// The result of the controls.
pub(crate) fn controls(controls: &[Control], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let passed = controls.iter().all(Control::passed);
    if json {
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "passed": passed, "controls": controls }))?;
        return writeln!(out);
    }
    writeln!(out, "\n{:<20} {:<14} {:<20} what gave it away", "planted bug", "caught", "without it")?;
    for Control { bug, kills, finding, clean_kills, clean_finding } in controls {
        let caught = if finding.is_some() { format!("at kill {}", kills + 1) } else { format!("NOT in {kills}") };
        let clean = match clean_finding {
            None => format!("survives {clean_kills} kills"),
            Some(_) => format!("FAILS at kill {}", clean_kills + 1),
        };
        let finding = clean_finding.as_ref().or(finding.as_ref()).and_then(|finding| finding.lines().next());
        writeln!(out, "{bug:<20} {caught:<14} {clean:<20} {}", finding.unwrap_or("nothing"))?;
    }
    writeln!(out, "{}", if passed { "PASSED: every planted bug was caught" } else { "FAILED" })
}
