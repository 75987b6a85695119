//! The command line.
//!
//! Exit status: 0 if what was asked for is done, 1 if not (the reason is on stderr), 2 if the command line makes no sense.

mod console;
mod show;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use kemari_control::{Client, Reply, Request};
use kemari_core::Generation;

use crate::authority::{AuthorityError, Handler, Memory};
use crate::config::Config;
use crate::link::Key;
use crate::{bench, check, daemon, demo, metrics};

/// Where the guests' configurations are, each as NAME.toml.
const CONFIGURATIONS: &str = "/etc/kemari";

/// Why a command failed, as the operator is told.
type Failure = Box<dyn std::error::Error>;

/// Keeps a KVM guest alive when its host dies.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node of a guest: as standby-or-nothing, until it is told otherwise
    Run {
        #[command(flatten)]
        guest: Guest,
        /// A program, with arguments, that asks the cluster for this node; without it, the operator is the authority
        #[arg(long, value_name = "COMMAND")]
        handler: Option<String>,
        /// Log to syslog rather than to stderr
        #[arg(long)]
        syslog: bool,
    },
    /// Say what a configuration lacks on this host, and what to do about it
    Check(Guest),
    /// Name this node as the one that boots a new guest
    Create(Guest),
    /// Make a key, to be copied to the other node
    Keygen {
        /// The file to be made, for root only
        file: PathBuf,
    },
    /// Show what the node is doing
    Status {
        #[command(flatten)]
        node: Node,
        /// Show it again and again
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Run the guest here: resume it from the image held, or boot it if it never ran
    Promote {
        #[command(flatten)]
        node: Node,
        /// Boot it from its disk although it did run: what it had in memory is forgotten
        #[arg(long)]
        cold_boot: bool,
    },
    /// Stop running the guest here, after a final checkpoint that both nodes hold
    Demote(Node),
    /// Commit a checkpoint now
    Checkpoint(Node),
    /// Have checkpoints more often than configured, whichever role this node has, until it is reset
    Pace {
        #[command(flatten)]
        node: Node,
        /// Longest epoch, in ms; without it, as configured again
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
        max_epoch_ms: Option<u64>,
    },
    /// Hand the guest over to the standby
    Handover(Node),
    /// Let the guest go on without standby: your word that the standby will not be promoted
    RunUnprotected(Node),
    /// Promise that what this node holds of a generation is never resumed, whether its replicator runs or not
    Outdate {
        #[command(flatten)]
        guest: Guest,
        /// The generation, as `status` shows it
        #[arg(long, value_name = "NUMBER-ID")]
        generation: Generation,
        /// Only if nothing of this epoch of it or a later one was committed here: the primary has had this node back since
        #[arg(long, value_name = "EPOCH")]
        before_epoch: Option<u64>,
    },
    /// Shut the guest down; the replicator stays, as a standby that holds nothing
    Shutdown(Node),
    /// Reset the guest, as its reset button would: it boots anew
    Reset(Node),
    /// End the replicator: hand over if there is a standby in sync, else shut the guest down
    Stop(Node),
    /// Show what happens, as it happens
    Events {
        #[command(flatten)]
        node: Node,
        /// As lines of JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the figures of this host's replicators for Prometheus, or answer its scrapes
    Metrics(metrics::Options),
    /// Attach this terminal to the guest's serial console
    Console(Guest),
    /// Show on this machine alone how a guest survives: two nodes, a client, two kills (needs root and /dev/kvm)
    Demo(demo::Options),
    /// Measure on this machine what protection costs, beside what the machine does at best (needs root and /dev/kvm)
    Bench(bench::Options),
    /// Print what your shell needs to complete these commands
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which guest.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Guest {
    /// Its name, for /etc/kemari/GUEST.toml; or its configuration, if that has a '/' or ends in ".toml"
    guest: Option<PathBuf>,
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Guest {
    fn load(&self) -> Result<Config, Failure> {
        let named = self.guest.as_deref().map(configuration);
        let file = self.config.clone().or(named).ok_or("name the guest, or its configuration with --config")?;
        Ok(Config::load(&file)?)
    }
}

/// Where what names a guest on the command line says that its configuration is.
fn configuration(guest: &Path) -> PathBuf {
    let is_file = guest.components().count() > 1 || guest.extension() == Some("toml".as_ref());
    if is_file { guest.to_owned() } else { Path::new(CONFIGURATIONS).join(guest).with_added_extension("toml") }
}

/// Which replicator to talk to.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Node {
    /// The guest's name, for /etc/kemari/GUEST.toml; or its configuration, if that has a '/' or ends in ".toml"
    guest: Option<PathBuf>,
    /// The guest's configuration, which names the control socket
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket itself
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Node {
    fn connect(&self) -> Result<Client, Failure> {
        let path = match &self.socket {
            Some(socket) => socket.clone(),
            None => Guest { guest: self.guest.clone(), config: self.config.clone() }.load()?.node.control,
        };
        Ok(Client::connect(&path)?)
    }

    /// Has the node do something, and says what it says about it.
    fn order(&self, request: &Request) -> Result<(), Failure> {
        order(self.connect()?, request)
    }
}

fn order(mut node: Client, request: &Request) -> Result<(), Failure> {
    match node.request(request)? {
        Reply::Done { detail } => Ok(writeln!(io::stdout(), "{detail}")?),
        Reply::Refused { reason } => Err(reason.into()),
        Reply::Status(_) => Err("the answer is to something else".into()),
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
                eprintln!("kemari-replicator: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(failure: &(dyn std::error::Error + 'static)) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run { guest, handler, syslog } => {
            let config = guest.load()?;
            kemari_logging::start("kemari-replicator", syslog)?;
            let handler = handler.and_then(|command| Handler::new(&command, &config.guest.name, &config.node.name));
            Ok(daemon::run(config, handler)?)
        }
        Command::Check(guest) => check::run(&guest.load()?, &mut io::stdout()),
        Command::Create(guest) => create(&guest.load()?),
        Command::Keygen { file } => {
            Key::generate(&file)?;
            Ok(writeln!(io::stdout(), "{}: made; copy it to the other node, for root only there, too", file.display())?)
        }
        Command::Status { node, watch, json } => status(&node, watch, json),
        Command::Promote { node, cold_boot } => node.order(&Request::Promote { cold_boot }),
        Command::Demote(node) => node.order(&Request::Demote),
        Command::Checkpoint(node) => node.order(&Request::Checkpoint),
        Command::Pace { node, max_epoch_ms } => node.order(&Request::Pace { max_epoch_ms }),
        Command::Handover(node) => node.order(&Request::Handover),
        Command::RunUnprotected(node) => node.order(&Request::RunUnprotected),
        Command::Outdate { guest, generation, before_epoch } => outdate(&guest.load()?, generation, before_epoch),
        Command::Shutdown(node) => node.order(&Request::Shutdown),
        Command::Reset(node) => node.order(&Request::Reset),
        Command::Stop(node) => node.order(&Request::Stop),
        Command::Events { node, json } => events(&node, json),
        Command::Metrics(options) => {
            kemari_logging::start("kemari-replicator", false)?;
            Ok(metrics::run(&options)?)
        }
        Command::Console(guest) => console::attach(&guest.load()?),
        Command::Demo(options) => Ok(demo::run(&options)?),
        Command::Bench(options) => Ok(bench::run(&options)?),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kemari-replicator", &mut io::stdout());
            Ok(())
        }
    }
}

fn create(config: &Config) -> Result<(), Failure> {
    let generation = Memory::open(&config.node.state_dir, &config.guest.name)?.create()?;
    writeln!(
        io::stdout(),
        "guest {} created (generation {generation}); `promote` on this node boots it",
        config.guest.name
    )?;
    Ok(())
}

/// The running replicator promises; if none runs, this process does, under its lock.
fn outdate(config: &Config, generation: Generation, before_epoch: Option<u64>) -> Result<(), Failure> {
    match Memory::open(&config.node.state_dir, &config.guest.name) {
        Ok(mut memory) => {
            memory.outdate(generation)?;
            Ok(writeln!(io::stdout(), "outdated in generation {generation}; no replicator runs here")?)
        }
        Err(AuthorityError::Locked { .. }) => {
            let request = Request::Outdate { generation: generation.to_string(), before_epoch };
            order(Client::connect(&config.node.control)?, &request)
        }
        Err(error) => Err(error.into()),
    }
}

fn status(node: &Node, watch: bool, json: bool) -> Result<(), Failure> {
    let mut client = node.connect()?;
    let mut out = io::stdout().lock();
    loop {
        let status = client.status()?;
        if json {
            serde_json::to_writer(&mut out, &status)?;
            writeln!(out)?;
        } else {
            if watch {
                // Home, and clear to the end of the screen (ECMA-48).
                write!(out, "\x1b[H\x1b[J")?;
            }
            show::status(&mut out, &status)?;
        }
        if !watch {
            return Ok(());
        }
        out.flush()?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn events(node: &Node, json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for event in node.connect()?.events()? {
        let event = event?;
        if json {
            serde_json::to_writer(&mut out, &event)?;
            writeln!(out)?;
        } else {
            show::event(&mut out, &event)?;
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The manual's command section begins each command's paragraph with its name.
    #[test]
    fn every_command_is_in_the_manual_and_can_be_completed() {
        let manual = include_str!("../man/kemari-replicator.8");
        let commands = manual.split(".SH COMMANDS").nth(1).and_then(|rest| rest.split(".SH HANDLER").next());
        let described: Vec<&str> = commands
            .expect("the section")
            .split(".TP\n")
            .filter_map(|paragraph| paragraph.split_once(' ')?.1.split(['"', ' ', '\n']).find(|word| !word.is_empty()))
            .collect();
        let mut completions = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "kemari-replicator", &mut completions);
        let completions = String::from_utf8(completions).expect("text");
        let cli = Cli::command();
        for command in cli.get_subcommands().map(clap::Command::get_name) {
            assert!(described.contains(&command), "{command} is not among {described:?}");
            assert!(completions.split_whitespace().any(|word| word == command), "{command} is not completed");
        }
    }

    #[test]
    fn a_name_is_of_a_guest_and_a_path_of_a_file() {
        for (said, file) in [
            ("web", "/etc/kemari/web.toml"),
            ("web.2", "/etc/kemari/web.2.toml"),
            ("web.toml", "web.toml"),
            ("./web", "./web"),
            ("/srv/web", "/srv/web"),
        ] {
            assert_eq!(configuration(Path::new(said)), Path::new(file), "{said}");
        }
    }

    #[test]
    fn a_node_is_named_once() {
        assert!(Cli::try_parse_from(["kemari-replicator", "status"]).is_err());
        assert!(Cli::try_parse_from(["kemari-replicator", "status", "--config", "a", "--socket", "b"]).is_err());
        assert!(Cli::try_parse_from(["kemari-replicator", "status", "web", "--socket", "b"]).is_err());
        assert!(Cli::try_parse_from(["kemari-replicator", "console"]).is_err());
        assert!(Cli::try_parse_from(["kemari-replicator", "check", "web", "--config", "b"]).is_err());
        assert!(Cli::try_parse_from(["kemari-replicator", "promote", "web", "--cold-boot"]).is_ok());
        assert!(Cli::try_parse_from(["kemari-replicator", "run", "--config", "a", "--syslog"]).is_ok());
        assert!(Cli::try_parse_from(["kemari-replicator", "promote", "--cold-boot", "--socket", "b"]).is_ok());
        assert!(Cli::try_parse_from(["kemari-replicator", "pace", "--socket", "b", "--max-epoch-ms", "0"]).is_err());
    }
}
