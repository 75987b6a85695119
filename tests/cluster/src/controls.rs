//! The negative controls: each known bug, planted, must make the scenario fail that is there for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kemari_agent::sabotage::Bug;

use crate::cluster::{Cluster, Programs};
use crate::error::{ClusterError, io};
use crate::report::Timings;
use crate::scenarios::{self, Scenario};

/// What came of one control.
struct Control {
    bug: Bug,
    scenario: &'static str,
    /// What gave the bug away, and after how many seconds.
    finding: Option<(String, f64)>,
    /// What the same program was found to do wrongly without a bug.
    clean_finding: Option<String>,
}

impl Control {
    /// Whether the bug was caught, and nothing where there was none: it was the bug that made the scenario fail.
    fn passed(&self) -> bool {
        self.finding.is_some() && self.clean_finding.is_none()
    }
}

/// The scenario in which a bug does harm.
fn scenario_of(bug: Bug) -> &'static str {
    match bug {
        Bug::SwapWithoutCompare | Bug::PromoteWithoutSwap => "late-helper",
        Bug::ConsentWithoutSwap => "replication-cut",
        Bug::ConsentUnasked => "standby-hangs",
        Bug::BootUnnamed => "both-lost",
        Bug::LostIsFenced => "no-fencing",
        Bug::DemoteDoesNothing => "move",
    }
}

/// Plays all of them, or the one that is named. Returns whether each bug was caught.
pub(crate) fn run(programs: &Programs, only: Option<&str>) -> Result<bool, ClusterError> {
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| only.is_none_or(|name| bug.name() == name)).collect();
    if let (Some(name), true) = (only, bugs.is_empty()) {
        let known = Bug::ALL.map(Bug::name).join(", ");
        return Err(ClusterError::Wrong(format!("there is no bug {name:?}; there are {known}")));
    }
    let programs = Programs { agent: build_with_sabotage()?, ..programs.clone() };
    let controls = bugs.into_iter().map(|bug| play(&programs, bug)).collect::<Result<Vec<_>, _>>()?;
    println!("\n{:<22} {:<16} {:<14} {:<11} what gave it away", "planted bug", "scenario", "caught", "without it");
    for control in &controls {
        let caught = control.finding.as_ref().map_or("NOT".to_owned(), |(_, after)| format!("after {after:.0} s"));
        let clean = if control.clean_finding.is_none() { "passes" } else { "FAILS" };
        let finding = control.clean_finding.as_ref().or(control.finding.as_ref().map(|(finding, _)| finding));
        let finding = finding.and_then(|finding| finding.lines().next()).unwrap_or("nothing");
        println!("{:<22} {:<16} {caught:<14} {clean:<11} {finding}", control.bug.name(), control.scenario);
    }
    let passed = controls.iter().all(Control::passed);
    println!("{}", if passed { "PASSED: every planted bug was caught" } else { "FAILED" });
    Ok(passed)
}

/// Plays the scenario with the bug, and without.
fn play(programs: &Programs, bug: Bug) -> Result<Control, ClusterError> {
    let name = scenario_of(bug);
    let known = scenarios::ALL.iter().find(|scenario| scenario.name == name);
    let scenario = known.ok_or_else(|| ClusterError::Wrong(format!("there is no scenario {name:?}")))?;
    let (finding, after) = once(programs, scenario, Some(bug))?;
    let finding = finding.map(|finding| (finding, after));
    let (clean_finding, _) = once(programs, scenario, None)?;
    Ok(Control { bug, scenario: name, finding, clean_finding })
}

/// On a cluster of its own. What was found, and how many seconds the scenario took.
fn once(programs: &Programs, scenario: &Scenario, bug: Option<Bug>) -> Result<(Option<String>, f64), ClusterError> {
    let mut cluster = Cluster::up(&Programs { sabotage: bug.map(Bug::name), ..programs.clone() })?;
    let begun = Instant::now();
    let found = match scenarios::play(scenario, &mut cluster, &mut Timings::default(), 1) {
        Ok(_) => None,
        Err(ClusterError::Interrupted) => return Err(ClusterError::Interrupted),
        Err(error) => Some(error.to_string()),
    };
    let took = begun.elapsed().as_secs_f64();
    let bug = bug.map_or("no bug", Bug::name);
    println!("{:<16} {bug:<22} {took:5.1} s  {}", scenario.name, found.as_deref().unwrap_or("nothing found"));
    Ok((found, took))
}

/// Builds an agent in which bugs can be planted, apart from the real one. Returns where it is.
fn build_with_sabotage() -> Result<PathBuf, ClusterError> {
    let program = std::env::current_exe().map_err(io("find this program"))?;
    let target = program.ancestors().nth(2).unwrap_or(Path::new("target")).join("sabotage");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "kemari-agent", "--features", "sabotage", "--target-dir"])
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .status()
        .map_err(io("run cargo"))?;
    if status.success() {
        return Ok(target.join("release/kemari-agent"));
    }
    Err(ClusterError::Wrong(format!("cannot build kemari-agent with the feature sabotage: {status}")))
}
