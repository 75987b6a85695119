//! A directory for the site's files, on a filesystem that takes O_DIRECT.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};

use tempfile::TempDir;

use crate::SiteError;

/// Size and alignment that every block device takes.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Makes a directory that goes away with the value.
///
/// TMPDIR comes first, being the operator's word. Then /var/tmp, which survives reboots (hier(7)) and is therefore on a disk,
/// before /tmp, which is often a tmpfs: that refuses O_DIRECT before Linux 6.6, and afterwards takes it without meaning it.
pub(crate) fn directory() -> Result<TempDir, SiteError> {
    let wish = std::env::var_os("TMPDIR").map(PathBuf::from);
    let mut tried = Vec::new();
    for parent in wish.into_iter().chain(["/var/tmp".into(), "/tmp".into(), ".".into()]) {
        // Absolute, as the paths in a configuration must be.
        let made =
            path::absolute(&parent).and_then(|parent| tempfile::Builder::new().prefix("kemari-").tempdir_in(parent));
        match made.and_then(|directory| takes_direct_io(directory.path()).map(|()| directory)) {
            Ok(directory) => return Ok(directory),
            Err(error) => tried.push(format!("{}: {error}", parent.display())),
        }
    }
    Err(SiteError::NoDirectory { tried: tried.join("; ") })
}

/// Some filesystems take the flag and fail the first write, so one is tried.
fn takes_direct_io(directory: &Path) -> io::Result<()> {
    let path = directory.join("probe");
    let file =
        OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(&path)?;
    let written = file.write_all_at(&Block([0; 4096]).0, 0);
    std::fs::remove_file(&path)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_there_and_goes_away() {
        let directory = directory().expect("some filesystem here takes O_DIRECT");
        let path = directory.path().to_owned();
        assert!(path.is_dir());
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_filesystem_without_direct_io_is_noticed() {
        // procfs and sysfs take no files at all, let alone O_DIRECT.
        assert!(takes_direct_io(Path::new("/proc")).is_err());
    }
}
