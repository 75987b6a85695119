//! What a node says about itself: to the control socket, and into its evidence.

use std::time::Instant;

use kemari_control::{
    Checkpoints, ConsoleStatus, Crashes, DiskStatus, Gate, ImageName, NicStatus, Replication, Role as RoleName, Status,
    SyncProgress,
};
use kemari_core::{ConsentReason, Image};
use kemari_protocol::{primary, standby};
use kemari_vmm::{Output, OutputKind};

use super::host::Host;
use super::node::Role;
use super::primary::Primary;
use super::standby::Standby;
use crate::evidence::Evidence;

/// Everything about this node.
pub(super) fn status(now: Instant, host: &Host, role: Option<&Role>) -> Status {
    let status = Status {
        guest: host.config.guest.name.clone(),
        node: host.config.node.name.clone(),
        pid: std::process::id(),
        role: RoleName::Standby,
        generation: host.authority.generation().map(|generation| generation.to_string()),
        standing: host.authority.standing(),
        authority: host.authority_says.clone(),
        replication: Replication::Alone,
        peer: None,
        trouble: None,
        image: None,
        crashes: None,
        halted: None,
        mended_pages: host.mended_pages,
        commit_age_ms: host.committed_at.map(|at| now.saturating_duration_since(at).as_millis() as u64),
        not_promotable: None,
        sync: None,
        gate: None,
        checkpoints: None,
        nics: nics(host),
        disks: disks(host),
        console: console(host),
    };
    match role {
        Some(Role::Primary(primary)) => {
            let crashes = host.ledger.crashes();
            let crashes = crashes.map(|(count, last)| Crashes { count, last: last.to_string() });
            primary_status(now, primary, Status { crashes, ..status })
        }
        Some(Role::Standby(standby)) => standby_status(standby, status),
        None => status,
    }
}

fn standby_status(standby: &Standby, status: Status) -> Status {
    let protocol = standby.protocol.status();
    Status {
        replication: match protocol.phase {
            standby::Phase::Alone => Replication::Alone,
            standby::Phase::Greeting => Replication::Greeting,
            standby::Phase::Syncing => Replication::Syncing,
            standby::Phase::InSync => Replication::InSync,
            standby::Phase::Frozen => Replication::Frozen,
        },
        peer: protocol.peer,
        trouble: standby.trouble.clone(),
        image: protocol.image.as_ref().map(|image| ImageName { is_final: standby.holds_final(), ..image_name(image) }),
        not_promotable: standby.promotable().err(),
        ..status
    }
}

fn primary_status(now: Instant, primary: &Primary, status: Status) -> Status {
    let protocol = primary.protocol.status();
    let mut sync = None;
    let replication = match protocol.phase {
        primary::Phase::Alone => Replication::Alone,
        primary::Phase::Greeting => Replication::Greeting,
        primary::Phase::Syncing { done, total, round } => {
            sync = Some(SyncProgress { done_pages: done, total_pages: total, round });
            Replication::Syncing
        }
        primary::Phase::Rehearsing => Replication::Rehearsing,
        primary::Phase::Covering => Replication::Covering,
        primary::Phase::Protected => Replication::Protected,
        primary::Phase::Yielded | primary::Phase::Superseded => Replication::Yielded,
    };
    Status {
        role: RoleName::Primary,
        replication,
        peer: protocol.peer,
        trouble: primary.peer.trouble(),
        image: protocol.committed.as_ref().map(image_name),
        halted: primary.halted.clone(),
        sync,
        gate: Some(gate(primary)),
        checkpoints: Some(checkpoints(now, primary)),
        ..status
    }
}

fn gate(primary: &Primary) -> Gate {
    let held = Held::of(primary);
    Gate {
        epoch: primary.gate.epoch().number(),
        open: primary.gate.consent().map(|consent| match consent.reason() {
            ConsentReason::Operator => "the operator consented".to_owned(),
            ConsentReason::NamedAlone => "the record names this node alone".to_owned(),
        }),
        held_frames: held.frames,
        held_writes: held.writes,
        held_console: held.console,
        held_bytes: primary.gate.held_bytes() as u64,
    }
}

