//! Records on their way in.

use std::io::{self, Read};

use super::noise::{self, Noise, PLAIN_MAX_BYTES, SEALED_MAX_BYTES};

/// Read from the socket at once: a few records, so that small ones do not cost a system call each.
const READ_BYTES: usize = 4 * (SEALED_MAX_BYTES + 2);

/// Bytes from the socket, and the plaintext of the record in hand. Nothing is allocated before the peer has proved itself.
#[derive(Default)]
pub(super) struct Inbox {
    wire: Vec<u8>,
    wire_start: usize,
    wire_end: usize,
    plain: Vec<u8>,
    plain_start: usize,
    plain_end: usize,
}

impl Inbox {
    /// What is left of the record in hand.
    pub(super) fn plaintext(&self) -> &[u8] {
        &self.plain[self.plain_start..self.plain_end]
    }

    /// Takes bytes off the front of it.
    pub(super) fn consume(&mut self, count: usize) {
        self.plain_start += count;
    }

    /// Decrypts the next record, once the one in hand is consumed. Returns whether there was one.
    pub(super) fn next_record(&mut self, stream: &mut impl Read, noise: &mut Noise) -> io::Result<bool> {
        debug_assert!(self.plaintext().is_empty());
        loop {
            let arrived = &self.wire[self.wire_start..self.wire_end];
            if let Some((length, rest)) = arrived.split_first_chunk::<2>()
                && let Some(sealed) = rest.get(..usize::from(u16::from_be_bytes(*length)))
            {
                self.plain.resize(PLAIN_MAX_BYTES, 0);
                self.plain_start = 0;
                self.plain_end = noise.open(sealed, &mut self.plain)?;
                self.wire_start += 2 + sealed.len();
                return Ok(true);
            }
            self.wire.copy_within(self.wire_start..self.wire_end, 0);
            self.wire_end -= self.wire_start;
            self.wire_start = 0;
            self.wire.resize(READ_BYTES, 0);
            match noise::read(stream, &mut self.wire[self.wire_end..])? {
                Some(count) => self.wire_end += count,
                None => return Ok(false),
            }
        }
    }
}
