//! What can be wrong with a value.

use std::error::Error;
use std::fmt;
use std::path::Path;

use kemari_vmm::Sink;

use super::Config;

/// One thing that is wrong with a configuration, or with the host it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `nic[0].mac`.
    pub key: String,
    /// Its value, as written.
    pub value: String,
    /// What is wrong with it, and what to do about it.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, value: impl fmt::Display, remedy: impl Into<String>) -> Problem {
        Problem { key: key.into(), value: value.to_string(), remedy: remedy.into() }
    }
}

impl Problem {
    /// What the machine's error says about the configuration it was made from, if it is about that.
    pub(crate) fn of_machine(error: &kemari_vmm::Error, config: &Config) -> Option<Problem> {
        use kemari_vmm::Error as Machine;
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        Some(match error {
            Machine::NoKvm | Machine::KvmPermission | Machine::KvmOpen(_) | Machine::Capability { .. } => {
                Problem::new("host", "\"/dev/kvm\"", with_causes(error))
            }
            Machine::File { key, path, source } => {
                let remedy = format!("{source}; it must be a file that can be read");
                Problem::new(format!("guest.{key}"), quoted(path), remedy)
            }
            Machine::Boot { key, path, reason } => Problem::new(format!("guest.{key}"), quoted(path), reason),
            Machine::Config { key, value, remedy } => Problem::new(format!("guest.{key}"), value, remedy),
            Machine::Net { index, source } => {
                let tap = config.nics.get(*index).map_or_else(String::new, |nic| format!("{:?}", nic.tap));
                Problem::new(format!("nic[{index}].tap"), tap, with_causes(source))
            }
            Machine::Disk { index, source } => {
                let path = config.disks.get(*index).map_or_else(String::new, |disk| quoted(&disk.path));
                Problem::new(format!("disk[{index}].path"), path, with_causes(source))
            }
            Machine::Console(source) => {
                let written = match &config.console.sink {
                    Sink::None => "none".to_owned(),
                    Sink::File(path) => format!("file:{}", path.display()),
                    Sink::Pty(path) => format!("pty:{}", path.display()),
                    Sink::Socket(path) => format!("socket:{}", path.display()),
                };
                Problem::new("console.output", format!("{written:?}"), with_causes(source))
            }
            _ => return None,
        })
    }
}

/// An error and what led to it, on one line.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.remedy)
    }
}

pub(super) fn list(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
    lines.join("\n")
}
