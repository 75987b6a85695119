//! A host of the cluster: namespaces of its own, with corosync and pacemaker in them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kemari_control::{Client, Status};
use kemari_site::NodeName;

use crate::command::{ip, run};
use crate::error::{ClusterError, io};

/// How long namespaces may take to be there, or to be gone.
const LIMIT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// Stands in for cibadmin on a host, and lets a test choose the moment of a swap: while `hold` is there a swap waits before it
/// is made, and says so by `held`; while `refuse` is there another swap has always been first.
const SWAP_DOOR: &str = r#"#!/bin/sh
case "$*" in
*--modify*kemari-kemari-*)
    if [ -e /run/kemari-swap.hold ]; then
        : >/run/kemari-swap.held
        while [ -e /run/kemari-swap.hold ]; do sleep 0.02; done
    fi
    [ ! -e /run/kemari-swap.refuse ] || exit 105
    ;;
esac
exec /usr/sbin/cibadmin.real "$@"
"#;

/// The networks a host is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Corosync's.
    Ring,
    /// Between the replicators.
    Replication,
    /// The guest's.
    Guest,
}

impl Wire {
    const ALL: [Wire; 3] = [Wire::Ring, Wire::Replication, Wire::Guest];

    /// The bridge outside.
    pub(crate) fn bridge(self) -> &'static str {
        match self {
            Wire::Ring => "ring",
            Wire::Replication => "repl",
            // Made by kemari-site, with the address of the clients.
            Wire::Guest => "kemari",
        }
    }

    /// The host's end.
    fn inside(self) -> &'static str {
        match self {
            Wire::Ring => "ring0",
            Wire::Replication => "repl0",
            Wire::Guest => "guest0",
        }
    }
}

/// One host. It dies with the value, and with this process.
pub(crate) struct Machine {
    name: NodeName,
    directory: PathBuf,
    process: Option<Child>,
    /// Its process 1, as seen from here.
    init: u32,
    /// The bug that is planted in its programs.
    sabotage: Option<&'static str>,
}

impl Machine {
    /// A host whose files are in `directory`, with a bug planted in its programs or none; it is off.
    pub(crate) fn new(name: NodeName, directory: &Path, sabotage: Option<&'static str>) -> Machine {
        Machine { name, directory: directory.to_owned(), process: None, init: 0, sabotage }
    }

    fn number(&self) -> u8 {
        match self.name {
            NodeName::Alpha => 1,
            NodeName::Beta => 2,
        }
    }

    /// The outer end of a wire.
    fn port(&self, wire: Wire) -> String {
        format!("{}{}", wire.bridge(), self.number())
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.process.is_some()
    }

    /// Switches it on. Its cluster comes up by itself.
    pub(crate) fn start(&mut self) -> Result<(), ClusterError> {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--"])
            .arg(self.directory.join("boot"))
            .args([self.name.as_str(), &self.number().to_string()])
            .arg(&self.directory)
            .envs(self.sabotage.map(|bug| ("KEMARI_SABOTAGE", bug)))
            .stdin(Stdio::null())
            .process_group(0);
        let log = fs::File::options().create(true).append(true).open(self.directory.join("boot.log"));
        let log = log.map_err(io("make boot.log"))?;
        command.stdout(log.try_clone().map_err(io("share boot.log"))?).stderr(log);
        // SAFETY: the closure makes one system call and allocates nothing, as it must between fork and exec.
        unsafe { command.pre_exec(die_with_parent) };
        let process = command.spawn().map_err(io("start unshare"))?;
        self.init = await_child(process.id())?;
        self.process = Some(process);
        for wire in Wire::ALL {
            // The other end may have died a moment ago.
            let port = self.port(wire);
            let _ = ip(&format!("link del {port}"));
            // A host that comes back has the cards that it had.
            let mac = format!("52:54:00:4c:{:02x}:{:02x}", self.number(), wire as u8);
            ip(&format!("link add {port} type veth peer name {} address {mac} netns {}", wire.inside(), self.init))?;
            ip(&format!("link set {port} master {}", wire.bridge()))?;
            ip(&format!("link set {port} up"))?;
        }
        Ok(())
    }

