//! Which disks this host and its guests need, found out beside the event loop: where a disk hangs, so does who asks for a file on it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::sinks::{Guests, Mail, Mailbox};
use crate::sources::disks_of;

/// What was found last.
pub(super) struct Needed(Arc<Mailbox<BTreeSet<String>>>);

impl Needed {
    /// Looks at once, and then now and then.
    pub(super) fn look(sysfs: PathBuf, guests: Guests, interval: Duration) -> Needed {
        let found = Arc::default();
        let needed = Needed(Arc::clone(&found));
        // Nobody waits for the thread: it may hang, and ends with the process.
        thread::spawn(move || {
            loop {
                let mut paths = guests.disks();
                paths.push("/".into());
                found.put(disks_of(&sysfs, &paths));
                thread::sleep(interval);
            }
        });
        needed
    }

    /// What was found since it was asked last, if something is within `limit`.
    pub(super) fn found(&self, limit: Duration) -> Option<BTreeSet<String>> {
        if let Mail::New(disks) = self.0.take(limit) { Some(disks) } else { None }
    }
}
