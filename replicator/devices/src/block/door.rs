//! What a disk is made of, what it counts, and why it cannot be made.

use std::io;
use std::path::PathBuf;

/// How to make a [`Disk`](crate::Disk).
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// What the guest is told as serial number: at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Counters of a [`Disk`](crate::Disk), since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Writes and flushes taken from the guest and not released.
    pub held: u64,
    /// Reads that wait for a held write of the same sectors.
    pub waiting_reads: u64,
    /// Writes and flushes handed to the I/O thread and not completed.
    pub writes_in_flight: u64,
    /// Reads handed to the I/O thread and not completed.
    pub reads_in_flight: u64,
    /// Requests completed.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Requests completed.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Requests completed.
    pub flushes: u64,
    /// Requests that failed or were refused.
    pub errors: u64,
}

/// Why a [`Disk`](crate::Disk) cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image.
    #[error("disk {path} cannot be opened")]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory, a socket or the like.
    #[error("disk {path} is neither a regular file nor a block device")]
    NotADisk {
        /// Its path.
        path: PathBuf,
    },
    /// O_DIRECT does not work there.
    #[error(
        "disk {path} is on a filesystem without direct I/O (O_DIRECT), without which a completed write could be lost with this \
         host's memory; put it on a block device, ext4 or xfs"
    )]
    NoDirectIo {
        /// Its path.
        path: PathBuf,
    },
    /// Nothing, or not whole blocks.
    #[error(
        "disk {path} has {bytes} bytes, and must have a multiple of {block_bytes} and at least one of them; set its size \
         with: truncate -s BYTES {path}"
    )]
    Size {
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The unit of direct I/O there.
        block_bytes: u32,
    },
    /// The serial number.
    #[error("serial number {serial:?} of disk {path} is not 1 to 20 printable ASCII characters")]
    Serial {
        /// Path of the disk.
        path: PathBuf,
        /// What was given.
        serial: String,
    },
    /// Out of file descriptors or threads.
    #[error("disk {path} cannot be served")]
    Start {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
