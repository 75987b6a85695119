//! The command line.
//!
//! Exit status: 0 if what was asked for is done, 1 if not (the reason is on stderr), 2 if the command line makes no sense, 3 if no
//! monitor runs that could be asked.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::Config;
use crate::control::{ControlError, Reply, Request, ask};
use crate::health::Health;
use crate::stop::stop;
use crate::{daemon, replay, show};

/// The exit status if no monitor runs.
const ABSENT: u8 = 3;

/// Why a command failed, as the operator is told.
type Failure = Box<dyn std::error::Error>;

/// Watches a host's hardware, so that guests leave it before it dies.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch this host
    Run {
        #[command(flatten)]
        daemon: Daemon,
        /// Log to syslog rather than to stderr
        #[arg(long)]
        syslog: bool,
    },
    /// Show what is known, what is watched, and what the cluster was told
    Status {
        #[command(flatten)]
        daemon: Daemon,
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget what a part has done: it was replaced, or you know better
    Clear {
        #[command(flatten)]
        daemon: Daemon,
        /// The part, as `status` names it; without it, every part
        part: Option<String>,
    },
    /// End the monitor that runs, by force if it does not end by itself
    Stop {
        #[command(flatten)]
        daemon: Daemon,
        /// How long that may take in all
        #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
        limit: u64,
    },
    /// Say what is wrong with a configuration
    Check {
        /// The configuration
        config: PathBuf,
    },
    /// Show what would have been decided about captured streams: printed or raw traces, kernel logs
    Replay {
        /// The thresholds to decide by; without it, the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// As one line of JSON
        #[arg(long)]
        json: bool,
        /// The streams, each taken for what it looks like; for a raw trace also its events' format files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print what your shell needs to complete these commands
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which daemon.
#[derive(Args)]
struct Daemon {
    /// Its configuration; without it, /etc/kemari/mce-monitor.toml, or the defaults if there is none
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Daemon {
    fn config(&self) -> Result<Config, Failure> {
        Ok(Config::find(self.config.as_deref())?)
    }

    /// The control socket, whatever else is wrong with the configuration by now.
    fn control(&self) -> Result<PathBuf, Failure> {
        Ok(Config::control_socket(self.config.as_deref())?)
    }

    fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        match ask(&self.control()?, request)? {
            Reply::Refused { reason } => Err(reason.into()),
            reply => Ok(reply),
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // `status | head` is no failure.
        Err(failure) if is_broken_pipe(failure.as_ref()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.to_string().lines() {
                eprintln!("kemari-mce-monitor: {line}");
            }
            if is_absent(failure.as_ref()) { ExitCode::from(ABSENT) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether no monitor runs, rather than one that does not answer.
fn is_absent(failure: &(dyn std::error::Error + 'static)) -> bool {
    let source = match failure.downcast_ref() {
        Some(ControlError::Connect { source, .. }) => source.kind(),
        _ => return false,
    };
    [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&source)
}

fn is_broken_pipe(failure: &(dyn std::error::Error + 'static)) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(command: Command) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Run { daemon, syslog } => {
            drop(out);
            let config = daemon.config()?;
            kemari_logging::start("kemari-mce-monitor", syslog)?;
            Ok(daemon::run(&config)?)
        }
        Command::Status { daemon, json } => match daemon.ask(&Request::Status)? {
            Reply::Status(status) if json => print(&mut out, &status),
            Reply::Status(status) => Ok(show::status(&mut out, &status)?),
            _ => Err("the answer is to something else".into()),
        },
        Command::Clear { daemon, part } => match daemon.ask(&Request::Clear { part })? {
            Reply::Done { detail } => Ok(writeln!(out, "{detail}")?),
            _ => Err("the answer is to something else".into()),
        },
        Command::Stop { daemon, limit } => {
            let was_there = stop(&daemon.control()?, Duration::from_secs(limit))?;
            Ok(writeln!(out, "{}", if was_there { "ended" } else { "no monitor runs" })?)
        }
        Command::Check { config } => {
            Config::load(&config)?;
            Ok(writeln!(out, "{}: nothing is wrong with it", config.display())?)
        }
        Command::Replay { config, json, files } => {
            let config = match config {
                Some(path) => Config::load(&path)?,
                None => Config::parse("", "".as_ref())?,
            };
            let replay = replay::replay(&files, Health::new(config.thresholds, config.daemon.parts_max))?;
            if json { print(&mut out, &replay) } else { Ok(show::replay(&mut out, &replay)?) }
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kemari-mce-monitor", &mut out);
            Ok(())
        }
    }
}

fn print(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["kemari-mce-monitor", "replay"]).is_err());
    }
}
