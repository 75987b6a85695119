//! Memory that O_DIRECT accepts.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// No device asks for more (`queue/dma_alignment` is at most a page).
const ALIGNMENT: usize = 4096;

/// Bytes that begin at a page boundary.
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    /// So many zeros.
    pub(super) fn zeroed(bytes: usize) -> Buffer {
        if bytes == 0 {
            return Buffer { memory: Vec::new(), start: 0, bytes };
        }
        // The vector is never resized, so its memory stays where it is.
        let memory = vec![0; bytes + ALIGNMENT - 1];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, bytes }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}
