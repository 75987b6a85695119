//! Two nodes on one machine, and what checks that nothing of the guest was lost between them.
//!
//! * [`Site`]: a network namespace with a bridge and a tap per node, a shared disk image, key and configurations; it hands
//!   out [`Node`]s, which are replicator processes;
//! * [`Load`]: a client that appends to the guest's ledger over one TCP connection for as long as it is let, and checks every
//!   answer; [`Probe`] asks for the guest's counter by UDP;
//! * [`DiskImage`]: the ledger as the disk has it, to be compared with what the clients were told.
//!
//! Whatever is found wrong is a [`Violation`]. The demo and the kill test are both made of this.

mod disk;
mod error;
mod load;
mod network;
mod node;
mod pair;
mod probe;
mod scratch;
mod site;
mod violation;
mod witness;

pub use disk::{DiskImage, Recorded};
pub use error::SiteError;
pub use load::{Load, LoadOptions, Progress};
pub use network::{BRIDGE_ADDRESS, GUEST_ADDRESS, Network};
pub use node::{Node, NodeName};
pub use pair::{Alone, Protected, Survivor};
pub use probe::Probe;
pub use site::{ReplicationMode, Site, SiteOptions};
pub use violation::Violation;
pub use witness::{Acknowledged, Witness};
