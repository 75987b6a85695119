//! Both ends of the tests with a Linux guest, as one static program: `serve` in the guest, the rest outside.
//!
//! A session is held to account by what it must remember: the server counts a session's requests, so that the client sees by every
//! answer whether the guest has forgotten one, or served one twice; and every answer carries the guest's clock.

mod clocks;
mod error;
mod page;
mod pattern;
mod report;
mod serve;
mod talk;
mod timer;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub(crate) use error::Error;
use report::Contract;

/// Where the service is, by TCP and by UDP.
const PORT: u16 = 7000;

/// Both ends of the tests with a Linux guest.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// In the guest: answers for ever
    Serve,
    /// Outside: one TCP session and a UDP exchange, until the file exists
    Talk {
        /// The guest
        address: Ipv4Addr,
        /// The file that ends it
        until: PathBuf,
    },
    /// Outside: so many MiB each way, every byte checked
    Bulk {
        /// The guest
        address: Ipv4Addr,
        /// How many
        mib: u64,
    },
    /// Outside: a shell's command line in the guest, and what it says
    Run {
        /// The guest
        address: Ipv4Addr,
        /// One line
        command: String,
    },
    /// On the host: the physical address of a page of the guest
    Page {
        /// The replicator
        pid: u32,
        /// The guest's memory
        mib: u64,
        /// What the page begins with; without it, one that is written to all the time
        marker: Option<String>,
    },
    /// Outside, right before an outage: the guest's clocks are watched from here on
    Mark {
        /// The guest
        address: Ipv4Addr,
        /// What `clocks` is to be told
        file: PathBuf,
        /// A timer of the guest that expires so long after
        #[arg(long, default_value_t = 5000)]
        timer_ms: u64,
    },
    /// Outside, after an outage: whether the guest's clocks are right
    Clocks {
        /// The guest
        address: Ipv4Addr,
        /// Of `mark`
        file: PathBuf,
        /// That it has, and that must be at work
        #[arg(long)]
        cpus: u64,
        /// How long nobody ran it, at least
        #[arg(long)]
        outage_ms: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve => serve::serve(),
        Command::Page { pid, mib, marker } => page::page(pid, mib, marker.as_deref()),
        Command::Talk { address, until } => talk::talk(address, &until),
        Command::Bulk { address, mib } => talk::bulk(address, mib << 20),
        Command::Run { address, command } => talk::run(address, &command),
        Command::Mark { address, file, timer_ms } => talk::mark(address, &file, Duration::from_millis(timer_ms)),
        Command::Clocks { address, file, cpus, outage_ms } => {
            talk::clocks(address, &file, Contract { cpus, outage: Duration::from_millis(outage_ms) })
        }
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
