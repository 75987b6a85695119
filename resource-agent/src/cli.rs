//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{attend, authority, ocf};

/// The OCF agent of Kemari: run by Pacemaker, and by the replicator that it starts.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the replicator, which asks whether it may speak
    Authority(authority::Options),
    /// Start the replicator, and tell Pacemaker at once what happens to it
    Attend(attend::Options),
    /// Carry out an action of the OCF resource agent, whose parameters are in the environment
    Ocf {
        /// The action
        action: ocf::Action,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Authority(options) => authority::run(&options),
        Command::Attend(options) => attend::run(&options),
        Command::Ocf { action } => ocf::run(action),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_handler_takes_what_the_replicator_appends() {
        let handler = ["kemari-agent", "authority", "--unprotected", "always", "--shared-disk", "false"];
        for verb in [
            "promote --guest web --node beta --from 7-00000000000009f3 --to 8-00000000000051bc --peer alpha --handed-over",
            "promote --guest web --node beta --from 7-9f3 --to 8-51bc",
            "boot --guest web --node alpha --from 1-1 --to 2-2 --first",
            "boot --guest web --node alpha --from 1-1 --to 2-2 --insist",
            "alone --guest web --node alpha --peer beta --generation 7-9f3 --epoch 12 --how lost",
            "protect --guest web --node alpha --peer beta --generation 7-9f3",
        ] {
            let arguments = handler.into_iter().chain(verb.split(' '));
            assert!(Cli::try_parse_from(arguments).is_ok(), "{verb}");
        }
        let hostile = "protect --guest web --node a'b --peer beta --generation 7-9f3";
        assert!(Cli::try_parse_from(handler.into_iter().chain(hostile.split(' '))).is_err());
    }
}