    /// Its power is cut: nothing of it says another word.
    pub(crate) fn kill(&mut self) -> Result<(), ClusterError> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        for wire in Wire::ALL {
            self.cut(wire)?;
        }
        // SAFETY: sends a signal; the process was not waited for by its parent, which lives, so the id is still its own.
        unsafe { libc::kill(self.init as libc::pid_t, libc::SIGKILL) };
        process.wait().map_err(io("wait for a host's end"))?;
        Ok(())
    }

    /// Pulls a wire out.
    pub(crate) fn cut(&self, wire: Wire) -> Result<(), ClusterError> {
        ip(&format!("link set {} down", self.port(wire)))
    }

    /// Puts it in again.
    pub(crate) fn heal(&self, wire: Wire) -> Result<(), ClusterError> {
        ip(&format!("link set {} up", self.port(wire)))
    }

    /// What is sent to it over a wire is lost, and what it sends is not: a broken receiver.
    pub(crate) fn deafen(&self, wire: Wire) -> Result<(), ClusterError> {
        // Its bridge neither knows where it is nor asks everybody.
        let port = self.port(wire);
        ip(&format!(
            "link set {port} type bridge_slave flood off mcast_flood off bcast_flood off learning off fdb_flush"
        ))
    }

    /// Mends its receiver.
    pub(crate) fn undeafen(&self, wire: Wire) -> Result<(), ClusterError> {
        let port = self.port(wire);
        ip(&format!("link set {port} type bridge_slave flood on mcast_flood on bcast_flood on learning on"))
    }

    /// Ends Pacemaker as `pcs cluster stop` does: everything that runs here is stopped or moved first. Returns at once.
    pub(crate) fn stop_pacemaker(&self) -> Result<(), ClusterError> {
        self.sh("pkill --signal TERM --exact pacemakerd").map(drop)
    }

    /// Whether Pacemaker runs here.
    pub(crate) fn has_pacemaker(&self) -> bool {
        self.sh("pgrep --exact pacemakerd").is_ok()
    }

    /// Ends Corosync, as `pcs cluster stop` does once Pacemaker has ended.
    pub(crate) fn stop_corosync(&self) -> Result<(), ClusterError> {
        self.sh("pkill --signal TERM --exact corosync; while pgrep --exact corosync >/dev/null; do sleep 0.05; done")
            .map(drop)
    }

    /// Starts both again, as `pcs cluster start` does.
    pub(crate) fn start_cluster(&self) -> Result<(), ClusterError> {
        let script = self.directory.join("cluster-start");
        self.sh(&format!("setsid {} {} </dev/null >/dev/null 2>&1 &", script.display(), self.directory.display()))
            .map(drop)
    }

    /// From now on what changes a guest's record on this host can be held back: see [`SWAP_DOOR`].
    pub(crate) fn put_swap_door(&self) -> Result<(), ClusterError> {
        let door = self.directory.join("swap-door");
        fs::write(&door, SWAP_DOOR).map_err(io("write the swap door"))?;
        let door = door.display();
        self.sh(&format!(
            "cp -a /usr/sbin/cibadmin /usr/sbin/cibadmin.real && cp {door} /usr/sbin/cibadmin.door && \
             chmod 755 /usr/sbin/cibadmin.door && mv /usr/sbin/cibadmin.door /usr/sbin/cibadmin"
        ))
        .map(drop)
    }

    /// Takes the door away again.
    pub(crate) fn remove_swap_door(&self) -> Result<(), ClusterError> {
        self.sh("mv /usr/sbin/cibadmin.real /usr/sbin/cibadmin && rm -f /run/kemari-swap.*").map(drop)
    }

    /// A command on this host, to be run.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.to_string(),
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--",
            program,
        ]);
        command
    }

    /// Runs a command line on it, by its shell.
    pub(crate) fn sh(&self, line: &str) -> Result<String, ClusterError> {
        run(self.name.as_str(), self.command("sh").args(["-c", line]))
    }

    /// What its replicator says about itself.
    pub(crate) fn status(&self) -> Result<Status, ClusterError> {
        let socket = PathBuf::from(format!("/proc/{}/root/run/kemari/web.sock", self.init));
        let status = Client::connect(&socket).and_then(|mut client| client.status());
        status.map_err(|source| ClusterError::Control { node: self.name.to_string(), source })
    }

    /// What its replicator and their supervisors have said since it was switched on last.
    pub(crate) fn replicator_log(&self) -> String {
        let supervisor = self.sh("cat /run/resource-agents/kemari-web.log").unwrap_or_default();
        // Pacemaker tells agents to write to its own log.
        let pacemaker = fs::read_to_string(self.directory.join("pacemaker.log")).unwrap_or_default();
        supervisor + pacemaker.as_str()
    }

    /// Sends a signal to its replicator.
    pub(crate) fn signal_replicator(&self, signal: &str) -> Result<(), ClusterError> {
        self.sh(&format!("pkill --signal {signal} --exact kemari-replicat")).map(drop)
    }

    /// Makes it a new host: what it kept on its disk is gone. To be done while it is off.
    pub(crate) fn forget_everything(&self) -> Result<(), ClusterError> {
        for place in ["state", "pacemaker"] {
            let place = self.directory.join(place);
            run("the host", Command::new("rm").arg("-r").arg(&place))?;
            fs::create_dir(&place).map_err(io("make a directory"))?;
        }
        run("the host", Command::new("cp").args(["-a", "/var/lib/pacemaker/."]).arg(self.directory.join("pacemaker")))
            .map(drop)
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{}: {error}", self.name);
        }
    }
}

fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: takes its arguments by value.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// The one child of a process, as soon as it has one.
fn await_child(parent: u32) -> Result<u32, ClusterError> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let limit = Instant::now() + LIMIT;
    while Instant::now() < limit {
        let children = fs::read_to_string(&path).map_err(io("find a host's process 1"))?;
        if let Some(child) = children.split_whitespace().next().and_then(|child| child.parse().ok()) {
            return Ok(child);
        }
        std::thread::sleep(TICK);
    }
    Err(ClusterError::TooLong { what: "for a host's process 1".to_owned(), seconds: LIMIT.as_secs() })
}
