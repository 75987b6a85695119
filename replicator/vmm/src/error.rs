//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kemari_devices::{DiskError, NetError, SinkError, StateError};
use vmm_sys_util::errno;

/// Why a machine cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no KVM here.
    #[error(
        "/dev/kvm does not exist: enable virtualization in the firmware (or nested virtualization in the outer \
         hypervisor) and load kvm_intel or kvm_amd"
    )]
    NoKvm,
    /// KVM is not for us.
    #[error("/dev/kvm may not be opened by this user: run as root or add the user to group kvm")]
    KvmPermission,
    /// KVM cannot be used.
    #[error("/dev/kvm cannot be opened")]
    KvmOpen(#[source] errno::Error),
    /// KVM is too old.
    #[error("KVM of this host lacks {capability}: Linux {since} or newer is needed")]
    Capability {
        /// Its name in the kernel.
        capability: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// KVM refused something.
    #[error("{ioctl} failed")]
    Kvm {
        /// The request, and what for.
        ioctl: &'static str,
        /// What the kernel said.
        #[source]
        source: errno::Error,
    },
    /// KVM refused something for one vCPU.
    #[error("vcpu{vcpu}: {ioctl} failed")]
    Vcpu {
        /// Number of the vCPU.
        vcpu: u8,
        /// The request, and what for.
        ioctl: &'static str,
        /// What the kernel said.
        #[source]
        source: errno::Error,
    },
    /// KVM took only some of the MSRs.
    #[error("vcpu{vcpu}: MSR {msr:#x} cannot be {action} on this host")]
    Msr {
        /// Number of the vCPU.
        vcpu: u8,
        /// The first one it did not take.
        msr: u32,
        /// "read" or "written".
        action: &'static str,
    },
    /// The configuration asks for what cannot be.
    #[error("{key} = {value}: {remedy}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        remedy: String,
    },
    /// The hardware has lost a page of guest memory, and this program worked on it before it knew.
    #[error(
        "a page of guest memory is lost to a hardware error, and something was already made of what is in its place"
    )]
    MemoryVoid,
    /// There is not enough memory.
    #[error("{mib} MiB of guest memory cannot be had: free some memory or lower memory_mib")]
    Memory {
        /// Asked for.
        mib: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file of the guest cannot be read.
    #[error("{key} = {path:?}: {source}; it must be a file that can be read")]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The kernel or the initial RAM disk.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The guest cannot be booted from a file.
    #[error("{key} = {path:?}: {reason}")]
    Boot {
        /// The setting that names it.
        key: &'static str,
        /// The kernel or the initial RAM disk.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A network card cannot be made.
    #[error("nic{index}: {source}")]
    Net {
        /// Its number.
        index: usize,
        /// Why not.
        source: NetError,
    },
    /// A disk cannot be made.
    #[error("disk{index}: {source}")]
    Disk {
        /// Its number.
        index: usize,
        /// Why not.
        source: DiskError,
    },
    /// The console cannot be made.
    #[error("console: {0}")]
    Console(SinkError),
    /// Out of file descriptors or threads.
    #[error("{what} cannot be made")]
    Resource {
        /// What is missing.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A run of pages that the guest does not have.
    #[error("pages {first} to {first}+{count} are not in a guest of {pages} pages")]
    NoSuchPages {
        /// The first one.
        first: u64,
        /// How many.
        count: u64,
        /// Of the guest.
        pages: u64,
    },
    /// The data for a run of pages has another length.
    #[error("{bytes} bytes were given for {count} pages")]
    PageData {
        /// Length of the data.
        bytes: usize,
        /// Pages to be written.
        count: u64,
    },
    /// A vCPU did not stop.
    #[error("vcpu{vcpu} did not leave the guest within {limit:?}")]
    Stuck {
        /// Its number.
        vcpu: usize,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Something was asked of a running machine that can only be done to a paused one.
    #[error("{0}: the machine is running; pause it first")]
    Running(&'static str),
    /// The state it was born with cannot be loaded.
    #[error("the machine cannot be reset")]
    Reset(#[source] Box<LoadError>),
}

/// Why saved state was not loaded, or did not read back as it was.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It was damaged or made by another program.
    #[error("the saved state cannot be decoded: {0}")]
    Malformed(String),
    /// It holds a part that this machine does not have.
    #[error("the saved state has a part {section} that this machine knows nothing of")]
    Unknown {
        /// Kind and instance.
        section: String,
    },
    /// It lacks a part.
    #[error("the saved state has no part {section}")]
    Missing {
        /// Kind and instance.
        section: String,
    },
    /// A part is of another version.
    #[error("{section}: saved state has version {version}, this program knows version {known}")]
    Version {
        /// Kind and instance.
        section: String,
        /// Of the state.
        version: u16,
        /// Known here.
        known: u16,
    },
    /// The hosts' time stamp counters have different frequencies.
    #[error(
        "the guest was made for a TSC of {saved} kHz, and that of this host has {host} kHz: the hosts cannot be a pair"
    )]
    TscFrequency {
        /// Of the saved state.
        saved: u32,
        /// Of this host.
        host: u32,
    },
    /// A device refused its part.
    #[error(transparent)]
    Device(#[from] StateError),
    /// This host refused it.
    #[error("this host refuses the state: {0}")]
    Refused(#[from] Error),
    /// What was loaded did not read back.
    #[error("loaded state does not read back equal on this host: {}", .0.join(", "))]
    ReadBack(Vec<String>),
}
