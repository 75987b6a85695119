//! A site: everything two nodes need on one machine.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::network::{PREFIX, open_tun};
use crate::node::Files;
use crate::{BRIDGE_ADDRESS, DiskImage, GUEST_ADDRESS, Network, Node, NodeName, SiteError, scratch};

const GUEST_MAC: &str = "52:54:00:4b:00:02";
/// Both nodes' ends of the link are in the site's own namespace, where every port is free.
const LINK_PORTS: [(NodeName, u16); 2] = [(NodeName::Alpha, 7041), (NodeName::Beta, 7042)];

/// When the primary cuts checkpoints, as `replication.mode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationMode {
    /// The guest stays paused until the acknowledgement.
    Sync,
    /// The guest goes on while its checkpoint travels.
    Event,
}

impl ReplicationMode {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ReplicationMode::Sync => "sync",
            ReplicationMode::Event => "event",
        }
    }
}

/// What kind of site.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// The replicator's program.
    pub binary: PathBuf,
    /// When checkpoints are cut.
    pub mode: ReplicationMode,
    /// CPUs of the guest, which works with the first of them; the others stay as they are at power-on.
    pub vcpus: u8,
    /// Size of the guest's memory.
    pub memory_mib: u64,
    /// Pages that the guest's memory workload goes round in; 0 for none.
    pub dirty_pages: u64,
    /// How many of them it writes a second.
    pub dirty_rate: u64,
    /// Size of the shared disk. An entry of the ledger takes 512 bytes.
    pub disk_mib: u64,
    /// Limit for the buffers of each TCP socket of the site, so that a checkpoint does not fit into them at once and is on its
    /// way for long enough to be interrupted there.
    pub socket_buffer_bytes: Option<u32>,
    /// The bug to be planted in both nodes, if their program was built to have some.
    pub sabotage: Option<&'static str>,
}

/// Two nodes' network, disk, key and configurations. All of it is gone when the value is dropped.
#[derive(Debug)]
pub struct Site {
    options: SiteOptions,
    directory: TempDir,
    _network: Network,
}

impl Site {
    /// Makes a site. The calling thread is in the site's network namespace from then on, and so is what it starts.
    ///
    /// # Errors
    /// Not root, no KVM, or something of it cannot be made.
    pub fn build(options: SiteOptions) -> Result<Site, SiteError> {
        check_host()?;
        let network = Network::enter()?;
        for (name, _) in LINK_PORTS {
            network.add_tap(&tap(name))?;
        }
        if let Some(bytes) = options.socket_buffer_bytes {
            network.limit_socket_buffers(bytes)?;
        }
        let site = Site { options, directory: scratch::directory()?, _network: network };
        for (name, _) in LINK_PORTS {
            let files = site.files(name);
            fs::create_dir(&files.state).map_err(file_error(&files.state))?;
            fs::write(&files.config, site.config(name)).map_err(file_error(&files.config))?;
        }
        let kernel = site.path("guest.elf");
        fs::write(&kernel, kemari_guest_image::ELF).map_err(file_error(&kernel))?;
        let disk = site.path("disk");
        let image = File::create_new(&disk).map_err(file_error(&disk))?;
        image.set_len(site.options.disk_mib << 20).map_err(file_error(&disk))?;
        site.command(&["keygen".as_ref(), &site.path("key")])?;
        Ok(site)
    }

    /// Makes this node the one that boots the guest the first time.
    ///
    /// # Errors
    /// The replicator's command fails.
    pub fn create_guest(&self, name: NodeName) -> Result<(), SiteError> {
        self.command(&["create".as_ref(), &self.files(name).config])
    }

    /// Starts a node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, name: NodeName) -> Result<Node, SiteError> {
        let bug = self.options.sabotage.map(|bug| ("KEMARI_SABOTAGE", bug));
        Node::start(&self.options.binary, name, self.files(name), bug)
    }

    /// The shared disk.
    #[must_use]
    pub fn disk(&self) -> DiskImage {
        DiskImage::new(&self.path("disk"))
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The last lines of both nodes' logs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let tail = |name| format!("--- {name}:\n{}\n", self.files(name).log_tail());
        LINK_PORTS.map(|(name, _)| tail(name)).concat()
    }

    /// Leaves its files where they are when it is dropped, to be looked at. Returns where.
    pub fn keep_files(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }

    fn files(&self, name: NodeName) -> Files {
        Files::of(self.directory.path(), name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&Path]) -> Result<(), SiteError> {
        let binary = &self.options.binary;
        let output = Command::new(binary).args(arguments).output();
        let output = output.map_err(|source| SiteError::Spawn { path: binary.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        Err(SiteError::Command {
            command: arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" "),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn config(&self, name: NodeName) -> String {
        let SiteOptions { mode, vcpus, memory_mib, dirty_pages, dirty_rate, .. } = &self.options;
        let files = self.files(name);
        let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
        let mut text = String::new();
        let port = |wanted| LINK_PORTS.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, port)| *port);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"[guest]
name = "ledger"
vcpus = {vcpus}
memory_mib = {memory_mib}
kernel = {kernel}
cmdline = "ip={GUEST_ADDRESS}/{PREFIX} gw={BRIDGE_ADDRESS} flush=1 dirty_pages={dirty_pages} dirty_rate={dirty_rate}"

[[nic]]
tap = "{tap}"
mac = "{GUEST_MAC}"

[[disk]]
path = {disk}
serial = "ledger"

[console]
output = "file:{console}"

[node]
name = "{name}"
state_dir = {state}
control = {control}

[link]
listen = "127.0.0.1:{listen}"
peer = "127.0.0.1:{peer}"
key_file = {key}
heartbeat_ms = 50
peer_timeout_ms = 250

[replication]
mode = "{mode}"
"#,
            kernel = quoted(&self.path("guest.elf")),
            tap = tap(name),
            disk = quoted(&self.path("disk")),
            console = self.path("console").display(),
            state = quoted(&files.state),
            control = quoted(&files.control),
            listen = port(name),
            peer = port(name.peer()),
            key = quoted(&self.path("key")),
            mode = mode.as_str(),
        );
        text
    }
}

fn tap(name: NodeName) -> String {
    format!("tap-{name}")
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> SiteError {
    let path = path.to_owned();
    move |source| SiteError::File { path, source }
}

/// Says in a sentence what is missing here, before anything is made.
fn check_host() -> Result<(), SiteError> {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Err(SiteError::NotRoot);
    }
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    kvm.map_err(|source| SiteError::Device {
        device: "/dev/kvm",
        source,
        remedy: "load the kernel module kvm_intel or kvm_amd; in a virtual machine, allow nested virtualization",
    })?;
    open_tun().map(drop)
}
