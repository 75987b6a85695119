//! A checkpoint's content, as both sides sum it up.

use crate::Chunk;
use crate::limits::STATE_FRAME_BYTES;

/// The state, cut into what fits a frame.
pub(crate) fn pieces(state: &[u8]) -> impl Iterator<Item = &[u8]> {
    state.chunks(STATE_FRAME_BYTES)
}

/// Sums up a checkpoint as its frames come: a crc32c over the crc32c of each, so that every byte is summed once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u32);

impl Sum {
    pub(crate) fn pages(&mut self, chunk: &Chunk) {
        self.add(chunk.checksum());
    }

    pub(crate) fn state(&mut self, piece: &[u8]) {
        self.add(crc32c::crc32c(piece));
    }

    fn add(&mut self, checksum: u32) {
        self.0 = crc32c::crc32c_append(self.0, &checksum.to_le_bytes());
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

/// The checksum of a whole checkpoint: its pages, then its state.
pub(crate) fn checksum(chunks: &[Chunk], state: &[u8]) -> u32 {
    let mut sum = Sum::default();
    chunks.iter().for_each(|chunk| sum.pages(chunk));
    pieces(state).for_each(|piece| sum.state(piece));
    sum.value()
}
