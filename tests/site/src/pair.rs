//! The two nodes of a site, as what they are to each other.
//!
//! ```text
//!   boot ──▶ Protected ──kill_primary──▶ Survivor ──promote──▶ Alone
//!              ▲  └─hand_over─▶ Protected                        │
//!              └────────────────────rejoin───────────────────────┘
//! ```

use std::time::{Duration, Instant};

use kemari_control::{Replication, Request, Status};

use crate::{Node, NodeName, Site, SiteError};

/// How long a standby may take to get in sync.
const RESYNC_LIMIT: Duration = Duration::from_secs(30);
/// How long a planned change of roles may take from the word to the end.
const HANDOVER_LIMIT: Duration = Duration::from_secs(15);

/// A primary whose output waits for its standby's acknowledgements.
#[derive(Debug)]
pub struct Protected {
    /// The node with the guest.
    pub primary: Node,
    /// The node that follows.
    pub standby: Node,
}

/// A standby whose primary is dead.
#[derive(Debug)]
pub struct Survivor {
    standby: Node,
}

/// A primary without standby.
#[derive(Debug)]
pub struct Alone {
    /// The node with the guest.
    pub primary: Node,
}

impl Protected {
    /// Boots the guest on [`Alpha`](NodeName::Alpha) and waits until [`Beta`](NodeName::Beta) protects it.
    ///
    /// # Errors
    /// A node does not do its part.
    pub fn boot(site: &Site, progress: impl FnMut(&Status)) -> Result<Protected, SiteError> {
        site.create_guest(NodeName::Alpha)?;
        let primary = site.start(NodeName::Alpha)?;
        primary.request("boot the guest", &Request::Promote { cold_boot: false })?;
        Alone { primary }.rejoin(site, progress)
    }

    /// Kills the primary, which may be frozen, with SIGKILL.
    ///
    /// # Errors
    /// It was dead before.
    pub fn kill_primary(self) -> Result<Survivor, SiteError> {
        self.primary.kill()?;
        Ok(Survivor { standby: self.standby })
    }

    /// Whether the primary ends by itself within `limit`.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn primary_ends(&mut self, limit: Duration) -> Result<bool, SiteError> {
        let begun = Instant::now();
        while self.primary.ended()?.is_none() {
            if begun.elapsed() >= limit {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// The primary has ended by itself.
    #[must_use]
    pub fn ended(self) -> Survivor {
        Survivor { standby: self.standby }
    }

    /// Has the primary hand the guest over to the standby, and waits until the guest is protected the other way round.
    ///
    /// # Errors
    /// A node does not do its part.
    pub fn hand_over(self) -> Result<Protected, SiteError> {
        let Protected { primary, standby } = self;
        primary.request("hand over", &Request::Handover)?;
        let (mut primary, standby) = (standby, primary);
        primary.wait("protected", HANDOVER_LIMIT, is_protected)?;
        Ok(Protected { primary, standby })
    }
}

impl Survivor {
    /// The standby.
    #[must_use]
    pub fn standby(&self) -> &Node {
        &self.standby
    }

    /// Promotes the standby. The guest runs there when this returns.
    ///
    /// # Errors
    /// It refuses.
    pub fn promote(self) -> Result<Alone, SiteError> {
        self.standby.request("be promoted", &Request::Promote { cold_boot: false })?;
        Ok(Alone { primary: self.standby })
    }
}

impl Alone {
    /// Starts the other node as a standby and waits until it protects the guest. `progress` sees the primary's status now and
    /// then on the way.
    ///
    /// # Errors
    /// A node does not do its part.
    pub fn rejoin(self, site: &Site, mut progress: impl FnMut(&Status)) -> Result<Protected, SiteError> {
        let Alone { mut primary } = self;
        let standby = site.start(primary.name().peer())?;
        primary.wait("protected", RESYNC_LIMIT, |status| {
            progress(status);
            is_protected(status)
        })?;
        Ok(Protected { primary, standby })
    }
}

fn is_protected(status: &Status) -> bool {
    status.replication == Replication::Protected
}
