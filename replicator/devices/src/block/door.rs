//! What a disk is made of, what it counts, and why it cannot be made.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// How to make a [`Disk`](crate::Disk).
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// What the guest is told as serial number: at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What becomes of a request that fails.
    pub on_error: OnDiskError,
    /// In how many seconds the host must finish a request that it has begun; none waits for as long as it takes.
    pub timeout_s: Option<u32>,
}

/// What becomes of a request that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDiskError {
    /// The guest is told, and does what it does about a disk with an error.
    #[default]
    Report,
    /// It stays unanswered, and the guest stands still until it succeeds.
    Pause,
    /// The same; meanwhile the standby is to take over, which does the request on its own host.
    Failover,
}

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To bring what was written to stable storage.
    Flush,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFailure {
    /// The kernel said so.
    Errno(i32),
    /// The image ends before what is asked for.
    Short,
    /// The host has not finished it in time. If it had begun it, it may still do it.
    Overdue {
        /// The time, in seconds.
        timeout_s: u32,
    },
}

impl DiskFailure {
    pub(super) fn of(error: &io::Error) -> DiskFailure {
        error.raw_os_error().map_or(DiskFailure::Short, DiskFailure::Errno)
    }
}

impl fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskFailure::Errno(errno) => write!(f, "failed: {}", io::Error::from_raw_os_error(*errno)),
            DiskFailure::Short => f.write_str("failed: the image ends before"),
            DiskFailure::Overdue { timeout_s } => write!(f, "is not done after {timeout_s} s"),
        }
    }
}

/// A request that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFault {
    /// The disk's image.
    pub path: PathBuf,
    /// What was asked for.
    pub operation: DiskOperation,
    /// Of which bytes; empty for a flush.
    pub range: Range<u64>,
    /// What is wrong with it.
    pub failure: DiskFailure,
    /// What becomes of it.
    pub on_error: OnDiskError,
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiskFault { path, operation, range, failure, .. } = self;
        write!(f, "disk {}: ", path.display())?;
        match operation {
            DiskOperation::Read => write!(f, "read of {} bytes at {}", range.end - range.start, range.start)?,
            DiskOperation::Write => write!(f, "write of {} bytes at {}", range.end - range.start, range.start)?,
            DiskOperation::Flush => f.write_str("flush")?,
        }
        write!(f, " {failure}")
    }
}

/// Tells images apart, whatever their names: a file by its inode, a block device by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageId {
    is_device: bool,
    device: u64,
    inode: u64,
}

impl ImageId {
    pub(super) fn of(metadata: &Metadata) -> ImageId {
        let is_device = metadata.file_type().is_block_device();
        let (device, inode) = if is_device { (metadata.rdev(), 0) } else { (metadata.dev(), metadata.ino()) };
        ImageId { is_device, device, inode }
    }
}

/// The images of one guest's disks, none of them twice.
#[derive(Debug, Default)]
pub struct Images(Vec<(ImageId, PathBuf)>);

impl Images {
    /// Adds one.
    ///
    /// # Errors
    /// It is there already, by this name or by another.
    pub fn add(&mut self, id: ImageId, path: &Path) -> Result<(), DiskError> {
        if let Some((_, other)) = self.0.iter().find(|(known, _)| *known == id) {
            return Err(DiskError::Twice { path: path.to_owned(), other: other.clone() });
        }
        self.0.push((id, path.to_owned()));
        Ok(())
    }
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
    /// Two disks of one guest.
    #[error("disk {path} is the same as {other}; each disk needs an image of its own")]
    Twice {
        /// Its path.
        path: PathBuf,
        /// The path of the other.
        other: PathBuf,
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
