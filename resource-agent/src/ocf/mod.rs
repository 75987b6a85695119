//! The actions of the OCF resource agent (Open Cluster Framework, Resource Agent API 1.1).
//!
//! Each is idempotent and bounded in time, and says why it failed on stderr as `ocf-exit-reason:...`, which Pacemaker shows.

mod demote;
mod environment;
mod monitor;
mod process;
mod promote;
mod start;
mod stop;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use kemari_control::{Client, Reply, Request, Status};

use self::environment::Environment;
use crate::cluster::run as run_command;

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// Start the replicator, as a standby.
    Start,
    /// End it.
    Stop,
    /// Run the guest here.
    Promote,
    /// Stop running the guest here.
    Demote,
    /// Say how it is.
    Monitor,
    /// Be told what the cluster does; nothing follows from it.
    Notify,
    /// Say whether the parameters make sense, and at level 10 whether this host can do it.
    ValidateAll,
    /// Take over parameters that can be changed while the replicator runs.
    ReloadAgent,
}

/// Exit status of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Success = 0,
    /// Something is wrong with the resource here and now.
    Generic = 1,
    /// Something it needs is not on this host.
    NotInstalled = 5,
    /// A parameter is missing or wrong, on any host.
    NotConfigured = 6,
    NotRunning = 7,
    RunningPromoted = 8,
    FailedPromoted = 9,
}

/// A status other than success, and why.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    reason: String,
}

impl Failure {
    fn new(code: Code, reason: impl Into<String>) -> Failure {
        Failure { code, reason: reason.into() }
    }
}

type Outcome = Result<Code, Failure>;

/// What is left of an action's time to say that it failed.
const RESERVE: Duration = Duration::from_secs(2);
/// How long the host's check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// Carries out an action.
pub(crate) fn run(action: Action) -> ExitCode {
    let code = carry_out(action).unwrap_or_else(|failure| {
        eprintln!("ocf-exit-reason:{}", failure.reason.replace('\n', " "));
        failure.code
    });
    ExitCode::from(code as u8)
}

fn carry_out(action: Action) -> Outcome {
    if action == Action::Notify {
        return Ok(Code::Success);
    }
    let starts = matches!(action, Action::Start | Action::ValidateAll);
    let environment = match Environment::read(starts) {
        Ok(environment) => environment,
        // Where neither a configuration is nor a memory of one, nothing was started.
        Err(failure) if action == Action::Stop && failure.code == Code::NotInstalled => return Ok(Code::Success),
        Err(failure) => return Err(failure),
    };
    match action {
        Action::Start => start::start(&environment),
        Action::Stop => stop::stop(&environment),
        Action::Promote => promote::promote(&environment),
        Action::Demote => demote::demote(&environment),
        Action::Monitor => monitor::monitor(&environment),
        Action::ValidateAll => validate(&environment),
        Action::ReloadAgent => environment.keep_policy().map(|()| Code::Success),
        Action::Notify => Ok(Code::Success),
    }
}

/// What the replicator says about itself; none if it does not answer.
fn status(environment: &Environment) -> Option<Status> {
    Client::connect(&environment.guest.control).and_then(|mut client| client.status()).ok()
}

/// Has the replicator do something, and waits until it is done, or so long.
fn request(environment: &Environment, request: &Request, deadline: Instant) -> Result<(), Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let reply = Client::connect(&environment.guest.control).and_then(|mut client| client.request_within(request, left));
    match reply {
        Ok(Reply::Done { .. }) => Ok(()),
        Ok(Reply::Refused { reason }) => Err(Failure::new(Code::Generic, reason)),
        Ok(Reply::Status(_)) => Err(Failure::new(Code::Generic, "the replicator's answer is to something else")),
        Err(error) => Err(Failure::new(Code::Generic, error.to_string())),
    }
}

fn validate(environment: &Environment) -> Outcome {
    environment::policy()?;
    environment.expect_own_name()?;
    if environment.check_level < 10 {
        return Ok(Code::Success);
    }
    let (binary, config) = (environment.binary.to_string_lossy(), environment.guest.config.to_string_lossy());
    let outcome = run_command(&binary, &["check", &config], CHECK_LIMIT)
        .map_err(|error| Failure::new(Code::NotInstalled, error.to_string()))?;
    if outcome.succeeded() {
        return Ok(Code::Success);
    }
    let complaint = outcome.stdout.lines().filter(|line| !line.starts_with("ok")).collect::<Vec<_>>().join("; ");
    let complaint = if complaint.is_empty() { outcome.to_string() } else { complaint };
    Err(Failure::new(Code::NotInstalled, complaint))
}