fn checkpoints(now: Instant, primary: &Primary) -> Checkpoints {
    let metrics = &primary.metrics;
    Checkpoints {
        count: metrics.checkpoints,
        per_second: metrics.rate_per_second(now),
        pause_us: metrics.pause_us.summary(),
        stop_us: metrics.stop_us.summary(),
        dirty_pages: metrics.dirty_pages.summary(),
        sent_bytes: metrics.sent_bytes.summary(),
        encode_us: metrics.encode_us.summary(),
        commit_us: metrics.commit_us.summary(),
        hold_us: metrics.hold_us.summary(),
    }
}

fn image_name(image: &Image) -> ImageName {
    ImageName { generation: image.generation.to_string(), epoch: image.epoch.number(), is_final: false }
}

fn nics(host: &Host) -> Vec<NicStatus> {
    let stats = host.machine.net_stats();
    host.config
        .nics
        .iter()
        .zip(stats)
        .map(|(nic, stats)| NicStatus {
            tap: nic.tap.clone(),
            sent_frames: stats.sent_frames,
            sent_bytes: stats.sent_bytes,
            received_frames: stats.received_frames,
            received_bytes: stats.received_bytes,
            errors: stats.send_errors + stats.receive_drops,
        })
        .collect()
}

fn disks(host: &Host) -> Vec<DiskStatus> {
    let stats = host.machine.disk_stats();
    host.config
        .disks
        .iter()
        .zip(stats)
        .map(|(disk, stats)| DiskStatus {
            path: disk.path.display().to_string(),
            reads: stats.reads,
            read_bytes: stats.read_bytes,
            writes: stats.writes,
            written_bytes: stats.written_bytes,
            flushes: stats.flushes,
            in_flight: stats.reads_in_flight + stats.writes_in_flight,
            errors: stats.errors,
        })
        .collect()
}

fn console(host: &Host) -> ConsoleStatus {
    let stats = host.machine.console_stats();
    ConsoleStatus { written_bytes: stats.written_bytes, dropped_bytes: stats.dropped_bytes }
}

/// What the gate holds, by kind.
#[derive(Default)]
struct Held {
    frames: u64,
    writes: u64,
    console: u64,
}

impl Held {
    fn of(primary: &Primary) -> Held {
        let mut held = Held::default();
        for (_, output) in primary.gate.held() {
            match Output::kind(output) {
                OutputKind::Frame => held.frames += 1,
                OutputKind::Write | OutputKind::Flush => held.writes += 1,
                OutputKind::Console => held.console += 1,
            }
        }
        held
    }
}

/// What would be of interest if this process died now.
pub(super) fn evidence(host: &Host, role: Option<&Role>) -> Evidence {
    match role {
        Some(Role::Primary(primary)) => {
            let (held, protocol) = (Held::of(primary), primary.protocol.status());
            Evidence {
                epoch: primary.gate.epoch().number(),
                committed_epoch: protocol.committed.map_or(0, |image| image.epoch.number()),
                held_frames: held.frames,
                held_writes: held.writes,
                held_console: held.console,
                held_bytes: primary.gate.held_bytes() as u64,
                disk_writes: host.machine.disk_stats().iter().map(|stats| stats.writes_in_flight).sum(),
                checkpoints_in_flight: protocol.in_flight as u64,
                transfer_bytes: if protocol.in_flight > 0 { primary.metrics.sent_bytes.last() } else { 0 },
                unsent_bytes: primary.link.as_ref().map_or(0, |link| link.queued_bytes() as u64),
            }
        }
        Some(Role::Standby(standby)) => Evidence {
            committed_epoch: standby.protocol.status().image.map_or(0, |image| image.epoch.number()),
            ..Evidence::default()
        },
        None => Evidence::default(),
    }
}
