//! `kemari-kill-test`: kills the primary of a guest under load again and again, and finds out whether anyone could tell.
//!
//! One *round* is one site, one guest, and a number of kills with SIGKILL, each followed by promotion and resync, while TCP
//! clients append to the guest's ledger and a UDP client asks for its counter. A kill can be *aimed*: the primary is stopped,
//! its [evidence](kemari_replicator::evidence) read, and it is killed there or let go on.
//!
//! The *negative controls* plant one known bug at a time in the replicator and expect a round to fail. A test that cannot fail
//! would prove nothing.

mod aim;
mod controls;
mod kill;
mod memory;
mod program;
mod random;
mod report;
mod round;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kemari_site::ReplicationMode;

use crate::round::{Outcome, Round, RoundOptions};

/// Kills that one guest is put through: its ledger has room for 100,000 entries, of which a kill costs about 2,000.
const KILLS_PER_ROUND: u32 = 34;

/// Kills the primary of a guest under load again and again, and finds out whether anyone could tell.
#[derive(Debug, Parser)]
#[command(name = "kemari-kill-test", version)]
struct Arguments {
    /// How often the primary is killed
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Where the random choices begin; the same seed makes the same choices [default: drawn from the clock]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The replicator to be tested [default: built now]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// When checkpoints are cut
    #[arg(long, value_enum, default_value_t = Mode::Event)]
    replication_mode: Mode,
    /// CPUs of the guest, which works with one of them
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "controls")]
    vcpus: u8,
    /// Plant each of the known bugs and expect it to be caught
    #[arg(long)]
    controls: bool,
    /// Plant only this one of them
    #[arg(long, requires = "controls", value_name = "NAME")]
    bug: Option<String>,
    /// The replicator in which bugs can be planted [default: built now, with the feature `sabotage`]
    #[arg(long, requires = "controls", value_name = "PATH")]
    sabotage_binary: Option<PathBuf>,
    /// Instead of kills: have the hardware lose pages of the guest's memory
    #[arg(long, conflicts_with = "controls")]
    memory_errors: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Leave logs and disk in place if the test fails, and say where
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The guest stays paused until the acknowledgement
    Sync,
    /// The guest goes on while its checkpoint travels
    Event,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kemari-kill-test: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether the test has passed.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let mode = match arguments.replication_mode {
        Mode::Sync => ReplicationMode::Sync,
        Mode::Event => ReplicationMode::Event,
    };
    let seed = arguments.seed.unwrap_or_else(random::seed);
    if arguments.controls {
        let binary = match &arguments.sabotage_binary {
            Some(path) => path.clone(),
            None => program::build_with_sabotage()?,
        };
        let results = controls::run(&binary, mode, seed, arguments.bug.as_deref())?;
        report::controls(&results, arguments.json)?;
        return Ok(results.iter().all(controls::Control::passed));
    }
    let binary = match &arguments.binary {
        Some(path) => path.clone(),
        None => program::build()?,
    };
    if arguments.memory_errors {
        memory::run(binary)?;
        return Ok(true);
    }
    let mut outcome = Outcome::new(seed, arguments.kills);
    for (round_seed, kills) in (seed..).zip(rounds(arguments.kills)) {
        let options = RoundOptions::soak(binary.clone(), mode, round_seed, kills);
        Round::run(
            RoundOptions { vcpus: arguments.vcpus, keep_files: arguments.keep, ..options },
            &mut outcome,
            &mut report::line,
        )?;
        if !outcome.findings.is_empty() {
            break;
        }
    }
    report::round(&outcome, arguments.json)?;
    Ok(outcome.passed())
}

/// The kills of each round: as even as they can be, and not more than the guest's ledger has room for.
fn rounds(kills: u32) -> impl Iterator<Item = u32> {
    let rounds = kills.div_ceil(KILLS_PER_ROUND);
    (0..rounds).map(move |round| kills / rounds + u32::from(round < kills % rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_all_kills_between_them() {
        for kills in [1, 29, 30, 31, 100, 1000] {
            let rounds: Vec<u32> = rounds(kills).collect();
            assert_eq!(rounds.iter().sum::<u32>(), kills);
            assert!(rounds.iter().all(|&round| (1..=KILLS_PER_ROUND).contains(&round)));
        }
    }
}
