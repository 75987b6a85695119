//! Commands of the host and of nodes.

use std::process::{Command, Output};

use crate::error::{ClusterError, io};

/// Runs a command to its end. Returns what it wrote to stdout.
pub(crate) fn run(node: &str, command: &mut Command) -> Result<String, ClusterError> {
    let text = describe(command);
    let output = command.output().map_err(io(format!("run `{text}`")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let status = output.status.to_string();
    Err(ClusterError::Command { node: node.to_owned(), command: text, status, output: said(&output) })
}

/// `ip` on the host, in the namespace of this process.
pub(crate) fn ip(arguments: &str) -> Result<(), ClusterError> {
    run("the host", Command::new("ip").args(arguments.split_whitespace())).map(drop)
}

fn describe(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    // How a node is entered is of no interest.
    let words: Vec<String> = words.skip_while(|word| command.get_program() == "nsenter" && word != "--").collect();
    let program = if command.get_program() == "nsenter" { "" } else { &command.get_program().to_string_lossy() };
    format!("{program} {}", words.join(" ").trim_start_matches("-- ")).trim().to_owned()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}
