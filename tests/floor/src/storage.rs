//! Stable storage: a block that is there after a power cut.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::error::Error;
use crate::memory::PAGE;
use crate::sample::{Effort, best_median_us, timed};

/// A pwrite of a page to a file of two with O_DSYNC, in the directory for temporary files: nothing but the block changes, so
/// that the filesystem has nothing to note.
pub(crate) fn write_through_us(effort: Effort) -> Result<f64, Error> {
    let path = std::env::temp_dir().join(format!("kemari-floor.{}", std::process::id()));
    let options = OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DSYNC).clone();
    let file = options.open(&path).map_err(Error::of("open of a temporary file"))?;
    // It goes with its descriptor.
    std::fs::remove_file(&path).map_err(Error::of("unlink of a temporary file"))?;
    let write = |page: usize| file.write_all_at(&[b'x'; PAGE], (page % 2 * PAGE) as u64);
    let failed = "pwrite to a file opened with O_DSYNC";
    (0..2).try_for_each(write).map_err(Error::of(failed))?;
    let mut page = 0;
    best_median_us(effort.long, || {
        page += 1;
        timed(|| write(page).map_err(Error::of(failed)))
    })
}
