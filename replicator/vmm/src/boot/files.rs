//! What a boot reads from files: it must be the same on both hosts, since the guest may be reset on either.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{INITRD, KERNEL, unreadable};
use crate::{Error, MachineConfig};

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What is in the files of a boot, as far as it takes to tell that it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) kernel: Content,
    pub(crate) initrd: Option<Content>,
}

/// Length and checksum of some content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    bytes: u64,
    crc32c: u32,
}

impl Files {
    /// Reads them.
    pub(crate) fn read(config: &MachineConfig) -> Result<Files, Error> {
        let read = |key, path: &Path| Content::read(path).map_err(unreadable(key, path));
        Ok(Files {
            kernel: read(KERNEL, &config.kernel)?,
            initrd: config.initrd.as_deref().map(|initrd| read(INITRD, initrd)).transpose()?,
        })
    }
}

impl Content {
    /// That of some text.
    pub(crate) fn of(text: &str) -> Content {
        let mut content = Content::default();
        content.append(text.as_bytes());
        content
    }

    fn read(path: &Path) -> io::Result<Content> {
        let (mut file, mut content) = (File::open(path)?, Content::default());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(content),
                Ok(bytes) => content.append(&piece[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn append(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, piece);
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes (crc32c {:08x})", self.bytes, self.crc32c)
    }
}
