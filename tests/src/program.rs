//! The replicator to be tested.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is no replicator to be tested.
#[derive(Debug, thiserror::Error)]
#[error("cannot build kemari-replicator: {0}; name one that is built with --binary or --sabotage-binary")]
pub(crate) struct BuildError(String);

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> BuildError {
        BuildError(error.to_string())
    }
}

/// Builds the replicator, optimized, in the target directory that this program is in. Returns where it is.
pub(crate) fn build() -> Result<PathBuf, BuildError> {
    cargo_build(&target()?, &[])
}

/// Builds a replicator in which bugs can be planted, apart from the real one. Returns where it is.
pub(crate) fn build_with_sabotage() -> Result<PathBuf, BuildError> {
    cargo_build(&target()?.join("sabotage"), &["--features", "sabotage"])
}

fn target() -> Result<PathBuf, BuildError> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2);
    target.map(Path::to_owned).ok_or_else(|| BuildError(format!("{} is in no target directory", program.display())))
}

fn cargo_build(target: &Path, arguments: &[&str]) -> Result<PathBuf, BuildError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "kemari-replicator", "--bin", "kemari-replicator"])
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()?;
    if status.success() { Ok(target.join("release/kemari-replicator")) } else { Err(BuildError(status.to_string())) }
}
