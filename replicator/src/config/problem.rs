//! What can be wrong with a value.

use std::fmt;
use std::path::Path;

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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.remedy)
    }
}

pub(super) fn list(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
    lines.join("\n")
}
