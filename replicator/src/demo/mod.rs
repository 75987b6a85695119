//! The demonstration: two nodes on this machine, a guest, and a client that must not notice what happens to them.
//!
//! Everything is made here and gone afterwards: a network namespace with a bridge and two taps, a shared disk, two replicators.
//! One TCP connection is opened at the beginning and must live to the end; every entry that the guest acknowledges on it must
//! be on the disk exactly once.

mod screen;
mod stage;

use std::io;

use kemari_site::{SiteError, Violation};

use self::stage::Stage;

/// How the demonstration is to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds of load before each event
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=6))]
    pub seconds: u64,
}

/// Why the demonstration has not shown what it was to show.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// It cannot be made here, or a node failed.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Something was lost: exactly what must not happen.
    #[error("something was lost: {0}")]
    Lost(#[from] Violation),
    /// The client stopped for no reason that it gave.
    #[error("the client has had no answer for {seconds} s after {event}")]
    Silent {
        /// How long.
        seconds: u64,
        /// What had happened.
        event: &'static str,
    },
    /// ^C or SIGTERM.
    #[error("interrupted; nothing is left behind")]
    Interrupted,
    /// Signals cannot be caught, or this program not be found.
    #[error("cannot begin: {0}")]
    Begin(#[from] io::Error),
}

/// Gives the demonstration. It leaves nothing behind, however it ends.
///
/// # Errors
/// Something was lost, or it cannot be given on this machine.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let mut stage = Stage::set(options)?;
    let pair = stage.open()?;
    stage.stream(&pair)?;
    let pair = stage.kill(pair, "first kill")?;
    stage.stream(&pair)?;
    let pair = stage.hand_over(pair)?;
    stage.stream(&pair)?;
    let pair = stage.kill(pair, "second kill")?;
    stage.stream(&pair)?;
    stage.close(pair)
}
