//! Known bugs that can be planted, so that the kill test can show that it would catch them.
//!
//! Every place that can be sabotaged asks [`planted`]. Without the cargo feature `sabotage` that is a constant `false` and
//! the question leaves no trace in the program; with it, the environment variable `KEMARI_SABOTAGE` names one bug.

/// The bugs that can be planted, each a way in which others have lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Output is released the moment it is held.
    ReleaseAtHold,
    /// The standby acknowledges a checkpoint when its first bytes arrive, before it is whole and verified.
    AckBeforeVerify,
    /// After a load, requests that were in flight are forgotten.
    ForgetPending,
    /// After a load, each queue starts at its used index instead of its saved available index.
    RewindAvail,
    /// Pages that the VMM itself wrote are missing from the dirty set.
    LoseVmmWrites,
    /// Promotion keeps what has arrived of the checkpoint in flight.
    PromotePartial,
    /// A block write is reported done to the guest, and its data written, when it is taken from the queue.
    AnswerWriteEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 7] = [
        Bug::ReleaseAtHold,
        Bug::AckBeforeVerify,
        Bug::ForgetPending,
        Bug::RewindAvail,
        Bug::LoseVmmWrites,
        Bug::PromotePartial,
        Bug::AnswerWriteEarly,
    ];

    /// Its name in `KEMARI_SABOTAGE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bug::ReleaseAtHold => "release-at-hold",
            Bug::AckBeforeVerify => "ack-before-verify",
            Bug::ForgetPending => "forget-pending",
            Bug::RewindAvail => "rewind-avail",
            Bug::LoseVmmWrites => "lose-vmm-writes",
            Bug::PromotePartial => "promote-partial",
            Bug::AnswerWriteEarly => "answer-write-early",
        }
    }
}

/// Whether this bug is planted in this process.
#[inline(always)]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    is_planted(bug.name())
}

/// Whether the bug of that name is planted in this process.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn is_planted(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("KEMARI_SABOTAGE").ok()).as_deref() == Some(name)
}

/// Whether the bug of that name is planted in this process: never, in a build without the feature.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
#[must_use]
pub fn is_planted(_name: &str) -> bool {
    false
}
