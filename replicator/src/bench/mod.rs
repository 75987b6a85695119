//! The benchmark: what this machine does at best, and what a guest that survives its death costs beside that.
//!
//! Everything is measured on the path that is shipped: two replicator processes over loopback, encrypted, a real guest, a
//! shared disk opened O_DIRECT. The floors are those of `kemari-floor`, a program of its own that has none of this code, run at
//! the beginning. Where the project has set itself a ratio to be reached, the table says whether it was met in this run; a slow
//! day is no error.

mod checkpoints;
mod error;
mod floor;
mod load;
mod memory;
mod process;
mod promotion;
mod resync;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use kemari_site::{ReplicationMode, SiteOptions};
use signal_hook::consts::{SIGINT, SIGTERM};

pub use self::error::BenchError;
use self::floor::Floors;
use self::table::Row;

/// Pages a second that no guest gets through with rewriting, so that it does not rest.
const RESTLESS: u64 = 10_000_000;

/// How the benchmark is to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to measure [default: all]
    #[arg(value_enum)]
    pub parts: Vec<Part>,
    /// Print one line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Take fewer samples, and leave out the largest guest
    #[arg(long)]
    pub quick: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What a checkpoint costs, by the number of its pages
    Checkpoints,
    /// How fast a standby is brought in sync
    Resync,
    /// How long a promotion takes
    Promotion,
    /// How much memory two nodes need
    Memory,
    /// What clients get of a guest, and what an idle one costs
    Load,
}

/// What every part works with.
struct Bench {
    binary: PathBuf,
    floors: Floors,
    quick: bool,
    json: bool,
    interrupted: Arc<AtomicBool>,
    rows: Vec<Row>,
}

/// Measures what is asked for and prints it. All of it takes two to three minutes, half a minute if it is to be quick.
///
/// # Errors
/// It cannot be done on this machine, or a node failed. A target that was missed is none.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(BenchError::Begin)?;
    }
    let binary = std::env::current_exe().map_err(BenchError::Begin)?;
    let Options { ref parts, json, quick } = *options;
    let floors = Floors::measure(&binary, quick)?;
    let mut bench = Bench { binary, floors, quick, json, interrupted, rows: Vec::new() };
    if !json {
        print(&table::heading(&bench.floors))?;
    }
    for part in Part::value_variants().iter().filter(|part| parts.is_empty() || parts.contains(part)) {
        match part {
            Part::Checkpoints => checkpoints::measure(&mut bench),
            Part::Resync => resync::measure(&mut bench),
            Part::Promotion => promotion::measure(&mut bench),
            Part::Memory => memory::measure(&mut bench),
            Part::Load => load::measure(&mut bench),
        }?;
    }
    print(&if json { table::json(&bench.floors, &bench.rows) } else { table::verdict(&bench.rows) })
}

impl Bench {
    /// The options of a site with a guest of that size, whose memory workload is off.
    fn site(&self, memory_mib: u64) -> SiteOptions {
        SiteOptions {
            binary: self.binary.clone(),
            mode: ReplicationMode::Event,
            vcpus: 1,
            memory_mib,
            dirty_pages: 0,
            dirty_rate: 0,
            disk_mib: 64,
            socket_buffer_bytes: None,
            sabotage: None,
        }
    }

    /// `full`, or `quick` if it is to be quick.
    fn effort<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Takes in rows of the table, and shows them.
    fn add(&mut self, title: &str, rows: Vec<Row>) -> Result<(), BenchError> {
        if !self.json {
            print(&table::section(title, &rows))?;
        }
        self.rows.extend(rows.into_iter().map(|row| Row { section: title.to_owned(), ..row }));
        Ok(())
    }

    /// To be asked again and again: what is under way is taken down in order when the benchmark is interrupted.
    fn go_on(&self) -> Result<(), BenchError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
    }
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BenchError::Print)
}
