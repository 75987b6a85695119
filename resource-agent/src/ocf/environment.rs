//! What Pacemaker passes to an action: parameters and its own settings, as environment variables.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::{Code, Failure};
use crate::authority::{Policy, Unprotected};
use crate::guest::Guest;

const BINARY: &str = "/usr/sbin/kemari-replicator";
/// Where agents keep what must not survive a reboot.
const STATE: &str = "/run/resource-agents";
/// Holds the guest for as long as it is started.
const GUEST_FILE: &str = "guest";
/// What an action may take if Pacemaker does not say.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An action's surroundings.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) guest: Guest,
    pub(crate) binary: PathBuf,
    /// What this action may take.
    pub(crate) timeout: Duration,
    begun: Instant,
    pub(crate) check_level: u32,
    files: Files,
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
    ///
    /// A replicator that was started does not end because its configuration or its program is changed or removed. So for an
    /// action that does not start anything, what was read when it was started counts where nothing else can be read.
    pub(crate) fn read(starts: bool) -> Result<Environment, Failure> {
        let config = parameter("config")
            .ok_or_else(|| not_configured("the parameter config is missing: the guest's TOML file"))?;
        if !Path::new(&config).is_absolute() {
            return Err(not_configured(format!("config={config}: must be an absolute path")));
        }
        let files = Files::of_this_resource(&config);
        let remembered = || if starts { None } else { files.remembered() };
        let binary = PathBuf::from(parameter("binary").unwrap_or_else(|| BINARY.to_owned()));
        if !binary.exists() && remembered().is_none() {
            let reason =
                format!("{}: not there; install the replicator, or set the parameter binary", binary.display());
            return Err(Failure::new(Code::NotInstalled, reason));
        }
        let guest = Guest::read(Path::new(&config)).or_else(|error| remembered().ok_or(error));
        let guest = guest.map_err(|error| {
            // Of this host's file, not of the parameter: "wrong on any host" would have Pacemaker stop the guest on the other one.
            Failure::new(Code::NotInstalled, error.to_string())
        })?;
        let milliseconds = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
        Ok(Environment {
            binary,
            timeout: milliseconds("OCF_RESKEY_CRM_meta_timeout").map_or(TIMEOUT, Duration::from_millis),
            check_level: env::var("OCF_CHECK_LEVEL").ok().and_then(|level| level.parse().ok()).unwrap_or(0),
            log: log_file(["HA_LOGFILE", "HA_logfile"].map(env::var_os)),
            begun: Instant::now(),
            files,
            guest,
        })
    }

    /// When this action has to be at its end, with `reserve` left of its time.
    pub(crate) fn deadline(&self, reserve: Duration) -> Instant {
        self.begun + self.timeout.saturating_sub(reserve)
    }

    /// The primitive's name, without the number of its instance.
    pub(crate) fn resource(&self) -> &str {
        &self.files.resource
    }

    /// A file of this resource that does not survive a reboot.
    pub(crate) fn file(&self, extension: &str) -> PathBuf {
        self.files.path(extension)
    }

    /// Leaves the policy where the handler finds it.
    pub(crate) fn keep_policy(&self) -> Result<(), Failure> {
        self.files.write("policy", &policy()?.as_arguments().join("\n"))
    }

    /// Whether this host's configuration calls it what the cluster calls it: by that name the record and the membership know it.
    pub(crate) fn expect_own_name(&self) -> Result<(), Failure> {
        let Ok(own) = env::var("OCF_RESKEY_CRM_meta_on_node") else { return Ok(()) };
        if own == self.guest.node {
            return Ok(());
        }
        let (config, name) = (self.guest.config.display(), &self.guest.node);
        let reason =
            format!("{config}: node.name is {name:?}, and the cluster calls this node {own:?}; they must be the same");
        Err(Failure::new(Code::NotInstalled, reason))
    }

    /// Remembers the guest for actions that find no configuration any more.
    pub(crate) fn remember_guest(&self) -> Result<(), Failure> {
        let text =
            serde_json::to_string(&self.guest).map_err(|error| Failure::new(Code::Generic, error.to_string()))?;
        self.files.write(GUEST_FILE, &text)
    }

    /// Nothing was started here from now on.
    pub(crate) fn forget_guest(&self) {
        // If it stays, an action after this one looks for a replicator that is not there.
        let _ = fs::remove_file(self.file(GUEST_FILE));
    }
}

/// The file that the cluster's daemons log to, if they log to one: of what the two names of the variable say.
fn log_file(values: [Option<OsString>; 2]) -> Option<PathBuf> {
    let is_one = |value: &OsString| !value.is_empty() && value != "none" && value != "/dev/null";
    values.into_iter().flatten().find(is_one).map(PathBuf::from)
}

/// Where a resource's files are.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    resource: String,
    config: PathBuf,
}

impl Files {
    fn of_this_resource(config: &str) -> Files {
        let instance = env::var("OCF_RESOURCE_INSTANCE").unwrap_or_else(|_| "guest".to_owned());
        Files {
            directory: env::var("HA_RSCTMP").map_or_else(|_| PathBuf::from(STATE), PathBuf::from),
            resource: instance.split(':').next().unwrap_or(&instance).to_owned(),
            config: config.into(),
        }
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("kemari-{}.{extension}", self.resource))
    }

    fn write(&self, extension: &str, content: &str) -> Result<(), Failure> {
        let path = self.path(extension);
        fs::create_dir_all(&self.directory)
            .and_then(|()| fs::write(&path, content))
            .map_err(|error| Failure::new(Code::Generic, format!("{}: {error}", path.display())))
    }

    /// The guest as it was read when it was started.
    fn remembered(&self) -> Option<Guest> {
        let text = fs::read_to_string(self.path(GUEST_FILE)).ok()?;
        serde_json::from_str(&text).ok().filter(|guest: &Guest| guest.config == self.config)
    }
}

/// Judged only where it is taken over: a parameter that is wrong must not keep a guest that runs from being watched, or stopped.
pub(super) fn policy() -> Result<Policy, Failure> {
    let unprotected = parameter("unprotected").unwrap_or_else(|| "fenced".to_owned());
    let unprotected = Unprotected::from_str(&unprotected, true)
        .map_err(|_| not_configured(format!("unprotected={unprotected}: must be never, fenced or always")))?;
    let shared_disk = parameter("shared_disk").unwrap_or_else(|| "true".to_owned());
    // As Pacemaker reads its own.
    let shared_disk = match shared_disk.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => true,
        "false" | "no" | "off" | "n" | "0" => false,
        _ => return Err(not_configured(format!("shared_disk={shared_disk}: must be true or false"))),
    };
    Ok(Policy { unprotected, shared_disk })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_only_what_is_one() {
        let of = |first: &str, second: Option<&str>| log_file([Some(first.into()), second.map(Into::into)]);
        assert_eq!(of("/var/log/pacemaker/pacemaker.log", None), Some("/var/log/pacemaker/pacemaker.log".into()));
        assert_eq!(of("", Some("/var/log/ha.log")), Some("/var/log/ha.log".into()));
        for none in ["", "none", "/dev/null"] {
            assert_eq!(of(none, None), None);
        }
    }
}
