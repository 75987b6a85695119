//! What Pacemaker passes to an action: parameters and its own settings, as environment variables.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::{Code, Failure};
use crate::authority::{Policy, Unprotected};
use crate::guest::{Guest, GuestError};

const BINARY: &str = "/usr/sbin/kemari-replicator";
/// Where agents keep what must not survive a reboot.
const STATE: &str = "/run/resource-agents";
/// What an action may take if Pacemaker does not say.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An action's surroundings.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) guest: Guest,
    pub(crate) binary: PathBuf,
    pub(crate) policy: Policy,
    /// The primitive's name, without the number of its instance.
    pub(crate) resource: String,
    /// What this action may take.
    pub(crate) timeout: Duration,
    pub(crate) check_level: u32,
    state: PathBuf,
    /// Where output of the replicator goes if there is no syslog.
    pub(crate) log: Option<PathBuf>,
}

fn parameter(name: &str) -> Option<String> {
    env::var(format!("OCF_RESKEY_{name}")).ok().filter(|value| !value.is_empty())
}

fn not_configured(reason: impl Into<String>) -> Failure {
    Failure::new(Code::NotConfigured, reason)
}

impl Environment {
    /// Reads it.
    pub(crate) fn read() -> Result<Environment, Failure> {
        let config = parameter("config")
            .ok_or_else(|| not_configured("the parameter config is missing: the guest's TOML file"))?;
        if !Path::new(&config).is_absolute() {
            return Err(not_configured(format!("config={config}: must be an absolute path")));
        }
        let guest = Guest::read(Path::new(&config)).map_err(|error| match error {
            GuestError::Read { .. } => Failure::new(Code::NotInstalled, error.to_string()),
            GuestError::Malformed { .. } => not_configured(error.to_string()),
        })?;
        let binary = PathBuf::from(parameter("binary").unwrap_or_else(|| BINARY.to_owned()));
        if !binary.exists() {
            let reason =
                format!("{}: not there; install the replicator, or set the parameter binary", binary.display());
            return Err(Failure::new(Code::NotInstalled, reason));
        }
        let instance = env::var("OCF_RESOURCE_INSTANCE").unwrap_or_else(|_| guest.name.clone());
        let milliseconds = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
        Ok(Environment {
            policy: policy()?,
            binary,
            resource: instance.split(':').next().unwrap_or(&instance).to_owned(),
            timeout: milliseconds("OCF_RESKEY_CRM_meta_timeout").map_or(TIMEOUT, Duration::from_millis),
            check_level: env::var("OCF_CHECK_LEVEL").ok().and_then(|level| level.parse().ok()).unwrap_or(0),
            state: env::var("HA_RSCTMP").map_or_else(|_| PathBuf::from(STATE), PathBuf::from),
            log: ["HA_LOGFILE", "HA_logfile"].into_iter().find_map(|name| env::var_os(name).map(PathBuf::from)),
            guest,
        })
    }

    /// A file of this resource that does not survive a reboot.
    pub(crate) fn file(&self, extension: &str) -> PathBuf {
        self.state.join(format!("kemari-{}.{extension}", self.resource))
    }

    /// Leaves the policy where the handler finds it.
    pub(crate) fn keep_policy(&self) -> Result<(), Failure> {
        let path = self.file("policy");
        fs::create_dir_all(&self.state)
            .and_then(|()| fs::write(&path, self.policy.as_arguments().join("\n")))
            .map_err(|error| Failure::new(Code::Generic, format!("{}: {error}", path.display())))
    }
}

fn policy() -> Result<Policy, Failure> {
    let unprotected = parameter("unprotected").unwrap_or_else(|| "fenced".to_owned());
    let unprotected = Unprotected::from_str(&unprotected, true)
        .map_err(|_| not_configured(format!("unprotected={unprotected}: must be never, fenced or always")))?;
    let shared_disk = parameter("shared_disk").unwrap_or_else(|| "true".to_owned());
    let shared_disk = match shared_disk.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => true,
        "false" | "no" | "off" | "0" => false,
        _ => return Err(not_configured(format!("shared_disk={shared_disk}: must be true or false"))),
    };
    Ok(Policy { unprotected, shared_disk })
}
