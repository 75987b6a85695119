//! What a replicator says about itself.

use serde::{Deserialize, Serialize};

/// Everything about one node of one guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The guest's name.
    pub guest: String,
    /// This node's name.
    pub node: String,
    /// This process.
    pub pid: u32,
    /// Whether the guest runs here.
    pub role: Role,
    /// Newest generation this node knows, as `number-id`.
    pub generation: Option<String>,
    /// What this node was in it, by its own durable record; none before the first.
    pub standing: Option<Standing>,
    /// What the authority was last asked and has answered, if that keeps this node waiting.
    pub authority: Option<String>,
    /// How the two nodes stand to each other, from this side.
    pub replication: Replication,
    /// The other node's name, once it has introduced itself on this link.
    pub peer: Option<String>,
    /// Why there is no replication, if the last attempt failed.
    pub trouble: Option<String>,
    /// The newest image the standby is known to hold (primary), or that is held here (standby).
    pub image: Option<ImageName>,
    /// How long ago the newest checkpoint was committed, in milliseconds.
    pub commit_age_ms: Option<u64>,
    /// On a primary, how often the guest has crashed since it was booted by somebody, if it has.
    #[serde(default)]
    pub crashes: Option<Crashes>,
    /// On a primary, why the guest stands still, if it does until somebody resets it or shuts it down.
    #[serde(default)]
    pub halted: Option<String>,
    /// Pages of the guest's memory that the hardware had lost, and that were mended from the standby.
    #[serde(default)]
    pub mended_pages: u64,
    /// On a standby, why it could not be promoted now.
    pub not_promotable: Option<String>,
    /// How far a resync is.
    pub sync: Option<SyncProgress>,
    /// On a primary, its gate.
    pub gate: Option<Gate>,
    /// On a primary, its checkpoints.
    pub checkpoints: Option<Checkpoints>,
    /// Network cards, in the order of the configuration.
    pub nics: Vec<NicStatus>,
    /// Disks, in the order of the configuration.
    pub disks: Vec<DiskStatus>,
    /// The serial port.
    pub console: ConsoleStatus,
}

/// The crashes of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    /// How many.
    pub count: u32,
    /// What the last one was: "panic", "triple fault", "KVM internal error" or "watchdog".
    pub last: String,
}

/// The two roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The guest runs here.
    Primary,
    /// It runs elsewhere, or nowhere.
    Standby,
}

/// What a node was when its durable record was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// `create` named it as the first to run the guest, which has never run.
    Created,
    /// It followed a primary.
    Standby,
    /// It followed a primary, which has gone on without it: what it holds is not to be resumed.
    Outdated,
    /// It ran the guest.
    Primary,
}

/// How the two nodes stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// There is no link.
    Alone,
    /// The two are introducing themselves.
    Greeting,
    /// The standby is being brought to the newest checkpoint.
    Syncing,
    /// The standby tries to load a checkpoint.
    Rehearsing,
    /// The standby is in sync; what was shown before is not yet covered.
    Covering,
    /// On a primary: the standby's acknowledgements gate the guest's output.
    Protected,
    /// On a standby: it can be promoted.
    InSync,
    /// On a standby: a promotion is on its way.
    Frozen,
    /// On a primary: it has handed over.
    Yielded,
}

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageName {
    /// Its history, as `number-id`.
    pub generation: String,
    /// The last epoch in it.
    pub epoch: u64,
    /// On a standby: whether it is the final one of a handover, and this node knows of nobody who has resumed it.
    #[serde(default)]
    pub is_final: bool,
}

/// How far a resync is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProgress {
    /// Pages sent.
    pub done_pages: u64,
    /// Pages sent and still to be sent; grows while the guest goes on writing.
    pub total_pages: u64,
    /// Rounds of copying begun.
    pub round: u32,
}

/// What waits at the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The epoch in progress.
    pub epoch: u64,
    /// Whether output leaves unheld, and why.
    pub open: Option<String>,
    /// Network frames held.
    pub held_frames: u64,
    /// Disk writes and flushes held.
    pub held_writes: u64,
    /// Console outputs held.
    pub held_console: u64,
    /// Bytes of everything held.
    pub held_bytes: u64,
}

/// The checkpoints of a primary. Figures are over the newest 2048.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Cut since this node became primary.
    pub count: u64,
    /// Cut in the last full second.
    pub per_second: f64,
    /// How long the guest stood still, µs.
    pub pause_us: Figure,
    /// Of that, until every vCPU had stopped and saved its registers, µs.
    pub stop_us: Figure,
    /// Pages in the checkpoint.
    pub dirty_pages: Figure,
    /// Bytes of pages and state.
    pub sent_bytes: Figure,
    /// To put the checkpoint on the link, encrypted, µs.
    pub encode_us: Figure,
    /// From the guest running again to the acknowledgement, µs.
    pub commit_us: Figure,
    /// How long the oldest output in the checkpoint had waited when it left, µs.
    pub hold_us: Figure,
}

/// One figure, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// Newest sample.
    pub last: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
}

/// A network card of the guest. Counters start with the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStatus {
    /// Its tap.
    pub tap: String,
    /// Frames sent.
    pub sent_frames: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Frames given to the guest.
    pub received_frames: u64,
    /// Bytes given to the guest.
    pub received_bytes: u64,
    /// Frames that the tap refused, or that did not fit the guest's buffers.
    pub errors: u64,
}

/// A disk of the guest. Counters start with the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its image.
    pub path: String,
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Requests handed to the host and not completed.
    pub in_flight: u64,
    /// Requests failed or refused.
    pub errors: u64,
}

/// The serial port. Counters start with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleStatus {
    /// Bytes given to the sink.
    pub written_bytes: u64,
    /// Bytes that nobody read in time.
    pub dropped_bytes: u64,
}
