//! The things to look at, each through the door by which `run` comes to it.

use std::ffi::CString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use kemari_control::Client;
use kemari_vmm::inspect;

use super::Finding;
use crate::config::{Config, Problem};
use crate::link::{Key, Listener};

/// How long it may take to find out whether somebody listens.
const LOOK: Duration = Duration::from_secs(1);

/// Everything that a configuration names, as it is on this host.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        of_machine(config, "KVM", inspect::host()),
        of_machine(config, "kernel, initrd, command line", inspect::boot(&config.machine())),
        found("link key", key(&config.link.key_file)),
        found("state directory", directory("node.state_dir", &config.node.state_dir)),
    ];
    for (disk, looked) in config.disks.iter().zip(inspect::disks(&config.disks)) {
        findings.push(of_machine(config, &format!("disk {}", disk.path.display()), looked));
    }
    if let Some(pid) = running(config) {
        let what =
            format!("control socket, listening address, taps, console: in use by this guest's replicator (pid {pid})");
        findings.push(found(&what, Ok(())));
        return findings;
    }
    findings.push(found("control socket", control(&config.node.control)));
    findings.push(found("listening address", listen(config)));
    for (index, nic) in config.nics.iter().enumerate() {
        findings.push(of_machine(config, &format!("tap {}", nic.tap), inspect::nic(index, nic)));
    }
    findings.push(of_machine(config, "console", inspect::console(&config.console)));
    findings
}

fn found(what: &str, looked: Result<(), Problem>) -> Finding {
    Finding { what: what.to_owned(), problem: looked.err() }
}

fn of_machine(config: &Config, what: &str, looked: Result<(), kemari_vmm::Error>) -> Finding {
    let problem = |error: kemari_vmm::Error| {
        Problem::of_machine(&error, config).unwrap_or_else(|| Problem::new("host", what, error.to_string()))
    };
    found(what, looked.map_err(problem))
}

fn problem(key: &str, path: &Path, remedy: impl std::fmt::Display) -> Problem {
    Problem::new(key, format!("{:?}", path.display().to_string()), remedy.to_string())
}

/// The replicator of this guest that runs here, if one does: what it has is in use, as it should be.
fn running(config: &Config) -> Option<u32> {
    let status = Client::connect(&config.node.control).ok()?.status().ok()?;
    (status.guest == config.guest.name && status.node == config.node.name).then_some(status.pid)
}

fn key(path: &Path) -> Result<(), Problem> {
    Key::load(path).map(drop).map_err(|error| problem("link.key_file", path, error))
}

fn listen(config: &Config) -> Result<(), Problem> {
    let address = config.link.listen;
    Listener::check(address).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => "another program listens there; give this guest another port",
            _ => "it must be an address of this host",
        };
        Problem::new("link.listen", format!("\"{address}\""), format!("{error}; {remedy}"))
    })
}

fn control(path: &Path) -> Result<(), Problem> {
    const KEY: &str = "node.control";
    match kemari_control::connect(path, LOOK) {
        Ok(_) => Err(problem(KEY, path, "another program listens there; give this guest a path of its own")),
        // The second is what a replicator that died leaves behind.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            directory(KEY, path.parent().unwrap_or(path))
        }
        Err(error) => Err(problem(KEY, path, error)),
    }
}

/// The nearest directory that exists decides whether the rest can be made.
fn directory(key: &str, path: &Path) -> Result<(), Problem> {
    let Some(existing) = path.ancestors().find(|ancestor| ancestor.exists()) else { return Ok(()) };
    if !existing.is_dir() {
        return Err(problem(key, path, format!("{} is not a directory", existing.display())));
    }
    if !is_writable(existing) {
        return Err(problem(key, path, format!("{} cannot be written to; run as root", existing.display())));
    }
    Ok(())
}

fn is_writable(directory: &Path) -> bool {
    let Ok(name) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: `name` is a C string.
    unsafe { libc::access(name.as_ptr(), libc::W_OK) == 0 }
}
