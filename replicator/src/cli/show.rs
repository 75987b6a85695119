//! Status and events for people.

use std::io::{self, Write};

use kemari_control::{
    Checkpoints, ConsoleStatus, Event, Figure, Gate, Replication, Role, Standing, Status, SyncProgress,
};

/// Cells of the progress bar.
const CELLS: u64 = 30;

/// Shows a status on a few lines.
pub(super) fn status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let role = match status.role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    };
    writeln!(out, "guest {} on {} (pid {}): {role}, {}", status.guest, status.node, status.pid, replication(status))?;
    field(out, "generation", status.generation.as_deref().unwrap_or("none known"))?;
    if let Some(peer) = &status.peer {
        field(out, "peer", peer)?;
    }
    if let Some(image) = &status.image {
        let what = if status.role == Role::Primary { "committed" } else { "holds" };
        let age = status.commit_age_ms.map_or_else(String::new, |age| format!(", committed {} ago", seconds(age)));
        field(out, what, format_args!("epoch {} of generation {}{age}", image.epoch, image.generation))?;
    }
    if let Some(reason) = &status.not_promotable {
        field(out, "not promotable", reason)?;
    }
    if status.standing == Some(Standing::Created) {
        field(out, "created", "this node is to boot the guest, which has never run")?;
    }
    if let Some(answer) = &status.authority {
        field(out, "authority", answer)?;
    }
    if let Some(trouble) = &status.trouble {
        field(out, "trouble", trouble)?;
    }
    if let Some(reason) = &status.halted {
        field(out, "halted", format_args!("{reason}; `reset` boots the guest anew"))?;
    }
    if let Some(crashes) = &status.crashes {
        field(out, "crashes", format_args!("{}, the last one: {}", crashes.count, crashes.last))?;
    }
    if status.mended_pages > 0 {
        field(out, "mended", format_args!("{} pages that the hardware had lost", status.mended_pages))?;
    }
    if let Some(sync) = &status.sync {
        field(out, "resync", bar(sync))?;
    }
    if let Some(gate) = &status.gate {
        show_gate(out, gate)?;
    }
    if let Some(checkpoints) = &status.checkpoints {
        show_checkpoints(out, checkpoints)?;
    }
    for nic in &status.nics {
        let line = format!(
            "{} sent {} frames ({} KiB), received {} ({} KiB), errors {}",
            nic.tap,
            nic.sent_frames,
            nic.sent_bytes / 1024,
            nic.received_frames,
            nic.received_bytes / 1024,
            nic.errors
        );
        field(out, "nic", line)?;
    }
    for disk in &status.disks {
        let line = format!(
            "{} {} reads ({} KiB), {} writes ({} KiB), {} flushes, {} in flight, errors {}",
            disk.path,
            disk.reads,
            disk.read_bytes / 1024,
            disk.writes,
            disk.written_bytes / 1024,
            disk.flushes,
            disk.in_flight,
            disk.errors
        );
        field(out, "disk", line)?;
    }
    let ConsoleStatus { written_bytes, dropped_bytes } = status.console;
    field(out, "console", format_args!("{written_bytes} bytes written, {dropped_bytes} lost"))
}

fn seconds(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) }
}

fn field(out: &mut impl Write, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "  {name:<15} {value}")
}

fn replication(status: &Status) -> &'static str {
    match status.replication {
        Replication::Alone if status.role == Role::Primary => "no standby is connected",
        Replication::Alone => "no primary is connected",
        Replication::Greeting => "connecting",
        Replication::Syncing => "resync on its way",
        Replication::Rehearsing => "the standby rehearses",
        Replication::Covering => "the standby is in sync, protection begins",
        Replication::Protected => "PROTECTED",
        Replication::InSync => "in sync",
        Replication::Frozen => "being promoted",
        Replication::Yielded => "handing over",
    }
}

fn bar(sync: &SyncProgress) -> String {
    let total = sync.total_pages.max(1);
    let full = (sync.done_pages.min(total) * CELLS / total) as usize;
    let percent = sync.done_pages.min(total) * 100 / total;
    format!(
        "[{:<cells$}] {percent:3} % of {} MiB, round {}",
        "#".repeat(full),
        sync.total_pages / 256,
        sync.round,
        cells = CELLS as usize
    )
}

fn show_gate(out: &mut impl Write, gate: &Gate) -> io::Result<()> {
    let state = match &gate.open {
        Some(reason) => format!("open ({reason})"),
        None => "closed".to_owned(),
    };
    let held = format!(
        "{state}, epoch {}, holds {} frames, {} writes, {} console, {} KiB",
        gate.epoch,
        gate.held_frames,
        gate.held_writes,
        gate.held_console,
        gate.held_bytes / 1024
    );
    field(out, "gate", held)
}

fn show_checkpoints(out: &mut impl Write, checkpoints: &Checkpoints) -> io::Result<()> {
    field(out, "checkpoints", format_args!("{}, {:.0} a second", checkpoints.count, checkpoints.per_second))?;
    for (name, figure, unit) in [
        ("  pause", checkpoints.pause_us, "µs"),
        ("  encode", checkpoints.encode_us, "µs"),
        ("  commit", checkpoints.commit_us, "µs"),
        ("  held", checkpoints.hold_us, "µs"),
        ("  dirty", checkpoints.dirty_pages, "pages"),
        ("  sent", checkpoints.sent_bytes, "bytes"),
    ] {
        let Figure { last, p50, p99 } = figure;
        field(out, name, format_args!("{last} {unit} now, {p50} median, {p99} at the 99th percentile"))?;
    }
    Ok(())
}

/// Shows an event on one line.
pub(super) fn event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let seconds = event.unix_ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    writeln!(
        out,
        "{hours:02}:{minutes:02}:{:02}.{:03}Z {:<17} {}",
        seconds % 60,
        event.unix_ms % 1000,
        event.kind,
        event.detail
    )
}
