//! Pacemaker's commands as child processes, each with a time limit.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use wait_timeout::ChildExt;

/// What a command may take. Each answers within 30 ms on an idle cluster; an election takes seconds.
const LIMIT: Duration = Duration::from_secs(5);
/// Most of an answer that is read. That of a large cluster is below it.
const ANSWER_BYTES: u64 = 1 << 20;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{program}: {source}; is Pacemaker installed, and is this root?")]
    Start { program: &'static str, source: io::Error },
    #[error("{program}: no answer in {} s", LIMIT.as_secs())]
    Late { program: &'static str },
    #[error("{program}: {source}")]
    Wait { program: &'static str, source: io::Error },
    #[error("{program}: exit status {code}; `crm_mon -1` shows whether the cluster runs on this node")]
    Failed { program: &'static str, code: i32 },
    #[error("{program} printed what is not understood: {reason}")]
    Unreadable { program: &'static str, reason: String },
}

/// Runs a command that must succeed, and returns what it printed.
///
/// What it prints goes through a file without a name: nobody has to read while it is waited for.
pub(super) fn answer_of(program: &'static str, arguments: &[&str]) -> Result<String, CommandError> {
    let wait = |source| CommandError::Wait { program, source };
    let file =
        rustix::fs::memfd_create("answer", rustix::fs::MemfdFlags::CLOEXEC).map_err(|error| wait(error.into()))?;
    let mut file = std::fs::File::from(file);
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::from(file.try_clone().map_err(wait)?))
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| CommandError::Start { program, source })?;
    let Some(status) = child.wait_timeout(LIMIT).map_err(wait)? else {
        child.kill().and_then(|()| child.wait()).map_err(wait)?;
        return Err(CommandError::Late { program });
    };
    if !status.success() {
        return Err(CommandError::Failed { program, code: status.code().unwrap_or(-1) });
    }
    let mut answer = String::new();
    io::Seek::rewind(&mut file).map_err(wait)?;
    file.take(ANSWER_BYTES).read_to_string(&mut answer).map_err(wait)?;
    Ok(answer)
}
