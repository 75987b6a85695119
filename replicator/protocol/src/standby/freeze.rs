//! The freeze before a promotion: nothing is committed or acknowledged while it lasts.

use std::collections::VecDeque;

use crate::Message;

/// What may wait while frozen. A primary that sends more than this meanwhile lives.
const PARKED_LIMIT_BYTES: u64 = 64 << 20;

/// How far a freeze is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The primary is asked whether it lives.
    Probing {
        /// What its answer will have.
        nonce: u64,
    },
    /// It does not; the driver is about to be told.
    Certain,
    /// The driver knows.
    Told,
}

/// A freeze, and what arrived since.
#[derive(Debug)]
pub(super) struct Freeze {
    pub(super) progress: Progress,
    pub(super) parked: VecDeque<Message>,
    parked_bytes: u64,
}

impl Freeze {
    pub(super) fn new(progress: Progress) -> Freeze {
        Freeze { progress, parked: VecDeque::new(), parked_bytes: 0 }
    }

    /// Keeps a message for later. Returns whether there was room.
    pub(super) fn park(&mut self, message: Message) -> bool {
        self.parked_bytes += message.weight_bytes();
        self.parked.push_back(message);
        self.parked_bytes <= PARKED_LIMIT_BYTES
    }

    /// Drops what was kept: the link that it came on is over.
    pub(super) fn forget(&mut self) {
        self.parked.clear();
        self.parked_bytes = 0;
    }
}
