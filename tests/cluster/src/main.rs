//! `kemari-cluster-test`: guests on a real cluster of two hosts, corosync and pacemaker in namespaces, through every loss and
//! every planned move, with clients outside that check every answer; and how long each takes beside `ocf:pacemaker:Stateful`.

mod cluster;
mod command;
mod controls;
mod error;
mod fence;
mod floor;
mod ledger;
mod machine;
mod report;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Parser;

use crate::cluster::{Cluster, Programs};
use crate::error::ClusterError;
use crate::report::Timings;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Puts a guest on a real cluster through every loss and every planned move.
#[derive(Debug, Parser)]
#[command(name = "kemari-cluster-test", version)]
struct Arguments {
    /// What to do [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Only tell what there is
    #[arg(long)]
    list: bool,
    /// The directory of the programs: kemari-replicator, kemari-agent and kemari-mce-monitor
    #[arg(long, value_name = "DIRECTORY", default_value = "target/release")]
    programs: PathBuf,
    /// The source tree, for the OCF entry points and the examples
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    source: PathBuf,
    /// How often a timing is taken
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Plant known bugs in the agent, one at a time, each of which must make its scenario fail
    #[arg(long, conflicts_with = "scenarios")]
    controls: bool,
    /// Plant only this bug
    #[arg(long, value_name = "NAME", requires = "controls")]
    bug: Option<String>,
    /// Leave the files in place if something fails, and say where
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in scenarios::ALL {
            println!("{:<22} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kemari-cluster-test: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the operator wants it to end.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn run(arguments: &Arguments) -> Result<bool, ClusterError> {
    let unknown = arguments.scenarios.iter().find(|name| !scenarios::ALL.iter().any(|known| known.name == **name));
    if let Some(name) = unknown {
        return Err(ClusterError::Wrong(format!("there is no scenario {name:?}; --list tells which there are")));
    }
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&flag))
            .map_err(error::io("catch signals"))?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(error::io("catch signals"))?;
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(error::io("find the programs"));
    let (programs, source) = (absolute(&arguments.programs)?, absolute(&arguments.source)?);
    let programs = Programs {
        replicator: programs.join("kemari-replicator"),
        agent: programs.join("kemari-agent"),
        monitor: programs.join("kemari-mce-monitor"),
        ocf: source.join("ocf"),
        ocft: source.join("tests/cluster/ocft"),
        examples: source.join("pcs-examples"),
        sabotage: None,
    };
    if arguments.controls {
        return controls::run(&programs, arguments.bug.as_deref());
    }
    let begun = Instant::now();
    let mut cluster = Cluster::up(&programs)?;
    println!("a cluster of two hosts is up after {:.1} s", begun.elapsed().as_secs_f64());
    let mut timings = Timings::default();
    let mut failed = 0;
    for scenario in scenarios::ALL {
        if !arguments.scenarios.is_empty() && !arguments.scenarios.iter().any(|name| name == scenario.name) {
            continue;
        }
        let begun = Instant::now();
        match scenarios::play(scenario, &mut cluster, &mut timings, arguments.repeat) {
            Ok(said) => println!("ok      {:<22} {:5.1} s  {said}", scenario.name, begun.elapsed().as_secs_f64()),
            Err(ClusterError::Interrupted) => return Err(ClusterError::Interrupted),
            Err(error) => {
                failed += 1;
                println!("FAILED  {:<22} {error}", scenario.name);
                println!("{}", cluster.evidence());
                if arguments.keep {
                    println!("files are left in {}", cluster.keep_files().display());
                }
                cluster = anew(cluster, &programs)?;
            }
        }
    }
    print!("{}", timings.table());
    let far_missed = timings.far_missed();
    for event in &far_missed {
        println!("FAILED  {event}: it takes more than {} times as long as it is to take", report::HEADROOM);
    }
    Ok(failed == 0 && far_missed.is_empty())
}

/// Another cluster: what a scenario that failed has left behind must not make the next one fail.
fn anew(old: Cluster, programs: &Programs) -> Result<Cluster, ClusterError> {
    drop(old);
    Cluster::up(programs)
}
