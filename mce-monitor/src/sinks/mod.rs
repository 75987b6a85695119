//! Who is told: Pacemaker, the replicators of this host's guests, and the file that survives a restart. Each has a thread of its own,
//! because each may take its time; none sees more than the newest of what was to be told.

mod cluster;
mod command;
mod guests;
mod keeper;
mod mailbox;
mod publisher;

pub(crate) use guests::Guests;
pub(crate) use keeper::Keeper;
pub(crate) use mailbox::{Mail, Mailbox};
pub(crate) use publisher::{News, Publisher};
