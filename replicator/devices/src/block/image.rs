//! The file or block device behind a disk.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DiskError, ImageId, SECTOR_BYTES};

/// An open image. Its page cache is never used: with O_DIRECT a completed write is on the storage that both nodes share, not in
/// the memory of the node that may die.
///
/// It is not locked. Both nodes have it open all the time, so that a promotion need not wait for it; which of them writes is
/// decided by the generation that the cluster granted, and enforced by fencing, which no lock of one host's kernel could replace.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) block_bytes: u32,
    pub(super) id: ImageId,
}

impl Image {
    /// Opens an image without reading from it.
    pub(super) fn open(path: &Path, read_only: bool) -> Result<Image, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        is_disk(path, &std::fs::metadata(path).map_err(failed)?)?;
        let mut file =
            File::options().read(true).write(!read_only).custom_flags(libc::O_DIRECT).open(path).map_err(|source| {
                // open(2): EINVAL is how a filesystem refuses O_DIRECT.
                match source.raw_os_error() {
                    Some(libc::EINVAL) => DiskError::NoDirectIo { path: path.to_owned() },
                    _ => failed(source),
                }
            })?;
        let metadata = file.metadata().map_err(failed)?;
        is_disk(path, &metadata)?;
        let block_bytes =
            block_bytes(&file, &metadata).ok_or_else(|| DiskError::NoDirectIo { path: path.to_owned() })?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if bytes == 0 || !bytes.is_multiple_of(u64::from(block_bytes)) {
            return Err(DiskError::Size { path: path.to_owned(), bytes, block_bytes });
        }
        Ok(Image { file, bytes, block_bytes, id: ImageId::of(&metadata) })
    }
}

fn is_disk(path: &Path, metadata: &Metadata) -> Result<(), DiskError> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() { Ok(()) } else { Err(DiskError::NotADisk { path: path.to_owned() }) }
}

/// The unit in which O_DIRECT reads and writes; `None` if the kernel says that it cannot.
fn block_bytes(file: &File, metadata: &Metadata) -> Option<u32> {
    let unit = match direct_io_alignment(file) {
        Some(0) => return None,
        Some(unit) => unit,
        None => {
            let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
            // A filesystem without a device of its own may want more; then the guest's requests fail, and are reported.
            logical_block_bytes(device).unwrap_or(SECTOR_BYTES as u32)
        }
    };
    Some(unit.max(SECTOR_BYTES as u32))
}

/// What statx says, since Linux 6.1 and for filesystems that know.
fn direct_io_alignment(file: &File) -> Option<u32> {
    // SAFETY: an all-zero `statx` is a valid one: it has nothing but integers.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string, `status` a `statx` to be written.
    let result = unsafe {
        let empty = c"".as_ptr();
        libc::statx(file.as_raw_fd(), empty, libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut status)
    };
    (result == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0).then_some(status.stx_dio_offset_align)
}

/// What sysfs says of a block device, or of the one that a partition is on.
fn logical_block_bytes(device: u64) -> Option<u32> {
    let directory = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    let read = |file: &str| -> io::Result<String> { std::fs::read_to_string(directory.join(file)) };
    let text = read("queue/logical_block_size").or_else(|_| read("../queue/logical_block_size")).ok()?;
    text.trim().parse().ok()
}
