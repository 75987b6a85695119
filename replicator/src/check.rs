//! Whether this host has what a configuration names.

mod host;
#[cfg(test)]
mod tests;

use std::io::Write;

use crate::config::{Config, Problem};

/// One thing that was looked at.
struct Finding {
    what: String,
    problem: Option<Problem>,
}

/// Looks at everything, says what is there and what is missing on one line each.
///
/// # Errors
/// Something is missing, or nobody reads what is said.
pub fn run(config: &Config, out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let findings = host::findings(config);
    let problems = findings.iter().filter(|finding| finding.problem.is_some()).count();
    for Finding { what, problem } in &findings {
        match problem {
            None => writeln!(out, "ok       {what}")?,
            Some(problem) => writeln!(out, "MISSING  {what}: {problem}")?,
        }
    }
    match problems {
        0 => Ok(()),
        1 => Err("one thing is missing on this host".into()),
        many => Err(format!("{many} things are missing on this host").into()),
    }
}
