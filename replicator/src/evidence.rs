//! What this node was doing: a small file beside the control socket that outlives the process, however it ends.
//!
//! After a failover it answers the operator's first question, what was on its way when the primary died. The numbers go to
//! the page cache with one `pwrite`, so a killed process leaves its last ones; a dead host leaves nothing, which is why nothing
//! is ever decided by them. `/run` is a tmpfs: on a disk even that `pwrite` may wait for the journal, and the event loop with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file's name is that of the control socket with this extension.
const EXTENSION: &str = "evidence";

const MAGIC: [u8; 8] = *b"KEMEVID1";
const FIELDS: usize = 10;

/// One look at a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The epoch in progress; 0 on a standby.
    pub epoch: u64,
    /// The newest epoch known to be committed on the standby, in this or an earlier generation; 0 if none is.
    pub committed_epoch: u64,
    /// Network frames held.
    pub held_frames: u64,
    /// Disk writes and flushes held.
    pub held_writes: u64,
    /// Console outputs held.
    pub held_console: u64,
    /// Bytes of everything held.
    pub held_bytes: u64,
    /// Disk writes and flushes handed to the host and not completed.
    pub disk_writes: u64,
    /// Checkpoints sent, or on their way, and not acknowledged.
    pub checkpoints_in_flight: u64,
    /// Bytes of them, encoded.
    pub transfer_bytes: u64,
    /// How many of those this process has not yet given to the kernel.
    pub unsent_bytes: u64,
}

impl Evidence {
    fn fields(&self) -> [u64; FIELDS] {
        [
            self.epoch,
            self.committed_epoch,
            self.held_frames,
            self.held_writes,
            self.held_console,
            self.held_bytes,
            self.disk_writes,
            self.checkpoints_in_flight,
            self.transfer_bytes,
            self.unsent_bytes,
        ]
    }

    /// What the last process with this control socket has left.
    ///
    /// # Errors
    /// The file is missing, or is no evidence.
    pub fn read(control: &Path) -> io::Result<Evidence> {
        let mut bytes = [0; 8 * (FIELDS + 1)];
        File::open(control.with_extension(EXTENSION))?.read_exact_at(&mut bytes, 0)?;
        let (words, _) = bytes.as_chunks::<8>();
        if words[0] != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an evidence file"));
        }
        let field = |index: usize| u64::from_le_bytes(words[index + 1]);
        Ok(Evidence {
            epoch: field(0),
            committed_epoch: field(1),
            held_frames: field(2),
            held_writes: field(3),
            held_console: field(4),
            held_bytes: field(5),
            disk_writes: field(6),
            checkpoints_in_flight: field(7),
            transfer_bytes: field(8),
            unsent_bytes: field(9),
        })
    }
}

/// Writes the [`Evidence`] of this process.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    path: PathBuf,
    last: Option<Evidence>,
}

impl Recorder {
    /// Makes the file beside the control socket, or takes the one that is there.
    ///
    /// # Errors
    /// The file cannot be opened for writing.
    pub fn open(control: &Path) -> io::Result<Recorder> {
        let path = control.with_extension(EXTENSION);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        Ok(Recorder { file, path, last: None })
    }

    /// Replaces what was recorded. A full disk is logged once and is no reason to stop a guest.
    pub fn record(&mut self, evidence: Evidence) {
        if self.last == Some(evidence) {
            return;
        }
        let mut bytes = [0; 8 * (FIELDS + 1)];
        bytes[..8].copy_from_slice(&MAGIC);
        for (place, field) in bytes[8..].chunks_exact_mut(8).zip(evidence.fields()) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        if let Err(error) = self.file.write_all_at(&bytes, 0)
            && self.last.is_none()
        {
            log::warn!("{}: {error}; nothing is recorded there", self.path.display());
        }
        self.last = Some(evidence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_last_is_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let control = directory.path().join("web.sock");
        let mut recorder = Recorder::open(&control).expect("writable");
        recorder.record(Evidence { epoch: 1, ..Evidence::default() });
        let last = Evidence {
            epoch: 2,
            committed_epoch: 3,
            held_frames: 4,
            held_writes: 5,
            held_console: 6,
            held_bytes: 7,
            disk_writes: 8,
            checkpoints_in_flight: 9,
            transfer_bytes: 10,
            unsent_bytes: 11,
        };
        recorder.record(last);
        drop(recorder);
        assert_eq!(Evidence::read(&control).expect("just written"), last);
    }

    #[test]
    fn other_files_are_no_evidence() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let control = directory.path().join("web.sock");
        assert!(Evidence::read(&control).is_err());
        std::fs::write(control.with_extension(EXTENSION), [7; 200]).expect("writable");
        assert!(Evidence::read(&control).is_err());
    }
}
